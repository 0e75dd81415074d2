// Kernels for processors with AMX: bf16 on tiles, everything else on AVX-512.
#include "device/cpu/portable/portable.h"
#include "device/cpu/x86/amx/attention.h"
#include "device/cpu/x86/avx512/attention.h"
#include "device/cpu/x86/avx512/elementwise.h"
#include "device/cpu/x86/avx512/norms.h"
#include "device/cpu/x86/avx512/winograd.h"
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

}  // namespace chosen
}  // namespace

const CpuKernels kAmxKernels{
    .isa = CpuIsa::amx,
    .packed_kv_bytes = chosen::packed_kv_bytes,
    .pack_kv = chosen::pack_kv,
    .attend = chosen::attend,
    .linear_supported = portable::no_linear,
    .linear_weight_bytes = portable::no_linear_bytes,
    .pack_linear = portable::no_pack_linear,
    .linear = portable::no_linear_run,
    .conv_method = conv_method,
    .conv_weight_bytes = conv_weight_bytes,
    .pack_conv = pack_conv,
    .conv_scratch_bytes = conv_scratch_bytes,
    .conv = conv,
    .group_norm = group_norm,
    .layer_norm = layer_norm,
    .geglu = geglu,
    .activate = activate,
    .upsample2 = upsample2,
    .interleave_phases = interleave_phases,
};

}  // namespace atelier
