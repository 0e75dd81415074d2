// Sixteen floats that four bits stand for under a scale of their block; of two codes in a byte the
// first is in the high half. Sources: bitsandbytes, bitsandbytes/functional.py, get_4bit_type; OCP
// Microscaling Formats 1.0 (E2M1).
#pragma once

#include "quant/codec/float_codes.h"

namespace atelier {

/// Quantiles of a normal distribution: arXiv:2305.14314, appendix E.
struct NormalFloat4 {
  ATELIER_HOST_DEVICE static float value(int code) {
    constexpr float kValues[16] = {-1.0F,
                                   -0.6961928009986877F,
                                   -0.5250730514526367F,
                                   -0.39491748809814453F,
                                   -0.28444138169288635F,
                                   -0.18477343022823334F,
                                   -0.09105003625154495F,
                                   0.0F,
                                   0.07958029955625534F,
                                   0.16093020141124725F,
                                   0.24611230194568634F,
                                   0.33791524171829224F,
                                   0.44070982933044434F,
                                   0.5626170039176941F,
                                   0.7229568362236023F,
                                   1.0F};
    return kValues[code];
  }
};

/// A sign, then 0, 1/192, 2/3, 1, 1/3, 1/2, 1/6, 1/4.
struct TwelfthsFloat4 {
  ATELIER_HOST_DEVICE static float value(int code) {
    constexpr float kValues[8] = {0.0F,      0.0625F / 12, 8.0F / 12, 1.0F,
                                  4.0F / 12, 0.5F,         2.0F / 12, 0.25F};
    return code & 8 ? -kValues[code & 7] : kValues[code & 7];
  }
};

/// A sign, two bits of exponent, one of mantissa.
struct E2M1Float4 {
  ATELIER_HOST_DEVICE static float value(int code) {
    constexpr float kValues[8] = {0.0F, 0.5F, 1.0F, 1.5F, 2.0F, 3.0F, 4.0F, 6.0F};
    return code & 8 ? -kValues[code & 7] : kValues[code & 7];
  }
};

/// Any NaN as 0x7fc00000.
ATELIER_HOST_DEVICE inline float any_nan_as_one(float value) {
  return value != value ? float_from_bits(0x7fc00000u) : value;
}

}  // namespace atelier
