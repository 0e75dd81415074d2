// Blocks of 256 whose groups have scales of their own: Q2_K to Q6_K, Q8_K.
#pragma once

#include "quant/codec/block.h"

namespace atelier {

struct BlockQ2_K {
  static constexpr Encoding kEncoding = Encoding::q2_k;
  static constexpr int kElements = 256, kBytes = 84, kGroup = 16, kRun = 32;
  ATELIER_HOST_DEVICE static float scale(const uint8_t* b, int group) {
    return load_half(b + 80) * static_cast<float>(b[group] & 15);
  }
  ATELIER_HOST_DEVICE static float offset(const uint8_t* b, int group) {
    return -(load_half(b + 82) * static_cast<float>(b[group] >> 4));
  }
  ATELIER_HOST_DEVICE static int code(const uint8_t* b, int run, int j) {
    return b[16 + 32 * (run / 4) + j] >> (2 * (run % 4)) & 3;
  }
};

/// 32 bytes of third bits, 64 of lower bits, 12 of 6-bit scales, an fp16 scale.
struct BlockQ3_K {
  static constexpr Encoding kEncoding = Encoding::q3_k;
  static constexpr int kElements = 256, kBytes = 110, kGroup = 16, kRun = 32;
  ATELIER_HOST_DEVICE static float scale(const uint8_t* b, int group) {
    const uint8_t* s = b + 96;
    const int low = s[group % 8] >> (4 * (group / 8)) & 15;
    const int high = s[8 + group % 4] >> (2 * (group / 4)) & 3;
    return load_half(b + 108) * static_cast<float>((low | high << 4) - 32);
  }
  ATELIER_HOST_DEVICE static int code(const uint8_t* b, int run, int j) {
    return (b[32 + 32 * (run / 4) + j] >> (2 * (run % 4)) & 3) + (b[j] >> run & 1) * 4 - 4;
  }
};

/// The 6-bit scale and minimum of a group among 12 bytes, as Q4_K and Q5_K hold them.
ATELIER_HOST_DEVICE inline int packed_scale(const uint8_t* s, int group) {
  return group < 4 ? s[group] & 63 : (s[group + 4] & 15) | s[group - 4] >> 6 << 4;
}
ATELIER_HOST_DEVICE inline int packed_minimum(const uint8_t* s, int group) {
  return group < 4 ? s[group + 4] & 63 : s[group + 4] >> 4 | s[group] >> 6 << 4;
}

struct BlockQ4_K {
  static constexpr Encoding kEncoding = Encoding::q4_k;
  static constexpr int kElements = 256, kBytes = 144, kGroup = 32, kRun = 32;
  ATELIER_HOST_DEVICE static float scale(const uint8_t* b, int group) {
    return load_half(b) * static_cast<float>(packed_scale(b + 4, group));
  }
  ATELIER_HOST_DEVICE static float offset(const uint8_t* b, int group) {
    return -(load_half(b + 2) * static_cast<float>(packed_minimum(b + 4, group)));
  }
  ATELIER_HOST_DEVICE static int code(const uint8_t* b, int run, int j) {
    return b[16 + 32 * (run / 2) + j] >> (4 * (run % 2)) & 15;
  }
};

struct BlockQ5_K {
  static constexpr Encoding kEncoding = Encoding::q5_k;
  static constexpr int kElements = 256, kBytes = 176, kGroup = 32, kRun = 32;
  ATELIER_HOST_DEVICE static float scale(const uint8_t* b, int group) {
    return BlockQ4_K::scale(b, group);
  }
  ATELIER_HOST_DEVICE static float offset(const uint8_t* b, int group) {
    return BlockQ4_K::offset(b, group);
  }
  ATELIER_HOST_DEVICE static int code(const uint8_t* b, int run, int j) {
    return (b[48 + 32 * (run / 2) + j] >> (4 * (run % 2)) & 15) | (b[16 + j] >> run & 1) << 4;
  }
};

/// 128 bytes of lower four bits, 64 of upper two, 16 scales, an fp16 scale.
struct BlockQ6_K {
  static constexpr Encoding kEncoding = Encoding::q6_k;
  static constexpr int kElements = 256, kBytes = 210, kGroup = 16, kRun = 32;
  ATELIER_HOST_DEVICE static float scale(const uint8_t* b, int group) {
    return load_half(b + 208) * static_cast<float>(load_int8(b + 192 + group));
  }
  ATELIER_HOST_DEVICE static int code(const uint8_t* b, int run, int j) {
    const int half = run / 4, quarter = run % 4;
    const int low = b[64 * half + 32 * (quarter % 2) + j] >> (quarter < 2 ? 0 : 4) & 15;
    return (low | (b[128 + 32 * half + j] >> (2 * quarter) & 3) << 4) - 32;
  }
};

/// An fp32 scale, 256 codes, and sums of the codes for products.
struct BlockQ8_K {
  static constexpr Encoding kEncoding = Encoding::q8_k;
  static constexpr int kElements = 256, kBytes = 292, kGroup = 256, kRun = 32;
  ATELIER_HOST_DEVICE static float scale(const uint8_t* b, int) {
    return float_from_bits(load32(b));
  }
  ATELIER_HOST_DEVICE static int code(const uint8_t* b, int run, int j) {
    return load_int8(b + 4 + 32 * run + j);
  }
};

}  // namespace atelier
