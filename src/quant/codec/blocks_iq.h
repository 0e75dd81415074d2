// Blocks of 256 whose codes are points of a grid: IQ1_S to IQ3_S. A run is one point of eight
// numbers or two of four.
#pragma once

#include "quant/codec/grids.h"

namespace atelier {

/// Per group of 32: four indices, then four times seven signs and a 4-bit scale.
struct BlockIQ2_XXS {
  static constexpr Encoding kEncoding = Encoding::iq2_xxs;
  static constexpr int kElements = 256, kBytes = 66, kGroup = 32, kRun = 8;
  ATELIER_HOST_DEVICE static float scale(const uint8_t* b, int group) {
    const uint32_t s = load32(b + 6 + 8 * group) >> 28;
    return load_half(b) * (0.5f + static_cast<float>(s)) * 0.25f;
  }
  ATELIER_HOST_DEVICE static uint64_t magnitudes8(const uint8_t* b, int run) {
    return ATELIER_POINT(kIq2Xxs, iq2_magnitudes, b[2 + 8 * (run / 4) + run % 4]);
  }
  ATELIER_HOST_DEVICE static unsigned signs8(const uint8_t* b, int run) {
    return even_signs(load32(b + 6 + 8 * (run / 4)) >> (7 * (run % 4)));
  }
};

/// Nine bits of index and seven signs in each word, then 4-bit scales.
struct BlockIQ2_XS {
  static constexpr Encoding kEncoding = Encoding::iq2_xs;
  static constexpr int kElements = 256, kBytes = 74, kGroup = 16, kRun = 8;
  ATELIER_HOST_DEVICE static float scale(const uint8_t* b, int group) {
    const int s = b[66 + group / 2] >> (4 * (group % 2)) & 15;
    return load_half(b) * (0.5f + static_cast<float>(s)) * 0.25f;
  }
  ATELIER_HOST_DEVICE static uint64_t magnitudes8(const uint8_t* b, int run) {
    return ATELIER_POINT(kIq2Xs, iq2_magnitudes, load16(b + 2 + 2 * run) & 511);
  }
  ATELIER_HOST_DEVICE static unsigned signs8(const uint8_t* b, int run) {
    return even_signs(static_cast<uint32_t>(b[3 + 2 * run]) >> 1);
  }
};

/// Lower bits of the indices, signs, upper two bits, 4-bit scales.
struct BlockIQ2_S {
  static constexpr Encoding kEncoding = Encoding::iq2_s;
  static constexpr int kElements = 256, kBytes = 82, kGroup = 16, kRun = 8;
  ATELIER_HOST_DEVICE static float scale(const uint8_t* b, int group) {
    const int s = b[74 + group / 2] >> (4 * (group % 2)) & 15;
    return load_half(b) * (0.5f + static_cast<float>(s)) * 0.25f;
  }
  ATELIER_HOST_DEVICE static uint64_t magnitudes8(const uint8_t* b, int run) {
    const int index = b[2 + run] | (b[66 + run / 4] >> (2 * (run % 4)) & 3) << 8;
    return ATELIER_POINT(kIq2S, iq2_magnitudes, index);
  }
  ATELIER_HOST_DEVICE static unsigned signs8(const uint8_t* b, int run) { return b[34 + run]; }
};

/// 64 indices, then per group four times seven signs and a 4-bit scale.
struct BlockIQ3_XXS {
  static constexpr Encoding kEncoding = Encoding::iq3_xxs;
  static constexpr int kElements = 256, kBytes = 98, kGroup = 32, kRun = 8;
  ATELIER_HOST_DEVICE static float scale(const uint8_t* b, int group) {
    const uint32_t s = load32(b + 66 + 4 * group) >> 28;
    return load_half(b) * (0.5f + static_cast<float>(s)) * 0.5f;
  }
  ATELIER_HOST_DEVICE static uint64_t magnitudes8(const uint8_t* b, int run) {
    const uint64_t low = ATELIER_POINT(kIq3Xxs, iq3_xxs_magnitudes, b[2 + 2 * run]);
    const uint64_t high = ATELIER_POINT(kIq3Xxs, iq3_xxs_magnitudes, b[3 + 2 * run]);
    return low | high << 32;
  }
  ATELIER_HOST_DEVICE static unsigned signs8(const uint8_t* b, int run) {
    return even_signs(load32(b + 66 + 4 * (run / 4)) >> (7 * (run % 4)));
  }
};

/// Lower bits of 64 indices, their ninth bits, signs, 4-bit scales.
struct BlockIQ3_S {
  static constexpr Encoding kEncoding = Encoding::iq3_s;
  static constexpr int kElements = 256, kBytes = 110, kGroup = 32, kRun = 8;
  ATELIER_HOST_DEVICE static float scale(const uint8_t* b, int group) {
    const int s = b[106 + group / 2] >> (4 * (group % 2)) & 15;
    return load_half(b) * static_cast<float>(1 + 2 * s);
  }
  ATELIER_HOST_DEVICE static uint64_t magnitudes8(const uint8_t* b, int run) {
    const int ninth = b[66 + run / 4] >> (2 * (run % 4));
    const int first = b[2 + 2 * run] | (ninth & 1) << 8, second = b[3 + 2 * run] | (ninth & 2) << 7;
    const uint64_t low = ATELIER_POINT(kIq3S, iq3_s_magnitudes, first);
    const uint64_t high = ATELIER_POINT(kIq3S, iq3_s_magnitudes, second);
    return low | high << 32;
  }
  ATELIER_HOST_DEVICE static unsigned signs8(const uint8_t* b, int run) { return b[74 + run]; }
};

/// Lower bits of the indices; per group a word of upper bits, 3-bit scale and sign of the delta.
struct BlockIQ1_S {
  static constexpr Encoding kEncoding = Encoding::iq1_s;
  static constexpr int kElements = 256, kBytes = 50, kGroup = 32, kRun = 8;
  ATELIER_HOST_DEVICE static float scale(const uint8_t* b, int group) {
    const int s = load16(b + 34 + 2 * group) >> 12 & 7;
    return load_half(b) * (static_cast<float>(2 * s + 1) * 0.125f);
  }
  ATELIER_HOST_DEVICE static uint64_t codes8(const uint8_t* b, int run) {
    const int word = load16(b + 34 + 2 * (run / 4));
    const int index = b[2 + run] | (word >> (3 * (run % 4)) & 7) << 8;
    return iq1_codes(ATELIER_POINT(kIq1, iq1_numbers, index), (word & 0x8000) != 0);
  }
};

/// As IQ1_S, with a delta per point; four words hold 3-bit scales and, on top, the fp16 scale.
struct BlockIQ1_M {
  static constexpr Encoding kEncoding = Encoding::iq1_m;
  static constexpr int kElements = 256, kBytes = 56, kGroup = 16, kRun = 8;
  ATELIER_HOST_DEVICE static float scale(const uint8_t* b, int group) {
    int bits = 0;
    for (int i = 0; i < 4; ++i) bits |= load16(b + 48 + 2 * i) >> 12 << (4 * i);
    const int s = load16(b + 48 + 2 * (group / 4)) >> (3 * (group % 4)) & 7;
    const float factor = static_cast<float>(2 * s + 1) * 0.125f;
    return half_to_float(static_cast<uint16_t>(bits)) * factor;
  }
  ATELIER_HOST_DEVICE static uint64_t codes8(const uint8_t* b, int run) {
    const int upper = b[32 + run / 2] >> (4 * (run % 2));
    const int index = b[run] | (upper & 7) << 8;
    return iq1_codes(ATELIER_POINT(kIq1, iq1_numbers, index), (upper & 8) != 0);
  }
};

}  // namespace atelier
