// Linear layers multiplied as 8-bit integers, on processors with instructions for it.
//
// Weights are rounded to integers from -127 to 127 under a scale for each output (its largest
// magnitude becomes 127), rows of x under a scale for each row while the layer runs. Sums are exact
// in int32; scales, bias, epilogue and residual are fp32 as in the other linear kernels. A row with
// an infinity or NaN gives NaN; one with no magnitude above 1e-30 counts as zero.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "device/cpu/features.h"
#include "device/cpu/linear.h"
#include "device/cpu/parallel.h"
#include "device/cpu/types.h"

namespace atelier {

/// One set of instructions. Layers have no tail.
struct CpuInt8Kernels {
  std::string_view name;  // of the instructions
  bool (*supported)(const CpuLinear& layer);
  int64_t (*weight_bytes)(const CpuLinear& layer);
  void (*pack)(const CpuLinear& layer, const CpuWeights& weights, void* packed,
               const Parallel& parallel);
  void (*linear)(const CpuLinear& layer, const CpuLinearRun& run, const Parallel& parallel);
};

/// The fastest that `features` and the instruction set `cpu_kernels(features, wanted)` chooses
/// allow; nullptr if there is none. Throws as `cpu_kernels`. The table lives as long as the
/// program.
const CpuInt8Kernels* cpu_int8_kernels(const CpuFeatures& features,
                                       std::optional<CpuIsa> wanted = {});

/// All that this build has for some processor, by the names of the processor flags they need.
std::string cpu_int8_needs();

}  // namespace atelier
