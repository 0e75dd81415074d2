// The floats a file or a tensor may hold, as types of their own.
#pragma once

#include "quant/codec/float_codes.h"

namespace atelier {
namespace {

struct Bf16 {
  uint16_t bits;
};
struct Fp16 {
  uint16_t bits;
};

struct ScalarFloat {
  using Type = float;
  __attribute__((always_inline)) static float widen(Type value) { return value; }
};
struct ScalarHalf {
  using Type = uint16_t;
  __attribute__((always_inline)) static float widen(Type code) { return half_to_float(code); }
};
struct ScalarBf16 {
  using Type = uint16_t;
  __attribute__((always_inline)) static float widen(Type code) { return bfloat16_to_float(code); }
};
struct ScalarE4M3 {
  using Type = uint8_t;
  __attribute__((always_inline)) static float widen(Type code) { return e4m3_to_float(code); }
};
struct ScalarE5M2 {
  using Type = uint8_t;
  __attribute__((always_inline)) static float widen(Type code) { return e5m2_to_float(code); }
};

/// Sixteen floats that four bits stand for, the first of two codes in the high half of a byte.
/// NF4: quantiles of a normal distribution, arXiv:2305.14314, appendix E.
struct NormalFloat4 {
  static constexpr float kValues[16] = {
      -1.0F,           -0.6961928009986877F, -0.5250730514526367F, -0.39491748809814453F,
      -0.28444138169288635F, -0.18477343022823334F, -0.09105003625154495F, 0.0F,
      0.07958029955625534F,  0.16093020141124725F,  0.24611230194568634F,  0.33791524171829224F,
      0.44070982933044434F,  0.5626170039176941F,   0.7229568362236023F,   1.0F};
};
/// FP4 as bitsandbytes orders it: sign, then 0, 1/192, 2/3, 1, 1/3, 1/2, 1/6, 1/4.
struct TwelfthsFloat4 {
  static constexpr float kValues[16] = {0.0F,        0.0625F / 12, 8.0F / 12,   1.0F,
                                        4.0F / 12,   0.5F,         2.0F / 12,   0.25F,
                                        -0.0F,       -0.0625F / 12, -8.0F / 12, -1.0F,
                                        -4.0F / 12,  -0.5F,        -2.0F / 12,  -0.25F};
};
template <class Table>
struct ScalarNibbles {
  using Values = Table;
};

__attribute__((always_inline)) inline void store_one(float* to, float value) { *to = value; }
__attribute__((always_inline)) inline void store_one(Bf16* to, float value) {
  to->bits = float_to_bfloat16(value);
}
__attribute__((always_inline)) inline void store_one(Fp16* to, float value) {
  to->bits = float_to_half(value);
}

}  // namespace
}  // namespace atelier
