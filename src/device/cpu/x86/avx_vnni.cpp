// Linear layers as 8-bit integers with AVX-VNNI: vectors of 8 words.
#include "device/cpu/x86/simd/linear_int8.h"
#include "device/cpu/x86/tables.h"

namespace atelier {

const CpuInt8Kernels kAvxVnniKernels{
    .name = "avx_vnni",
    .supported = int8_supported,
    .weight_bytes = int8_weight_bytes,
    .pack = pack_int8,
    .linear = linear_int8,
};

}  // namespace atelier
