// The kernels of the portable table, which any processor runs.
#pragma once

#include "device/cpu/kernels.h"

namespace atelier::portable {

int64_t packed_kv_bytes(const CpuAttention& shape);
void pack_kv(const CpuAttention& shape, const CpuHeads& k, const CpuHeads& v, void* packed,
             const Parallel& parallel);
void attend(const CpuAttention& shape, const CpuHeads& q, const void* packed, const CpuMask& mask,
            const CpuHeads& out, const Parallel& parallel);

void group_norm(const CpuGroupNorm& run, const Parallel& parallel);
void layer_norm(const CpuLayerNorm& run, const Parallel& parallel);
void rms_norm(const CpuRmsNorm& run, const Parallel& parallel);
void geglu(const CpuGeglu& run, const Parallel& parallel);
void activate(const CpuActivate& run, const Parallel& parallel);
void upsample2(const CpuUpsample& run, const Parallel& parallel);
void interleave_phases(const CpuUpsample& run, const Parallel& parallel);

extern const CpuKernels kKernels;

}  // namespace atelier::portable
