// Weight transforms and sizes that no instruction set changes.
#include <algorithm>

#include "device/cpu/conv.h"
#include "device/cpu/scalar.h"

namespace atelier {
namespace {

template <class T>
void sum_phases_of(const T* w, int64_t planes, float* phases, const Parallel& parallel) {
  parallel_for(parallel, planes, [=](int64_t begin, int64_t end) {
    for (int64_t plane = begin; plane < end; ++plane) {
      const T* taps = w + plane * 9;
      for (int phase = 0; phase < 4; ++phase) {
        float* out = phases + (phase * planes + plane) * 4;
        std::fill_n(out, 4, 0.F);
        const int row_parity = phase / 2, column_parity = phase % 2;
        // Tap t of output parity p reads small pixel floor((p + t - 1) / 2), which is tap
        // (p + t + 1) / 2 - p of the 2x2 kernel.
        for (int row = 0; row < 3; ++row) {
          for (int column = 0; column < 3; ++column) {
            const int i = (row_parity + row + 1) / 2 - row_parity;
            const int j = (column_parity + column + 1) / 2 - column_parity;
            out[i * 2 + j] += widen(taps[row * 3 + column]);
          }
        }
      }
    }
  });
}

}  // namespace

int64_t conv_output_size(const CpuConv& layer, int64_t size) {
  const int64_t padded = (layer.upsample ? 2 * size : size) + layer.pad_begin + layer.pad_end;
  return (padded - layer.kernel) / layer.stride + 1;
}

void sum_phase_weights(const CpuWeights& weights, int64_t outputs, int64_t inputs, float* phases,
                       const Parallel& parallel) {
  const int64_t planes = outputs * inputs;
  switch (weights.type) {
    case CpuType::fp32:
      return sum_phases_of(static_cast<const float*>(weights.data), planes, phases, parallel);
    case CpuType::bf16:
      return sum_phases_of(static_cast<const Bf16*>(weights.data), planes, phases, parallel);
    case CpuType::fp16:
      return sum_phases_of(static_cast<const Fp16*>(weights.data), planes, phases, parallel);
  }
}

}  // namespace atelier
