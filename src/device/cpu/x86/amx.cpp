// Kernels for processors with AMX: bf16 on tiles, everything else on AVX-512.
#include "device/cpu/portable/portable.h"
#include "device/cpu/x86/amx/attention.h"
#include "device/cpu/x86/amx/conv.h"
#include "device/cpu/x86/amx/linear.h"
#include "device/cpu/x86/simd/attention.h"
#include "device/cpu/x86/simd/conv.h"
#include "device/cpu/x86/simd/elementwise.h"
#include "device/cpu/x86/simd/norms.h"
#include "device/cpu/x86/tables.h"

namespace atelier {
namespace {
namespace chosen {

int64_t packed_kv_bytes(const CpuAttention& s) {
  if (s.type == CpuType::fp32) return atelier::packed_kv_bytes(s);
  return tiled::packed_kv_bytes(s);
}
void pack_kv(const CpuAttention& s, const CpuHeads& k, const CpuHeads& v, void* packed,
             const Parallel& parallel) {
  s.type == CpuType::fp32 ? atelier::pack_kv(s, k, v, packed, parallel)
                          : tiled::pack_kv(s, k, v, packed, parallel);
}
void attend(const CpuAttention& s, const CpuHeads& q, const void* packed, const CpuMask& mask,
            const CpuHeads& out, const Parallel& parallel) {
  s.type == CpuType::fp32 ? atelier::attend(s, q, packed, mask, out, parallel)
                          : tiled::attend(s, q, packed, mask, out, parallel);
}

int64_t linear_weight_bytes(const CpuLinear& layer) {
  return layer.type == CpuType::fp32 ? atelier::linear_weight_bytes(layer)
                                     : tiled::linear_weight_bytes(layer);
}
void pack_linear(const CpuLinear& layer, const CpuWeights& weights, void* packed,
                 const Parallel& parallel) {
  layer.type == CpuType::fp32 ? atelier::pack_linear(layer, weights, packed, parallel)
                              : tiled::pack_linear(layer, weights, packed, parallel);
}
void linear(const CpuLinear& layer, const CpuLinearRun& run, const Parallel& parallel) {
  layer.type == CpuType::fp32 ? atelier::linear(layer, run, parallel)
                              : tiled::linear(layer, run, parallel);
}

CpuConvMethod conv_method(const CpuConv& layer) {
  if (layer.type == CpuType::fp32) return atelier::conv_method(layer);
  return tiled::conv_supported(layer) ? CpuConvMethod::direct : CpuConvMethod::library;
}
int64_t conv_weight_bytes(const CpuConv& layer) {
  return layer.type == CpuType::fp32 ? atelier::conv_weight_bytes(layer)
                                     : tiled::conv_weight_bytes(layer);
}
void pack_conv(const CpuConv& layer, const CpuWeights& weights, void* packed,
               const Parallel& parallel) {
  layer.type == CpuType::fp32 ? atelier::pack_conv(layer, weights, packed, parallel)
                              : tiled::pack_conv(layer, weights, packed, parallel);
}
int64_t conv_scratch_bytes(const CpuConv& layer, const CpuPicture& input, int threads) {
  return layer.type == CpuType::fp32 ? atelier::conv_scratch_bytes(layer, input, threads)
                                     : tiled::conv_scratch_bytes(layer, input, threads);
}
void conv(const CpuConv& layer, const CpuConvRun& run, const Parallel& parallel) {
  layer.type == CpuType::fp32 ? atelier::conv(layer, run, parallel)
                              : tiled::conv(layer, run, parallel);
}

}  // namespace chosen
}  // namespace

const CpuKernels kAmxKernels{
    .isa = CpuIsa::amx,
    .packed_kv_bytes = chosen::packed_kv_bytes,
    .pack_kv = chosen::pack_kv,
    .attend = chosen::attend,
    .linear_supported = linear_supported,
    .linear_weight_bytes = chosen::linear_weight_bytes,
    .pack_linear = chosen::pack_linear,
    .linear = chosen::linear,
    .conv_method = chosen::conv_method,
    .conv_weight_bytes = chosen::conv_weight_bytes,
    .pack_conv = chosen::pack_conv,
    .conv_scratch_bytes = chosen::conv_scratch_bytes,
    .conv = chosen::conv,
    .group_norm = group_norm,
    .layer_norm = layer_norm,
    .geglu = geglu,
    .activate = activate,
    .upsample2 = upsample2,
    .interleave_phases = interleave_phases,
};

}  // namespace atelier
