// Scalar conversions between storage types. Internal linkage throughout: every translation unit has
// its own copy, compiled for its own instruction set.
#pragma once

#include <cstdint>

namespace atelier {

/// The bits of a bfloat16: the upper half of a float.
struct Bf16 {
  uint16_t bits;
};
/// The bits of an IEEE half.
struct Fp16 {
  uint16_t bits;
};

static inline uint32_t float_bits(float value) { return __builtin_bit_cast(uint32_t, value); }
static inline float bits_float(uint32_t bits) { return __builtin_bit_cast(float, bits); }

static inline float widen(float value) { return value; }
static inline float widen(Bf16 value) { return bits_float(uint32_t{value.bits} << 16); }
static inline float widen(Fp16 value) {
  const uint32_t sign = static_cast<uint32_t>(value.bits & 0x8000) << 16;
  const uint32_t magnitude = value.bits & 0x7fff;
  constexpr uint32_t kInfinity = 0x7c00, kSmallestNormal = 0x0400;
  if (magnitude >= kInfinity) return bits_float(sign | 0x7f800000 | (magnitude & 0x3ff) << 13);
  if (magnitude >= kSmallestNormal) return bits_float(sign | ((magnitude << 13) + 0x38000000));
  const float subnormal = static_cast<float>(magnitude) * 0x1p-24F;
  return (value.bits & 0x8000) != 0 ? -subnormal : subnormal;
}

static inline void narrow(float value, float& out) { out = value; }
/// Round to nearest, ties to even; NaN stays NaN.
static inline void narrow(float value, Bf16& out) {
  const uint32_t bits = float_bits(value);
  if ((bits & 0x7fffffff) > 0x7f800000) {
    out.bits = static_cast<uint16_t>(bits >> 16 | 0x40);
    return;
  }
  out.bits = static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

}  // namespace atelier
