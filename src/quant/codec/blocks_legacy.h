// Blocks of 32 with an fp16 scale: Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q8_1.
#pragma once

#include "quant/codec/block.h"

namespace atelier {

struct BlockQ4_0 {
  static constexpr Encoding kEncoding = Encoding::q4_0;
  static constexpr int kElements = 32, kBytes = 18, kGroup = 32, kRun = 16;
  ATELIER_HOST_DEVICE static float scale(const uint8_t* b, int) { return load_half(b); }
  ATELIER_HOST_DEVICE static int code(const uint8_t* b, int run, int j) {
    return (b[2 + j] >> (4 * run) & 15) - 8;
  }
};

struct BlockQ4_1 {
  static constexpr Encoding kEncoding = Encoding::q4_1;
  static constexpr int kElements = 32, kBytes = 20, kGroup = 32, kRun = 16;
  ATELIER_HOST_DEVICE static float scale(const uint8_t* b, int) { return load_half(b); }
  ATELIER_HOST_DEVICE static float offset(const uint8_t* b, int) { return load_half(b + 2); }
  ATELIER_HOST_DEVICE static int code(const uint8_t* b, int run, int j) {
    return b[4 + j] >> (4 * run) & 15;
  }
};

/// Codes 8 run to 8 run + 7: nibbles of 16 bytes under a fifth bit.
ATELIER_HOST_DEVICE inline uint64_t five_bits(const uint8_t* nibbles, unsigned fifth, int run) {
  const uint64_t low = load64(nibbles + 8 * (run % 2)) >> (4 * (run / 2)) & 0x0f0f0f0f0f0f0f0fULL;
  return low | bits_as_bytes(fifth) << 4;
}

struct BlockQ5_0 {
  static constexpr Encoding kEncoding = Encoding::q5_0;
  static constexpr int kElements = 32, kBytes = 22, kGroup = 32, kRun = 8;
  ATELIER_HOST_DEVICE static float scale(const uint8_t* b, int) { return load_half(b); }
  ATELIER_HOST_DEVICE static uint64_t codes8(const uint8_t* b, int run) {
    // x + 112 with the upper bit turned over is x - 16.
    return (five_bits(b + 6, b[2 + run], run) + 0x7070707070707070ULL) ^ 0x8080808080808080ULL;
  }
};

struct BlockQ5_1 {
  static constexpr Encoding kEncoding = Encoding::q5_1;
  static constexpr int kElements = 32, kBytes = 24, kGroup = 32, kRun = 8;
  ATELIER_HOST_DEVICE static float scale(const uint8_t* b, int) { return load_half(b); }
  ATELIER_HOST_DEVICE static float offset(const uint8_t* b, int) { return load_half(b + 2); }
  ATELIER_HOST_DEVICE static uint64_t codes8(const uint8_t* b, int run) {
    return five_bits(b + 8, b[4 + run], run);
  }
};

struct BlockQ8_0 {
  static constexpr Encoding kEncoding = Encoding::q8_0;
  static constexpr int kElements = 32, kBytes = 34, kGroup = 32, kRun = 32;
  ATELIER_HOST_DEVICE static float scale(const uint8_t* b, int) { return load_half(b); }
  ATELIER_HOST_DEVICE static int code(const uint8_t* b, int, int j) { return load_int8(b + 2 + j); }
};

/// The second fp16 is the scaled sum of the codes, for products.
struct BlockQ8_1 {
  static constexpr Encoding kEncoding = Encoding::q8_1;
  static constexpr int kElements = 32, kBytes = 36, kGroup = 32, kRun = 32;
  ATELIER_HOST_DEVICE static float scale(const uint8_t* b, int) { return load_half(b); }
  ATELIER_HOST_DEVICE static int code(const uint8_t* b, int, int j) { return load_int8(b + 4 + j); }
};

}  // namespace atelier
