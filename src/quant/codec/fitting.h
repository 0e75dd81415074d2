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
ATELIER_LANES Floats clamped(Floats x, float low, float high) {
  x = x < low ? splat(low) : x;
  return x > high ? splat(high) : x;
}
ATELIER_LANES float clamped(float x, float low, float high) {
  return x < low ? low : x > high ? high : x;
}
/// The lanes joined two by two, in one order.
template <class Join>
ATELIER_LANES float joined(Floats x, const Join& join) {
  float lanes[kWidth];
  store(lanes, x);
  for (int width = kWidth / 2; width > 0; width /= 2)
    for (int i = 0; i < width; ++i) lanes[i] = join(lanes[i], lanes[i + width]);
  return lanes[0];
}
ATELIER_LANES float sum(Floats x) {
  return joined(x, [](float a, float b) { return a + b; });
}
ATELIER_LANES float least(Floats x) {
  return joined(x, [](float a, float b) { return a < b ? a : b; });
}
ATELIER_LANES float most(Floats x) {
  return joined(x, [](float a, float b) { return a > b ? a : b; });
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
    return clamped(rounded(x), low, high);
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
  int best = 0;
  for (int i = 1; i < kWidth; ++i)
    if (explained[i] > explained[best]) best = i;
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
  for (int i = 0; i < N; i += kWidth) {
    const Floats weight = load_weights(weights, i);
    w += weight;
    wy += weight * (load(x + i) - low);
  }
  const float n = sum(w), sy = sum(wy);
  const Floats inverse = (kTrial * 0.13f + (high - 0.2f)) / width;
  Floats q{}, qq{}, yq{};
  for (int i = 0; i < N; ++i) {
    const float y = x[i] - low;
    const Floats code = clamped(rounded(inverse * y), 0, high);
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
  Fit best{.scale = width / high, .offset = low};
  float lowest = HUGE_VALF;
  for (int i = 0; i < kWidth; ++i) {
    if (!(determinant[i] > 0 && scale[i] > 0 && error[i] < lowest)) continue;
    lowest = error[i];
    best = {scale[i], low + shift[i]};
  }
  return best;
}

}  // namespace
}  // namespace atelier
