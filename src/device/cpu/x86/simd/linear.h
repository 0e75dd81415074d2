// Linear layers of fp32 and bf16 on register tiles (linear_kernel.h).
#pragma once

#include "device/cpu/x86/simd/linear_kernel.h"
#include "device/cpu/x86/simd/linear_rows.h"

namespace atelier {
namespace {

/// Calls body(LinearKernel<T>) for the layer's type.
template <class F>
auto with_linear(const CpuLinear& layer, const F& body) {
  return layer.type == CpuType::fp32 ? body(LinearKernel<float>(layer))
                                     : body(LinearKernel<Bf16>(layer));
}

bool linear_supported(const CpuLinear& layer) {
  return layer.epilogue != CpuEpilogue::geglu || layer.outputs % 2 == 0;
}
int64_t linear_weight_bytes(const CpuLinear& layer) {
  return with_linear(layer, [](const auto& kernel) { return kernel.weight_bytes(); });
}
int64_t linear_scratch_bytes(const CpuLinear& layer, int64_t rows, int threads) {
  return with_linear(layer,
                     [=](const auto& kernel) { return kernel.scratch_bytes(rows, threads); });
}
template <class T>
void pack_range(const LinearKernel<T>& kernel, const InputWords& range, const CpuWeights& weights,
                void* packed, const Parallel& parallel) {
  for_weights(weights, range.inputs, kPanel, kernel.panels(), parallel,
              [&](const auto& rows, int64_t panel) {
                kernel.pack(range, rows, panel, static_cast<char*>(packed));
              });
}
void pack_linear(const CpuLinear& layer, const CpuWeights& weights, void* packed,
                 const Parallel& parallel) {
  with_linear(layer, [&](const auto& kernel) {
    pack_range(kernel, kernel.main(), weights, packed, parallel);
  });
}
void pack_linear_tail(const CpuLinear& layer, const CpuWeights& weights, void* packed,
                      const Parallel& parallel) {
  with_linear(layer, [&](const auto& kernel) {
    pack_range(kernel, kernel.tail(), weights, packed, parallel);
  });
}
void linear(const CpuLinear& layer, const CpuLinearRun& run, const Parallel& parallel) {
  with_linear(layer, [&](const auto& kernel) { kernel.run(run, parallel); });
}

}  // namespace
}  // namespace atelier
