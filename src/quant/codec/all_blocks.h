// Every block encoding, and the one way to read a few elements that processors and GPUs share.
#pragma once

#include "quant/codec/blocks_fp4.h"
#include "quant/codec/blocks_iq.h"
#include "quant/codec/blocks_k.h"
#include "quant/codec/blocks_legacy.h"
#include "quant/codec/blocks_ternary.h"

namespace atelier {

template <class... Block>
struct BlockList {};

using AllBlocks =
    BlockList<BlockQ4_0, BlockQ4_1, BlockQ5_0, BlockQ5_1, BlockQ8_0, BlockQ8_1, BlockQ2_K,
              BlockQ3_K, BlockQ4_K, BlockQ5_K, BlockQ6_K, BlockQ8_K, BlockIQ1_S, BlockIQ1_M,
              BlockIQ2_XXS, BlockIQ2_XS, BlockIQ2_S, BlockIQ3_XXS, BlockIQ3_S, BlockIQ4_NL,
              BlockIQ4_XS, BlockTQ1_0, BlockTQ2_0, BlockQ1_0, BlockQ2_0, BlockMXFP4, BlockNVFP4>;

template <class Block>
concept HasOffset = requires(const uint8_t* b) { Block::offset(b, 0); };
template <class Block>
concept HasSigns = requires(const uint8_t* b) { Block::signs8(b, 0); };
template <class Block>
concept InWords = requires(const uint8_t* b) { Block::codes8(b, 0); };
template <class Block>
concept LooksUp = requires { Block::lookup(); };

/// The eight elements of the block `b` from `first`, a multiple of eight, on: one thread's share of
/// a GPU kernel, and what the processors' vectors are compared with. Any NaN becomes 0x7fc00000.
template <class Block>
ATELIER_HOST_DEVICE inline void decode_octet(const uint8_t* b, int first, float* values) {
  const float scale = Block::scale(b, first / Block::kGroup);
  uint64_t word = 0;
  if constexpr (HasSigns<Block>) {
    word = apply_signs(Block::magnitudes8(b, first / 8), Block::signs8(b, first / 8));
  } else if constexpr (InWords<Block>) {
    word = Block::codes8(b, first / 8);
  }
  for (int j = 0; j < 8; ++j) {
    int code = 0;
    if constexpr (HasSigns<Block> || InWords<Block>) {
      code = static_cast<int8_t>(word >> (8 * j) & 0xff);
    } else {
      code = Block::code(b, first / Block::kRun, first % Block::kRun + j);
    }
    if constexpr (LooksUp<Block>) code = Block::lookup()[code];
    float value = scale * static_cast<float>(code);
    if constexpr (HasOffset<Block>) value += Block::offset(b, first / Block::kGroup);
    values[j] = value != value ? float_from_bits(0x7fc00000u) : value;
  }
}

}  // namespace atelier
