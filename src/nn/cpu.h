// The engine's own CPU kernels on tensors. Layers ask here first, then oneDNN, then ATen.
//
// Packed weights are byte tensors, so that a pinned weight's dtype tells who runs it. Activations
// are fp32 or bf16; `Tensor` results are new unless a comment says otherwise.
#pragma once

#include <ATen/core/Tensor.h>

#include <optional>
#include <string_view>
#include <vector>

#include "device/cpu/int8.h"
#include "device/cpu/kernels.h"
#include "memory/weight.h"
#include "nn/rope.h"

namespace atelier::nn::cpu {

using at::Tensor;

/// The kernels' name for a dtype, if they compute in it.
std::optional<CpuType> compute_type(at::ScalarType dtype);
/// Whether the kernels take activations like `x`: fp32 or bf16 on the CPU.
bool takes(const Tensor& x);
bool takes(const Compute& compute);
inline bool is_packed(const Tensor& weight) { return weight.scalar_type() == at::kByte; }

/// The layer as kernels know it, if they have a fast path for it.
std::optional<CpuLinear> linear_layer(const Compute& compute, int64_t in, int64_t out,
                                      CpuEpilogue epilogue);
/// Whether the layer of these matrices is to be multiplied so: the compute asks for it, all are
/// Q8_0, and there are kernels.
bool multiplies_int8(const CpuLinear& layer, const std::vector<Weight>& weights);
std::optional<CpuConv> conv_layer(const Compute& compute, CpuConv layer);

/// Joined operands [out, in] or [out, in, k, k], packed; low-rank patches of quantised matrices as
/// the tail of the layer, or where it is multiplied as 8-bit integers merged before these are made.
Form linear_form(const CpuLinear& layer);
Form conv_form(const CpuConv& layer);

/// A 3x3 kernel [O, C, 3, 3] as the four 2x2 kernels of doubling before it: [4 O, C, 2, 2] fp32.
Tensor phase_weights(const Operands& operands);

/// x [..., in] -> [..., out], out halved by geglu. `weight` is of `linear_form`, `bias` fp32 or
/// undefined.
Tensor linear(const CpuLinear& layer, const Tensor& x, const Pin& weight, const Tensor& bias);
/// The same with a matrix as it is stored, for few rows.
Tensor linear_unpacked(const CpuLinear& layer, const Tensor& x, const Operands& matrix,
                       const Tensor& bias);
/// x [..., in] fp32 times a matrix [out, in] of fp32, fp16 or bf16, contiguous -> [..., out] fp32;
/// for few rows.
Tensor few_rows(const Tensor& x, const Tensor& matrix);
/// y += linear(x), y [..., out] contiguous.
void linear_add(const CpuLinear& layer, Tensor& y, const Tensor& x, const Pin& weight,
                const Tensor& bias);

/// x [B, in, H, W] -> [B, out, H', W'], channels-last. `bias` fp32 [out] or [B, out], or undefined.
Tensor conv(const CpuConv& layer, const Tensor& x, const Tensor& packed, const Tensor& bias);
void conv_add(const CpuConv& layer, Tensor& y, const Tensor& x, const Tensor& packed,
              const Tensor& bias);

struct GroupNormArguments {
  int64_t groups;
  double eps;
  Tensor weight, bias;  // fp32
  bool silu;
};
/// norm(x), or norm(x joined with skip); `joined` receives the latter's input if not null.
Tensor group_norm(const GroupNormArguments& norm, const Tensor& x, const Tensor& skip,
                  Tensor* joined);
/// The same in the memory of a channels-last x.
void group_norm_in_place(const GroupNormArguments& norm, Tensor& x);
Tensor layer_norm(const Tensor& x, const Tensor& weight, const Tensor& bias, double eps);
/// y = x / sqrt(mean(x^2) + eps) * weight for each run of C = weight's numbers (fp32) in the rows
/// of x and y [B, L, H C], with contiguous channels and dtypes of their own; then turned by `rope`.
void rms_norm_to(Tensor& y, const Tensor& x, const Tensor& weight, double eps,
                 const Rope* rope = nullptr);

/// x [..., 2C] -> [..., C]: the first half times gelu of the second.
Tensor geglu(const Tensor& x);
/// activation(x), in place on a contiguous x.
void activate(Tensor& x, CpuActivation activation);
/// y = activation(x) of [..., C] with contiguous channels, parts of wider rows perhaps.
void activate_to(Tensor& y, const Tensor& x, CpuActivation activation);
/// Nearest-neighbour doubling [B, C, H, W] -> [B, C, 2H, 2W].
Tensor upsample2(const Tensor& x);
/// [B, 4C, H + 1, W + 1] of a 2x2 convolution with summed phase weights -> [B, C, 2H, 2W].
Tensor interleave_phases(const Tensor& x);

/// Keys and values made ready for any number of queries.
struct PackedKeys {
  Tensor bytes;
  int64_t batch, keys, heads, head_size;
  float scale;  // of the scores
};
/// k, v [B, M, heads * D] with contiguous channels. Without `scale`, 1 / sqrt(D).
PackedKeys pack_keys(const Tensor& k, const Tensor& v, int64_t heads,
                     std::optional<double> scale = {});
/// q [B, N, heads * D] -> the same, contiguous. `mask` undefined or broadcastable to
/// [B, heads, N, M].
Tensor attend(const Tensor& q, const PackedKeys& keys, const Tensor& mask, bool causal);
/// The same into y of q's sizes and dtype, with contiguous channels.
void attend_to(Tensor& y, const Tensor& q, const PackedKeys& keys, const Tensor& mask, bool causal);

}  // namespace atelier::nn::cpu
