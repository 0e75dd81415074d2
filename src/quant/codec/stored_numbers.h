// The floats a file or a tensor may hold, as types of their own.
#pragma once

#include "quant/codec/float_codes.h"
#include "quant/codec/four_bits.h"

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
struct ScalarE8M0 {
  using Type = uint8_t;
  __attribute__((always_inline)) static float widen(Type code) { return e8m0_to_float(code); }
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
