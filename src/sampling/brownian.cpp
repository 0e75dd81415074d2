// The Brownian tree: walks down to a time, drawing each halving's noise from its own seed.
// A query draws about 24 times: 1.2 ms for a latent of 1x4x64x64.
#include "sampling/brownian.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <string>

#include "base/error.h"
#include "sampling/arithmetic.h"
#include "sampling/seed_sequence.h"

namespace atelier {
namespace {

/// `time` to 6 decimals, ties by the exact binary value, as Python's round().
double round_time(double time) {
  std::array<char, 352> text;
  const auto written =
      std::to_chars(text.data(), text.data() + text.size(), time, std::chars_format::fixed, 6);
  double rounded = time;
  std::from_chars(text.data(), written.ptr, rounded);
  return rounded;
}

}  // namespace

BrownianTree::BrownianTree(at::IntArrayRef shape, double begin, double end, uint64_t seed)
    : shape_(shape.begin(), shape.end()),
      begin_(round_time(begin)),
      end_(round_time(end)),
      seed_(seed) {
  if (!(begin >= 0 && begin < end && std::isfinite(end)))
    throw Error(ErrorCode::invalid_argument,
                {"sigmas of an SDE sampler", "at least two different ones above 0",
                 std::to_string(begin) + " to " + std::to_string(end)});
  const uint32_t word = seed_sequence_word(seed, {});
  whole_ = combine({{std::sqrt(end - begin), initial_noise(shape_, word)}});
  left_ = at::empty(shape_, at::kFloat);
}

Tensor BrownianTree::increment(double from, double to) {
  const Tensor start = value(from);
  return combine({{1, value(to)}, {-1, start}});
}

Tensor BrownianTree::value(double time) {
  const double at = std::clamp(round_time(time), begin_, end_);
  for (const Recent& recent : recent_)
    if (recent.time == at) return recent.value;
  Recent& slot = recent_[oldest_];
  oldest_ = (oldest_ + 1) % recent_.size();
  slot = {at, descend(at)};
  return slot.value;
}

Tensor BrownianTree::descend(double time) {
  Tensor before = at::zeros(shape_, at::kFloat);  // W(a) - W(begin)
  Tensor node = whole_.clone();
  double a = begin_, b = end_;
  uint64_t key = 0;
  for (uint64_t depth = 0; time != a && time != b; ++depth) {
    const double m = round_time(0.5 * (a + b));
    const std::array<uint64_t, 2> place{key, depth};
    redraw_noise(left_, seed_sequence_word(seed_, place));
    accumulate(left_, std::sqrt((m - a) * (b - m) / (b - a)), node, (m - a) / (b - a));
    const bool right = time > m;
    if (right) {
      accumulate(before, 1, left_, 1);
      accumulate(node, 1, left_, -1);
    } else {
      std::swap(node, left_);
    }
    (right ? a : b) = m;
    key = 2 * key + (right ? 1 : 0);
  }
  if (time == b) accumulate(before, 1, node, 1);
  return before;
}

BrownianNoise::BrownianNoise(at::IntArrayRef shape, double sigma_min, double sigma_max,
                             uint64_t seed)
    : tree_(shape, sigma_min, sigma_max, seed) {}

Tensor BrownianNoise::next(double sigma, double sigma_next) {
  return combine(
      {{1 / std::sqrt(std::abs(sigma_next - sigma)), tree_.increment(sigma, sigma_next)}});
}

}  // namespace atelier
