// Scales so small that hardly any number near them is a half: the multiples of what halves there
// are apart are tried, and 0.
//
// Below 2^-20 a half is off by up to a thirtieth, below 2^-25 it is 0. A block's scale is then
// rounded up, its groups' integers become smaller, and what fits a group best of the two integers
// around the wanted scale and 0 is what it gets: it is never worse than zeros.
#pragma once

#include <cmath>

#include "quant/codec/fitting.h"

namespace atelier {
namespace {

constexpr float kApart = 0x1p-24f;  // of the smallest halves
constexpr float kSmallScale = 0x1p-20f;

ATELIER_LANES bool is_small(float scale) {
  return scale != 0 && scale < kSmallScale && scale > -kSmallScale;
}

/// The nearest small half that is not nearer to 0.
inline float half_away_from_0(float scale) {
  const float half = std::ceil(std::fabs(scale) / kApart) * kApart;
  return scale < 0 ? -half : half;
}

/// The weighted squared error of N numbers as scale * code + offset.
template <int N, class Round>
float error_of(const float* x, const float* weights, const Round& round, float scale,
               float offset) {
  const float inverse = scale != 0 ? 1 / scale : 0;
  Floats error{};
  for (int i = 0; i < N; i += kWidth) {
    const Floats from = load(x + i) - offset, off = from - scale * round(from * inverse);
    error += load_weights(weights, i) * off * off;
  }
  return sum(error);
}

/// How often a unit may be taken.
struct Steps {
  float unit;
  int low, high;
};

/// How often units are taken for a scale and an offset.
struct Taken {
  int scale = 0, offset = 0;
};

/// What fits N numbers best of the steps next to `wanted` and 0. Apart from the usual way, which
/// would be slower with it inside.
template <int N, class Round>
__attribute__((noinline, cold)) Taken fit_steps(const float* x, const float* weights,
                                                const Round& round, const Fit& wanted,
                                                const Steps& scales, const Steps& offsets) {
  const auto next_to = [](float number, const Steps& steps, float(&to)[3]) {
    const auto low = static_cast<float>(steps.low), high = static_cast<float>(steps.high);
    const float below = steps.unit != 0 ? std::floor(number / steps.unit) : 0;
    to[0] = 0;
    to[1] = clamped(below, low, high);
    to[2] = clamped(below + 1, low, high);
  };
  float scale[3], offset[3];
  next_to(wanted.scale, scales, scale);
  next_to(wanted.offset, offsets, offset);
  Taken best;
  float lowest = HUGE_VALF;
  for (const float a : scale)
    for (const float b : offset) {
      const float error = error_of<N>(x, weights, round, a * scales.unit, b * offsets.unit);
      if (!(error < lowest)) continue;
      lowest = error;
      best = {static_cast<int>(a), static_cast<int>(b)};
    }
  return best;
}

/// The same without an offset.
template <int N, class Round>
int fit_step(const float* x, const float* weights, const Round& round, float wanted,
             const Steps& steps) {
  return fit_steps<N>(x, weights, round, {.scale = wanted}, steps, {0, 0, 0}).scale;
}

/// A small scale of N numbers as a half.
template <int N, class Round>
float fit_small(const float* x, const float* weights, const Round& round, float wanted) {
  return kApart * static_cast<float>(fit_step<N>(x, weights, round, wanted, {kApart, -16, 16}));
}

}  // namespace
}  // namespace atelier
