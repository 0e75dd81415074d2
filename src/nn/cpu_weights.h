// Weights as kernels read and keep them: what cpu.cpp and cpu_forms.cpp share.
#pragma once

#include "device/cpu/int8.h"
#include "device/cpu/kernels.h"
#include "device/torch_parallel.h"
#include "memory/weight.h"
#include "nn/cpu.h"

namespace atelier::nn::cpu {

inline const TorchParallel kParallel;

/// Those of this processor; of 8-bit integers there may be none.
const CpuKernels& kernels();
const CpuInt8Kernels* int8_kernels();

/// Operands as kernels read them while packing: where they lie, or decoded a few rows at a time.
class PackedFrom final : public CpuWeightReader {
 public:
  /// What the file has not as floats comes as `wanted`.
  PackedFrom(const Operands& operands, CpuType wanted);
  CpuWeights weights() const;
  void read(int64_t first, int64_t count, void* to) const override;

 private:
  const Operands& operands_;
  at::ScalarType dtype_;
  Tensor joined_;
};

/// `layer` with a tail of `rank` inputs in `ranges`, which must outlive the result.
CpuLinear with_tail(CpuLinear layer, int64_t rank, std::span<const TailRange> ranges);

/// A contiguous tensor of fp32, fp16 or bf16 as kernels read it.
CpuWeights weights_of(const Tensor& stored);

}  // namespace atelier::nn::cpu
