// The tables of a build for processors without kernels of their own.
#include "device/cpu/portable/portable.h"
#include "device/cpu/tables.h"

namespace atelier {

std::span<const CpuTable> cpu_tables() {
  static constexpr CpuTable kTables[] = {
      {&portable::kKernels, [](const CpuFeatures&) { return true; }},
  };
  return kTables;
}

std::span<const CpuInt8Table> cpu_int8_tables() { return {}; }

}  // namespace atelier
