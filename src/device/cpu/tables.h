// The tables of kernels in this build and what each needs of a processor.
#pragma once

#include <span>

#include "device/cpu/int8.h"
#include "device/cpu/kernels.h"

namespace atelier {

struct CpuTable {
  const CpuKernels* kernels;
  bool (*runs_on)(const CpuFeatures& features);
};

/// All tables of the build, slowest first, the portable one always among them.
std::span<const CpuTable> cpu_tables();

/// Kernels for 8-bit integers: for a processor with the flag, from the instruction set `least` on.
struct CpuInt8Table {
  const CpuInt8Kernels* kernels;
  CpuIsa least;
  bool CpuFeatures::* flag;
};

/// All of the build, slowest first.
std::span<const CpuInt8Table> cpu_int8_tables();

}  // namespace atelier
