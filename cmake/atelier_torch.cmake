# libtorch as the torch wheel ships it, used without its CMake package: that one insists on a CUDA
# toolkit when the wheel is a CUDA build, although the CPU half needs none.
#
# ATELIER_TORCH (cache or environment) names a libtorch folder or an installed torch package;
# otherwise the wheel in .venv is used. Defines atelier_use_torch(target).
if(NOT ATELIER_TORCH AND NOT "$ENV{ATELIER_TORCH}" STREQUAL "")
  file(REAL_PATH "$ENV{ATELIER_TORCH}" ATELIER_TORCH BASE_DIRECTORY ${CMAKE_SOURCE_DIR} EXPAND_TILDE)
endif()
if(NOT ATELIER_TORCH)
  file(GLOB found ${CMAKE_SOURCE_DIR}/.venv/lib/python3*/site-packages/torch)
  if(found)
    list(GET found 0 ATELIER_TORCH)
  endif()
endif()
if(NOT EXISTS ${ATELIER_TORCH}/include/ATen/ATen.h)
  message(FATAL_ERROR "libtorch not found (looked in '${ATELIER_TORCH}'). Run tools/setup.sh, or set ATELIER_TORCH to a libtorch folder.")
endif()

# The wheel carries headers of other libraries, too (fmt, ...), which must not hide the system's.
file(MAKE_DIRECTORY ${CMAKE_BINARY_DIR}/torch_include)
foreach(folder ATen c10 torch caffe2)
  file(CREATE_LINK ${ATELIER_TORCH}/include/${folder} ${CMAKE_BINARY_DIR}/torch_include/${folder}
       SYMBOLIC)
endforeach()

add_library(atelier_torch INTERFACE)
target_include_directories(atelier_torch SYSTEM INTERFACE ${CMAKE_BINARY_DIR}/torch_include)
target_link_directories(atelier_torch INTERFACE ${ATELIER_TORCH}/lib)
target_link_options(atelier_torch INTERFACE
  -Wl,-rpath,${ATELIER_TORCH}/lib -Wl,--allow-shlib-undefined)
target_link_libraries(atelier_torch INTERFACE torch_cpu c10 Threads::Threads)
# at::parallel_for runs in the calling thread alone unless the caller is compiled with OpenMP. The
# runtime must be the one libtorch brings along, or two pools of threads would compete.
target_compile_options(atelier_torch INTERFACE -fopenmp)
file(GLOB omp ${ATELIER_TORCH}/lib/libgomp*.so* ${ATELIER_TORCH}.libs/libgomp*.so*
     ${ATELIER_TORCH}/../torch.libs/libgomp*.so*)
if(omp)
  list(GET omp 0 omp)
  target_link_libraries(atelier_torch INTERFACE ${omp})
else()
  target_link_libraries(atelier_torch INTERFACE gomp)
endif()
if(EXISTS ${ATELIER_TORCH}/lib/libtorch_cuda.so)
  # Loaded by name only, so that its operators register themselves.
  target_link_libraries(atelier_torch INTERFACE -Wl,--no-as-needed torch_cuda c10_cuda -Wl,--as-needed)
endif()

# One precompiled ATen header, shared by every target that uses libtorch.
file(CONFIGURE OUTPUT ${CMAKE_BINARY_DIR}/torch_pch.cpp CONTENT "")
add_library(atelier_torch_pch OBJECT ${CMAKE_BINARY_DIR}/torch_pch.cpp)
target_link_libraries(atelier_torch_pch PRIVATE atelier_torch)
target_precompile_headers(atelier_torch_pch PRIVATE <ATen/ATen.h>)

function(atelier_use_torch target)
  get_target_property(type ${target} TYPE)
  if(type STREQUAL "EXECUTABLE")
    target_link_libraries(${target} PRIVATE atelier_torch)
    # -fPIE would not match the precompiled header, which is built with -fPIC.
    set_target_properties(${target} PROPERTIES POSITION_INDEPENDENT_CODE OFF)
    target_compile_options(${target} PRIVATE -fPIC)
  else()
    target_link_libraries(${target} PUBLIC atelier_torch)
  endif()
  target_precompile_headers(${target} REUSE_FROM atelier_torch_pch)
endfunction()
