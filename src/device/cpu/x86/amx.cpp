// Kernels for processors with AMX: products on tiles, fp32 attention and the rest on AVX-512; and
// linear layers as 8-bit integers for those whose tiles multiply these.
#include "device/cpu/portable/portable.h"
#include "device/cpu/x86/amx/attention.h"
#include "device/cpu/x86/amx/conv.h"
#include "device/cpu/x86/amx/linear.h"
#include "device/cpu/x86/amx/linear_int8.h"
#include "device/cpu/x86/simd/attention.h"
#include "device/cpu/x86/simd/elementwise.h"
#include "device/cpu/x86/simd/linear_rows.h"
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

CpuConvMethod conv_method(const CpuConv& layer) {
  return tiled::conv_supported(layer) ? CpuConvMethod::direct : CpuConvMethod::library;
}

}  // namespace chosen
}  // namespace

const CpuKernels kAmxKernels{
    .isa = CpuIsa::amx,
    .packed_kv_bytes = chosen::packed_kv_bytes,
    .pack_kv = chosen::pack_kv,
    .attend = chosen::attend,
    .linear_supported = tiled::linear_supported,
    .linear_weight_bytes = tiled::linear_weight_bytes,
    .pack_linear = tiled::pack_linear,
    .pack_linear_tail = tiled::pack_linear_tail,
    .linear = tiled::linear,
    .linear_unpacked = linear_unpacked,
    .conv_method = chosen::conv_method,
    .conv_weight_bytes = tiled::conv_weight_bytes,
    .pack_conv = tiled::pack_conv,
    .conv_scratch_bytes = tiled::conv_scratch_bytes,
    .conv = tiled::conv,
    .group_norm = group_norm,
    .layer_norm = layer_norm,
    .rms_norm = rms_norm,
    .geglu = geglu,
    .activate = activate,
    .upsample2 = upsample2,
    .interleave_phases = interleave_phases,
};

const CpuInt8Kernels kAmxInt8Kernels{
    .name = "amx_int8",
    .supported = tiled::int8_supported,
    .weight_bytes = tiled::int8_weight_bytes,
    .pack = tiled::pack_int8,
    .linear = tiled::linear_int8,
};

}  // namespace atelier
