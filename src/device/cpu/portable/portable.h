// The kernels of the portable table, which any processor runs.
#pragma once

#include "device/cpu/kernels.h"

namespace atelier::portable {

int64_t packed_kv_bytes(const CpuAttention& shape);
void pack_kv(const CpuAttention& shape, const CpuHeads& k, const CpuHeads& v, void* packed,
             const Parallel& parallel);
void attend(const CpuAttention& shape, const CpuHeads& q, const void* packed, const CpuMask& mask,
            const CpuHeads& out, const Parallel& parallel);

bool no_linear(const CpuLinear& layer);
int64_t no_linear_bytes(const CpuLinear& layer);
void no_pack_linear(const CpuLinear& layer, const CpuWeights& weights, void* packed,
                    const Parallel& parallel);
void no_linear_run(const CpuLinear& layer, const CpuLinearRun& run, const Parallel& parallel);

CpuConvMethod no_conv(const CpuConv& layer);
int64_t no_conv_bytes(const CpuConv& layer);
void no_pack_conv(const CpuConv& layer, const CpuWeights& weights, void* packed,
                  const Parallel& parallel);
int64_t no_conv_scratch(const CpuConv& layer, const CpuPicture& input, int threads);
void no_conv_run(const CpuConv& layer, const CpuConvRun& run, const Parallel& parallel);

void group_norm(const CpuGroupNorm& run, const Parallel& parallel);
void layer_norm(const CpuLayerNorm& run, const Parallel& parallel);
void geglu(const CpuGeglu& run, const Parallel& parallel);
void activate(const CpuActivate& run, const Parallel& parallel);
void upsample2(const CpuUpsample& run, const Parallel& parallel);
void interleave_phases(const CpuUpsample& run, const Parallel& parallel);

extern const CpuKernels kKernels;

}  // namespace atelier::portable
