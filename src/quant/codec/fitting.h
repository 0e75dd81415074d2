// Sixteen lanes, and the scale or the scale and offset that fit a group of numbers best.
//
// A group's scale is found by least squares: for sixteen trial scales, side by side in the lanes,
// the numbers are rounded to codes, the scale (and minimum) that fit these codes best are solved
// for, and the trial with the least error wins.
#pragma once

#include <cmath>
#include <cstdint>

namespace atelier {
namespace {

constexpr int kWidth = 16;
/// Sixteen floats: one, two or four registers.
using Floats = float __attribute__((vector_size(64)));
using Ints = int32_t __attribute__((vector_size(64)));

#define ATELIER_LANES __attribute__((always_inline)) inline

ATELIER_LANES Floats splat(float x) { return Floats{} + x; }
ATELIER_LANES Floats load(const float* from) {
  Floats x;
  __builtin_memcpy(&x, from, sizeof x);
  return x;
}
ATELIER_LANES void store(float* to, Floats x) { __builtin_memcpy(to, &x, sizeof x); }
ATELIER_LANES Floats load_weights(const float* weights, int i) {
  return weights != nullptr ? load(weights + i) : splat(1);
}
/// To the nearest integer, ties to even, for magnitudes below 2^22.
template <class X>
ATELIER_LANES X rounded(X x) {
  return (x + 12582912.f) - 12582912.f;
}
ATELIER_LANES float clamped(float x, float low, float high) {
  return x < low ? low : x > high ? high : x;
}
/// The nearest integer from `low` to `high`, which are integers too. While the sum with a large
/// number rounds, its bits are in the order of the numbers, and integers have a minimum and a
/// maximum in one instruction.
ATELIER_LANES Floats rounded_within(Floats x, float low, float high) {
  constexpr float kLarge = 12582912.f;
  const Ints least = reinterpret_cast<Ints>(splat(low + kLarge));
  const Ints most = reinterpret_cast<Ints>(splat(high + kLarge));
  Ints bits = reinterpret_cast<Ints>(x + kLarge);
  bits = bits > least ? bits : least;
  bits = bits < most ? bits : most;
  return reinterpret_cast<Floats>(bits) - kLarge;
}
ATELIER_LANES float rounded_within(float x, float low, float high) {
  return clamped(rounded(x), low, high);
}
/// The lanes joined two by two, in one order: each with the one half of what is left further on.
template <class X, class Join>
ATELIER_LANES auto joined(X x, const Join& join) {
  x = join(
      x, __builtin_shufflevector(x, x, 8, 9, 10, 11, 12, 13, 14, 15, 8, 9, 10, 11, 12, 13, 14, 15));
  x = join(x, __builtin_shufflevector(x, x, 4, 5, 6, 7, 4, 5, 6, 7, 4, 5, 6, 7, 4, 5, 6, 7));
  x = join(x, __builtin_shufflevector(x, x, 2, 3, 2, 3, 2, 3, 2, 3, 2, 3, 2, 3, 2, 3, 2, 3));
  x = join(x, __builtin_shufflevector(x, x, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1));
  return x[0];
}
ATELIER_LANES float sum(Floats x) {
  return joined(x, [](Floats a, Floats b) { return a + b; });
}
template <class X>
ATELIER_LANES auto least(X x) {
  return joined(x, [](X a, X b) { return a < b ? a : b; });
}
ATELIER_LANES float most(Floats x) {
  return joined(x, [](Floats a, Floats b) { return a > b ? a : b; });
}
/// The first lane that holds `value`; 0 if none does.
ATELIER_LANES int lane_of(Floats x, float value) {
  constexpr Ints kLanes{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
  return least(x == value ? kLanes : Ints{} + kWidth) % kWidth;
}

/// The least and the greatest of `count` numbers, a multiple of 16.
struct Range {
  float low, high;
};
ATELIER_LANES Range range_of(const float* x, int count) {
  Floats low = load(x), high = low;
  for (int i = kWidth; i < count; i += kWidth) {
    const Floats next = load(x + i);
    low = next < low ? next : low;
    high = next > high ? next : high;
  }
  return {least(low), most(high)};
}

// Codes are `low` to `high`; Round gives the code nearest to a scaled number, as a float of what it
// counts for.
struct Evenly {
  float low, high;
  template <class X>
  ATELIER_LANES X operator()(X x) const {
    return rounded_within(x, low, high);
  }
};

/// The nearest of sixteen numbers in rising order.
struct Unevenly {
  const float* numbers;
  const float* middles;  // between neighbours
  ATELIER_LANES Floats operator()(Floats x) const {
    Floats nearest = splat(numbers[0]);
    for (int i = 0; i < 15; ++i) nearest = x > middles[i] ? splat(numbers[i + 1]) : nearest;
    return nearest;
  }
};

constexpr Floats kTrial{-8, -7, -6, -5, -4, -3, -2, -1, 0, 1, 2, 3, 4, 5, 6, 7};

/// The scale that fits N numbers best when the largest magnitude counts about `furthest` (signed),
/// without offset: sixteen trials side by side.
template <int N, class Round>
float fit_scale(const float* x, const float* weights, const Round& round, float furthest) {
  const Range range = range_of(x, N);
  const float largest = range.high > -range.low ? range.high : range.low;
  if (!(largest > 1e-30f || largest < -1e-30f)) return 0;
  const Floats inverse = (kTrial * 0.0175f + 1.f) * (furthest / largest);
  Floats along{}, length{};
  for (int i = 0; i < N; ++i) {
    const Floats q = round(inverse * x[i]);
    const Floats wq = weights != nullptr ? q * weights[i] : q;
    along += wq * x[i];
    length += wq * q;
  }
  const Floats explained = length > 0.f ? along * along / length : Floats{};
  const int best = lane_of(explained, most(explained));
  return length[best] > 0 ? along[best] / length[best] : 0;
}

/// x is about scale * code + offset.
struct Fit {
  float scale = 0, offset = 0;
};

/// The scale and the offset, not above 0, that fit codes 0 to `high` best: sixteen trials.
template <int N>
Fit fit_affine(const float* x, const float* weights, float high) {
  Range range = range_of(x, N);
  range.low = range.low < 0 ? range.low : 0;
  const float low = range.low, width = range.high - low;
  if (!(width > 1e-30f)) return {.scale = 0, .offset = low};
  // Numbers above the least: y is about scale * code + shift.
  Floats w{}, wy{};
  float above_least[N];
  for (int i = 0; i < N; i += kWidth) {
    const Floats weight = load_weights(weights, i), y = load(x + i) - low;
    store(above_least + i, y);
    w += weight;
    wy += weight * y;
  }
  const float n = sum(w), sy = sum(wy);
  const Floats inverse = (kTrial * 0.13f + (high - 0.2f)) / width;
  Floats q{}, qq{}, yq{};
  for (int i = 0; i < N; ++i) {
    const float y = above_least[i];
    const Floats code = rounded_within(inverse * y, 0, high);
    const Floats weighted = weights != nullptr ? code * weights[i] : code;
    q += weighted;
    qq += weighted * code;
    yq += weighted * y;
  }
  const Floats determinant = n * qq - q * q;
  Floats scale = (n * yq - sy * q) / determinant, shift = (sy * qq - q * yq) / determinant;
  const Floats above = shift + low;  // the offset, which must not be
  const Floats through = (yq + low * q) / qq;
  scale = above > 0.f ? through : scale;
  shift = above > 0.f ? splat(-low) : shift;
  // The error without the part that all trials share.
  const Floats error =
      scale * (scale * qq - 2.f * yq + 2.f * shift * q) + shift * (n * shift - 2.f * sy);
  const Floats none = splat(HUGE_VALF);
  Floats valid = determinant > 0.f ? error : none;
  valid = scale > 0.f ? valid : none;
  valid = valid < none ? valid : none;  // not a number
  const float lowest = least(valid);
  if (!(lowest < HUGE_VALF)) return {.scale = width / high, .offset = low};
  const int best = lane_of(valid, lowest);
  return {.scale = scale[best], .offset = low + shift[best]};
}

}  // namespace
}  // namespace atelier
