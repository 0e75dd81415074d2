// The Brownian tree: walks down to a time, drawing each halving's noise from its own seed.
#include "sampling/brownian.h"

#include <ATen/Parallel.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <string>

#include "base/error.h"
#include "sampling/arithmetic.h"
#include "sampling/seed_sequence.h"

namespace atelier {
namespace {

constexpr int64_t kGrain = 16384;  // numbers drawn by a thread: about 0.1 ms
constexpr int64_t kHeld = 4 << 20;  // numbers drawn ahead: 16 MiB

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
  whole_ = initial_noise(shape_, word).mul_(std::sqrt(end - begin));
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

std::vector<BrownianTree::Split> BrownianTree::way_down(double time, bool& at_end) const {
  std::vector<Split> way;
  double a = begin_, b = end_;
  uint64_t key = 0;
  for (uint64_t depth = 0; time != a && time != b; ++depth) {
    const double m = round_time(0.5 * (a + b));
    const std::array<uint64_t, 2> place{key, depth};
    const bool right = time > m;
    way.push_back({(m - a) / (b - a), std::sqrt((m - a) * (b - m) / (b - a)),
                   seed_sequence_word(seed_, place), right});
    (right ? a : b) = m;
    key = 2 * key + (right ? 1 : 0);
  }
  at_end = time == b;
  return way;
}

std::vector<Tensor> BrownianTree::draw(std::span<const Split> splits) const {
  std::vector<Tensor> noise(splits.size());
  const int64_t grain = std::max<int64_t>(1, kGrain / whole_.numel());
  const auto count = static_cast<int64_t>(splits.size());
  at::parallel_for(0, count, grain, [&](int64_t first, int64_t last) {
    for (int64_t i = first; i < last; ++i) {
      const auto k = static_cast<size_t>(i);
      noise[k] = initial_noise(shape_, splits[k].seed);
    }
  });
  return noise;
}

Tensor BrownianTree::descend(double time) const {
  bool at_end = false;
  const std::vector<Split> way = way_down(time, at_end);
  Tensor before = at::zeros(shape_, at::kFloat);  // W(a) - W(begin)
  Tensor node = whole_;
  const int64_t together = std::max<int64_t>(at::get_num_threads(), kHeld / node.numel());
  const auto batch = static_cast<size_t>(together);
  for (size_t first = 0; first < way.size(); first += batch) {
    const std::span<const Split> some(way.data() + first, std::min(batch, way.size() - first));
    const std::vector<Tensor> noise = draw(some);
    for (size_t k = 0; k < some.size(); ++k) {
      const Tensor left = combine({{some[k].left_share, node}, {some[k].deviation, noise[k]}});
      if (some[k].goes_right) before = combine({{1, before}, {1, left}});
      node = some[k].goes_right ? combine({{1, node}, {-1, left}}) : left;
    }
  }
  return at_end ? combine({{1, before}, {1, node}}) : before;
}

BrownianNoise::BrownianNoise(at::IntArrayRef shape, double sigma_min, double sigma_max,
                             uint64_t seed)
    : tree_(shape, sigma_min, sigma_max, seed) {}

Tensor BrownianNoise::next(double sigma, double sigma_next) {
  return tree_.increment(sigma, sigma_next).div_(std::sqrt(std::abs(sigma_next - sigma)));
}

}  // namespace atelier
