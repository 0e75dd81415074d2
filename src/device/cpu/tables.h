// The tables of kernels in this build and what each needs of a processor.
#pragma once

#include <span>

#include "device/cpu/kernels.h"

namespace atelier {

struct CpuTable {
  const CpuKernels* kernels;
  bool (*runs_on)(const CpuFeatures& features);
};

/// All tables of the build, slowest first, the portable one always among them.
std::span<const CpuTable> cpu_tables();

}  // namespace atelier
