// Vectors of one lane: the plain form that every instruction set is compared with.
//
// A vector header has kLanes, Floats (kLanes fp32), splat, multiply, add, load_codes (int8 to
// fp32), one_nan (any NaN becomes 0x7fc00000), store (rounding to nearest even), store_words (16
// bytes), store_signed (the same, byte i negated where bit i of the signs is set), look_up (indices
// to numbers, in place) and the Stored types with the loads it has.
#pragma once

#include "quant/codec/block.h"
#include "quant/codec/stored_numbers.h"

namespace atelier {
namespace {

constexpr int kLanes = 1;
using Floats = float;

inline Floats splat(float value) { return value; }
inline Floats multiply(Floats a, Floats b) { return a * b; }
inline Floats add(Floats a, Floats b) { return a + b; }
inline Floats load_codes(const int8_t* codes) { return static_cast<float>(*codes); }
inline Floats one_nan(Floats value) { return value != value ? float_from_bits(0x7fc00000) : value; }

template <class T>
void store(T* to, Floats value) {
  store_one(to, value);
}

inline void store_words(int8_t* to, uint64_t low, uint64_t high) {
  memcpy(to, &low, 8);
  memcpy(to + 8, &high, 8);
}

inline void store_signed(int8_t* to, uint64_t low, uint64_t high, unsigned signs) {
  store_words(to, apply_signs(low, signs), apply_signs(high, signs >> 8));
}

inline void look_up(const Lookup16& table, int8_t* codes, int count) {
  for (int i = 0; i < count; ++i) codes[i] = static_cast<int8_t>(table[codes[i]]);
}

using StoredFloat = ScalarFloat;
using StoredHalf = ScalarHalf;
using StoredBf16 = ScalarBf16;
using StoredE4M3 = ScalarE4M3;
using StoredE5M2 = ScalarE5M2;
template <class Table>
using StoredNibbles = ScalarNibbles<Table>;

}  // namespace
}  // namespace atelier
