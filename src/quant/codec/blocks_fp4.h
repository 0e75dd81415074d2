// Sixteen unevenly spaced numbers under a scale: IQ4_NL, IQ4_XS, MXFP4, NVFP4.
#pragma once

#include "quant/codec/block.h"

namespace atelier {

/// -127 -104 -83 -65 -49 -35 -22 -10 1 13 25 38 53 69 89 113
ATELIER_HOST_DEVICE constexpr Lookup16 non_linear4() {
  return {0xf6eaddcfbfad9881, 0x7159453526190d01};
}
/// Twice the numbers of E2M1: 0 1 2 3 4 6 8 12, then the same negative.
ATELIER_HOST_DEVICE constexpr Lookup16 twice_e2m1() {
  return {0x0c08060403020100, 0xf4f8fafcfdfeff00};
}

struct BlockIQ4_NL {
  static constexpr Encoding kEncoding = Encoding::iq4_nl;
  static constexpr int kElements = 32, kBytes = 18, kGroup = 32, kRun = 16;
  ATELIER_HOST_DEVICE static constexpr Lookup16 lookup() { return non_linear4(); }
  ATELIER_HOST_DEVICE static float scale(const uint8_t* b, int) { return load_half(b); }
  ATELIER_HOST_DEVICE static int code(const uint8_t* b, int run, int j) {
    return b[2 + j] >> (4 * run) & 15;
  }
};

/// An fp16 scale, 6-bit scales of groups (upper bits in 2 bytes, lower in 4), 128 bytes of codes.
struct BlockIQ4_XS {
  static constexpr Encoding kEncoding = Encoding::iq4_xs;
  static constexpr int kElements = 256, kBytes = 136, kGroup = 32, kRun = 16;
  ATELIER_HOST_DEVICE static constexpr Lookup16 lookup() { return non_linear4(); }
  ATELIER_HOST_DEVICE static float scale(const uint8_t* b, int group) {
    const int low = b[4 + group / 2] >> (4 * (group % 2)) & 15;
    const int high = load16(b + 2) >> (2 * group) & 3;
    return load_half(b) * static_cast<float>((low | high << 4) - 32);
  }
  ATELIER_HOST_DEVICE static int code(const uint8_t* b, int run, int j) {
    return b[8 + 16 * (run / 2) + j] >> (4 * (run % 2)) & 15;
  }
};

/// The scale is half of E8M0's 2^(e - 127): E2M1's numbers count double here.
struct BlockMXFP4 {
  static constexpr Encoding kEncoding = Encoding::mxfp4;
  static constexpr int kElements = 32, kBytes = 17, kGroup = 32, kRun = 16;
  ATELIER_HOST_DEVICE static constexpr Lookup16 lookup() { return twice_e2m1(); }
  ATELIER_HOST_DEVICE static float scale(const uint8_t* b, int) {
    const uint32_t e = b[0];
    return float_from_bits(e < 2 ? 0x00200000u << e : (e - 1) << 23);
  }
  ATELIER_HOST_DEVICE static int code(const uint8_t* b, int run, int j) {
    return b[1 + j] >> (4 * run) & 15;
  }
};

/// Four groups of 16 whose scales are unsigned E4M3, halved as in MXFP4; 0x7f counts as 0.
struct BlockNVFP4 {
  static constexpr Encoding kEncoding = Encoding::nvfp4;
  static constexpr int kElements = 64, kBytes = 36, kGroup = 16, kRun = 8;
  ATELIER_HOST_DEVICE static constexpr Lookup16 lookup() { return twice_e2m1(); }
  ATELIER_HOST_DEVICE static float scale(const uint8_t* b, int group) {
    // As fp16 with the same bits, E4M3 is 2^-8 of what it means.
    const float halved = half_to_float(static_cast<uint16_t>((b[group] & 0x7f) << 7)) * 128;
    return b[group] == 0x7f ? 0 : halved;
  }
  ATELIER_HOST_DEVICE static uint64_t codes8(const uint8_t* b, int run) {
    return load64(b + 4 + 8 * (run / 2)) >> (4 * (run % 2)) & 0x0f0f0f0f0f0f0f0fULL;
  }
};

}  // namespace atelier
