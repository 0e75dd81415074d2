// Conversions between float formats on their bits, usable on the host and in CUDA kernels.
#pragma once

#include <cstdint>
#include <cstring>
#if defined(__F16C__) && !defined(__CUDACC__)
#include <immintrin.h>
#endif

// Functions of this kind are compiled anew for each instruction set, so none may be shared by the
// linker: each is inlined where it is called.
#ifdef __CUDACC__
#define ATELIER_HOST_DEVICE __host__ __device__ __attribute__((always_inline))
#else
#define ATELIER_HOST_DEVICE __attribute__((always_inline))
#endif

namespace atelier {

ATELIER_HOST_DEVICE inline float float_from_bits(uint32_t bits) {
  float value;
  memcpy(&value, &bits, sizeof value);
  return value;
}

ATELIER_HOST_DEVICE inline uint32_t bits_of(float value) {
  uint32_t bits;
  memcpy(&bits, &value, sizeof bits);
  return bits;
}

/// A float of `Exponent` and `Mantissa` bits below a sign, IEEE-like with subnormals; exact.
/// With `Finite` the format has no infinities and only the all-ones code is not a number (E4M3FN).
template <int Exponent, int Mantissa, bool Finite = false>
ATELIER_HOST_DEVICE inline float widen_code(uint32_t code) {
  constexpr uint32_t kTop = (1u << Exponent) - 1, kFraction = (1u << Mantissa) - 1;
  constexpr uint32_t kRebias = 127u - (kTop >> 1);
  const uint32_t sign = (code >> (Exponent + Mantissa) & 1u) << 31;
  const uint32_t exponent = code >> Mantissa & kTop, fraction = code & kFraction;
  if (exponent == kTop && (!Finite || fraction == kFraction)) {
    const uint32_t payload = fraction << (23 - Mantissa);
    return float_from_bits(sign | 0x7f800000u | payload | (payload ? 0x400000u : 0u));
  }
  if (exponent == 0) {
    const float unit = float_from_bits((kRebias + 1u - Mantissa) << 23);
    const float magnitude = static_cast<float>(fraction) * unit;
    return float_from_bits(sign | bits_of(magnitude));
  }
  return float_from_bits(sign | (exponent + kRebias) << 23 | fraction << (23 - Mantissa));
}

ATELIER_HOST_DEVICE inline float half_to_float(uint16_t code) {
#if defined(__F16C__) && !defined(__CUDACC__)
  return _cvtsh_ss(code);
#else
  return widen_code<5, 10>(code);
#endif
}
ATELIER_HOST_DEVICE inline float e4m3_to_float(uint8_t code) {
  return widen_code<4, 3, true>(code);
}
ATELIER_HOST_DEVICE inline float e5m2_to_float(uint8_t code) { return widen_code<5, 2>(code); }
/// A power of two by its biased exponent; 255 is not a number.
ATELIER_HOST_DEVICE inline float e8m0_to_float(uint8_t code) {
  const uint32_t bits = static_cast<uint32_t>(code) << 23;
  return float_from_bits(code == 0 ? 0x00400000u : code == 255 ? 0x7fc00000u : bits);
}
ATELIER_HOST_DEVICE inline float bfloat16_to_float(uint16_t code) {
  return float_from_bits(static_cast<uint32_t>(code) << 16);
}

/// Nearest even; any NaN becomes 0x7fc0.
ATELIER_HOST_DEVICE inline uint16_t float_to_bfloat16(float value) {
  if (value != value) return 0x7fc0;
  const uint32_t bits = bits_of(value);
  return static_cast<uint16_t>((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
}

/// Nearest even, with subnormals; what is too large becomes infinity.
ATELIER_HOST_DEVICE inline uint16_t float_to_half(float value) {
  const uint32_t bits = bits_of(value), sign = bits >> 16 & 0x8000u, magnitude = bits & 0x7fffffffu;
  if (magnitude > 0x7f800000u)
    return static_cast<uint16_t>(sign | 0x7e00u | (magnitude >> 13 & 0x3ffu));
  if (magnitude >= 0x477ff000u) return static_cast<uint16_t>(sign | 0x7c00u);
  if (magnitude < 0x38800000u) {  // below the least normal: units of 2^-24, rounded by the adder
    const float shifted = float_from_bits(magnitude) + 0.5f;
    return static_cast<uint16_t>(sign | (bits_of(shifted) - 0x3f000000u));
  }
  const uint32_t rounded = magnitude + 0xfffu + (magnitude >> 13 & 1u);
  return static_cast<uint16_t>(sign | ((rounded - 0x38000000u) >> 13));
}

/// A finite float as sign, Exponent and Mantissa bits, to nearest even; what is too large becomes
/// the largest code, `kMost`.
template <int Exponent, int Mantissa, uint32_t kMost>
ATELIER_HOST_DEVICE inline uint8_t narrow_to_byte(float value) {
  constexpr int kCut = 23 - Mantissa;
  constexpr uint32_t kRebias = 127u - ((1u << (Exponent - 1)) - 1u);
  const uint32_t bits = bits_of(value), sign = bits >> 24 & 0x80u, magnitude = bits & 0x7fffffffu;
  uint32_t code = 0;
  if (magnitude < (kRebias + 1u) << 23) {  // below the least normal: rounded by the adder
    const float unit = float_from_bits((kRebias + 1u + static_cast<uint32_t>(kCut)) << 23);
    code = bits_of(float_from_bits(magnitude) + unit) & ((2u << Mantissa) - 1u);
  } else {
    const uint32_t even = magnitude >> kCut & 1u;
    code = (magnitude + ((1u << (kCut - 1)) - 1u) + even - (kRebias << 23)) >> kCut;
  }
  return static_cast<uint8_t>(sign | (code < kMost ? code : kMost));
}

/// Nearest even, at most 448 in magnitude; NaN stays NaN.
ATELIER_HOST_DEVICE inline uint8_t float_to_e4m3(float value) {
  return value != value ? 0x7f : narrow_to_byte<4, 3, 0x7e>(value);
}
/// Nearest even, at most 57344 in magnitude; NaN stays NaN.
ATELIER_HOST_DEVICE inline uint8_t float_to_e5m2(float value) {
  return value != value ? 0x7f : narrow_to_byte<5, 2, 0x7b>(value);
}

}  // namespace atelier
