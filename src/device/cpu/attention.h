// Arguments of the attention kernels: softmax(scale q k^T + mask) v, head by head.
//
// Shapes: B batch, H heads, N queries, M keys, D head size.
#pragma once

#include <cstdint>

#include "device/cpu/types.h"

namespace atelier {

/// One attention. Any B, H, N, M, D >= 1. Keys and values are packed once, into memory aligned to
/// 64 bytes, and can serve many calls with other queries; only `queries` and `causal` may then
/// differ.
struct CpuAttention {
  CpuType type;  // of q, k, v and the output
  int64_t batch, heads, queries, keys, head_size;
  float scale;  // usually 1 / sqrt(head_size)
  bool causal = false;  // query i sees keys 0..i
};

/// A strided view [B][N or M][H][D] of q, k, v or the output; the D numbers of a head are
/// contiguous. Strides are in elements, so that parts of fused QKV rows need no copy.
struct CpuHeads {
  void* data;
  int64_t batch_stride, row_stride, head_stride;
};

/// fp32 numbers [B][H][N][M] added to the scaled scores; -infinity hides a key. A stride of 0
/// broadcasts, `data == nullptr` means no mask. A query that sees no key gives zeros.
struct CpuMask {
  const float* data = nullptr;
  int64_t batch_stride = 0, head_stride = 0, query_stride = 0;
};

}  // namespace atelier
