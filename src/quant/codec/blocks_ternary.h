// Minus one, zero, one under an fp16 scale: TQ1_0 (five in a byte), TQ2_0 (four in a byte), Q2_0
// (with two besides), and Q1_0 (without zero, eight in a byte).
#pragma once

#include "quant/codec/block.h"

namespace atelier {

/// Digit `n` of a byte that holds the fraction x / 243 of 256, x being five base-3 digits.
ATELIER_HOST_DEVICE inline int base3_digit(uint8_t byte, int n) {
  const int power = n == 0 ? 1 : n == 1 ? 3 : n == 2 ? 9 : n == 3 ? 27 : 81;
  return static_cast<uint8_t>(byte * power) * 3 >> 8;
}

/// Runs 0 to 9 lie in 32 bytes, 10 to 14 in the next 16, the last, four times four, in the last 4.
struct BlockTQ1_0 {
  static constexpr Encoding kEncoding = Encoding::tq1_0;
  static constexpr int kElements = 256, kBytes = 54, kGroup = 256, kRun = 16;
  ATELIER_HOST_DEVICE static float scale(const uint8_t* b, int) { return load_half(b + 52); }
  ATELIER_HOST_DEVICE static int code(const uint8_t* b, int run, int j) {
    if (run < 10) return base3_digit(b[run % 2 * 16 + j], run / 2) - 1;
    if (run < 15) return base3_digit(b[32 + j], run - 10) - 1;
    return base3_digit(b[48 + j % 4], j / 4) - 1;
  }
};

struct BlockTQ2_0 {
  static constexpr Encoding kEncoding = Encoding::tq2_0;
  static constexpr int kElements = 256, kBytes = 66, kGroup = 256, kRun = 32;
  ATELIER_HOST_DEVICE static float scale(const uint8_t* b, int) { return load_half(b + 64); }
  ATELIER_HOST_DEVICE static int code(const uint8_t* b, int run, int j) {
    return (b[32 * (run / 4) + j] >> (2 * (run % 4)) & 3) - 1;
  }
};

/// An fp16 scale, then a bit for each element from the lowest on: plus where it is set, else minus.
struct BlockQ1_0 {
  static constexpr Encoding kEncoding = Encoding::q1_0;
  static constexpr int kElements = 128, kBytes = 18, kGroup = 128, kRun = 8;
  ATELIER_HOST_DEVICE static float scale(const uint8_t* b, int) { return load_half(b); }
  ATELIER_HOST_DEVICE static uint64_t magnitudes8(const uint8_t*, int) {
    return 0x0101010101010101;
  }
  ATELIER_HOST_DEVICE static unsigned signs8(const uint8_t* b, int run) {
    return ~static_cast<unsigned>(b[2 + run]) & 255;
  }
};

/// An fp16 scale, then two bits for each element from the lowest on: -1, 0, 1 or 2.
struct BlockQ2_0 {
  static constexpr Encoding kEncoding = Encoding::q2_0;
  static constexpr int kElements = 64, kBytes = 18, kGroup = 64, kRun = 8;
  ATELIER_HOST_DEVICE static float scale(const uint8_t* b, int) { return load_half(b); }
  ATELIER_HOST_DEVICE static uint64_t codes8(const uint8_t* b, int run) {
    const uint64_t pairs = spread_bits<2>(static_cast<uint64_t>(load16(b + 2 + 2 * run)));
    return ((pairs | 0x8080808080808080) - 0x0101010101010101) ^ 0x8080808080808080;
  }
};

}  // namespace atelier
