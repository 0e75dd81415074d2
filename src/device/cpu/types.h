// The words the CPU kernels' arguments share. Plain data without inline functions: translation
// units compiled for different instruction sets include it.
#pragma once

#include <cstdint>

namespace atelier {

/// Instruction sets with kernels of their own, slowest first.
enum class CpuIsa : uint8_t {
  portable,  // any processor
  avx2,  // with FMA and F16C; bf16 is only a storage form
  avx512,  // F, BW, DQ, VL; bf16 is only a storage form
  avx512_bf16,  // with native bf16 products
  amx,  // with bf16 tiles, VBMI and all of the above
};

/// How numbers are stored. Activations are fp32 or bf16; fp16 occurs only in weights to be packed.
enum class CpuType : uint8_t { fp32, bf16, fp16 };

/// What is applied to x, in fp32: gelu is 0.5 x (1 + erf(x / sqrt 2)), gelu_tanh its usual
/// approximation, quick_gelu x sigmoid(1.702 x), silu x sigmoid(x).
enum class CpuActivation : uint8_t { none, gelu, gelu_tanh, quick_gelu, silu };

/// Weights made when they are asked for, such as quantised ones. Any thread.
class CpuWeightReader {
 public:
  /// Writes outputs [first, first + count) to `to`, in the type of the CpuWeights.
  virtual void read(int64_t first, int64_t count, void* to) const = 0;

 protected:
  ~CpuWeightReader() = default;
};

/// Dense weights as a checkpoint has them, in any storage type: [outputs][inputs][kernel][kernel];
/// lying at `data`, or where that is null by `reader`.
struct CpuWeights {
  CpuType type;
  const void* data;
  const CpuWeightReader* reader = nullptr;
};

}  // namespace atelier
