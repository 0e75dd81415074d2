// DPM-Solver (Lu et al. 2022a) in t = -ln sigma: a fixed number of evaluations, and step control.
#include <algorithm>
#include <cmath>
#include <string>

#include "base/error.h"
#include "sampling/integrators.h"

namespace atelier {
namespace {

/// One interval of the solver; the noise at its start is evaluated once for all orders.
class Interval {
 public:
  Interval(const SamplerContext& context, const Tensor& x, const Tensor& denoised, double from,
           double to)
      : context_(context), x_(x), from_(from), to_(to), eps_(slope(x, denoised, std::exp(-from))) {}

  Tensor first_order() const { return combine({{1, x_}, {weight(1), eps_}}); }

  /// `share` is where in between the second evaluation lies.
  Tensor second_order(double share) {
    const Tensor& eps_1 = inner(share);
    const double extra = weight(1) / (2 * share);
    return combine({{1, x_}, {weight(1) - extra, eps_}, {extra, eps_1}});
  }

  Tensor third_order() {
    constexpr double kFirst = 1.0 / 3, kSecond = 2.0 / 3;
    const Tensor& eps_1 = inner(kFirst);
    const double extra = curve(kSecond) * kSecond / kFirst;
    const Tensor u = combine({{1, x_}, {weight(kSecond) - extra, eps_}, {extra, eps_1}});
    const Tensor eps_2 = eps_at(u, kSecond);
    const double last = curve(1) / kSecond;
    return combine({{1, x_}, {weight(1) - last, eps_}, {last, eps_2}});
  }

 private:
  double h() const { return to_ - from_; }
  double sigma(double share) const { return std::exp(-(from_ + share * h())); }
  double weight(double share) const { return -sigma(share) * std::expm1(share * h()); }
  double curve(double share) const {
    return -sigma(share) * (std::expm1(share * h()) / (share * h()) - 1);
  }
  Tensor eps_at(const Tensor& u, double share) const {
    return slope(u, context_.denoise(u, sigma(share)).guided, sigma(share));
  }
  const Tensor& inner(double share) {
    if (!inner_.defined()) inner_ = eps_at(combine({{1, x_}, {weight(share), eps_}}), share);
    return inner_;
  }

  const SamplerContext& context_;
  const Tensor& x_;
  double from_, to_;
  Tensor eps_;
  Tensor inner_;
};

/// The range of t to cover: a last sigma of 0 is out of reach, so the one before it is the end.
struct Range {
  double begin, end;
};

Range range_of(Sigmas sigmas) {
  const double last = sigmas.back() > 0 ? sigmas.back() : sigmas[sigmas.size() - 2];
  return {-std::log(static_cast<double>(sigmas.front())), -std::log(last)};
}

/// A schedule of one sigma leaves these solvers no interval; the picture itself is the best answer.
Tensor only_step(const SamplerContext& context, const Tensor& x, Sigmas sigmas) {
  const Tensor denoised = context.denoise(x, sigmas[0]).guided;
  report(context, 0, sigmas, x, denoised);
  return move(x, denoised, sigmas[0], sigmas.back());
}

/// Orders of the intervals that use `evaluations` in all: thirds, then what is left.
std::vector<int> orders_for(int evaluations) {
  const auto intervals = static_cast<size_t>(evaluations) / 3 + 1;
  std::vector<int> orders(intervals, 3);
  if (evaluations % 3 == 0 && intervals >= 2) {
    orders[intervals - 2] = 2;
    orders[intervals - 1] = 1;
  } else {
    orders[intervals - 1] = evaluations % 3;
  }
  return orders;
}

double max_norm_ratio(const Tensor& low, const Tensor& high, const Tensor& before) {
  constexpr double kRelative = 0.05, kAbsolute = 0.0078;
  const Tensor a = low.contiguous(), b = high.contiguous(), c = before.contiguous();
  const float* pa = a.const_data_ptr<float>();
  const float* pb = b.const_data_ptr<float>();
  const float* pc = c.const_data_ptr<float>();
  double sum = 0;
  for (int64_t j = 0; j < a.numel(); ++j) {
    const double size = std::max(std::abs(pa[j]), std::abs(pc[j]));
    const double error = (pa[j] - pb[j]) / std::max(kAbsolute, kRelative * size);
    sum += error * error;
  }
  return std::sqrt(sum / static_cast<double>(a.numel()));
}

}  // namespace

Tensor sample_dpm_fast(const SamplerContext& context, Tensor x, Sigmas sigmas) {
  const Range range = range_of(sigmas);
  if (!(range.begin < range.end)) return only_step(context, x, sigmas);
  const std::vector<int> orders = orders_for(static_cast<int>(sigmas.size() - 1));
  const auto time = [&](size_t i) {
    return range.begin +
           (range.end - range.begin) * static_cast<double>(i) / static_cast<double>(orders.size());
  };
  size_t evaluations = 0;
  for (size_t i = 0; i < orders.size(); ++i) {
    const Tensor denoised = context.denoise(x, std::exp(-time(i))).guided;
    report(context, evaluations, sigmas, x, denoised);
    Interval interval(context, x, denoised, time(i), time(i + 1));
    x = orders[i] == 1   ? interval.first_order()
        : orders[i] == 2 ? interval.second_order(0.5)
                         : interval.third_order();
    evaluations += static_cast<size_t>(orders[i]);
  }
  return x;
}

/// Third order against the embedded second; a step is kept if its error allows at least 0.81 of
/// its own length for the next. Progress is told as the share of t covered.
Tensor sample_dpm_adaptive(const SamplerContext& context, Tensor x, Sigmas sigmas) {
  constexpr double kFirstStep = 0.05, kAccept = 0.81, kTiny = 1e-8, kNearEnd = 1e-5;
  const Range range = range_of(sigmas);
  if (!(range.begin < range.end)) return only_step(context, x, sigmas);
  double t = range.begin, h = kFirstStep;
  Tensor low_before = x, denoised;
  bool evaluated = false;
  while (t < range.end - kNearEnd) {
    if (!evaluated) {
      denoised = context.denoise(x, std::exp(-t)).guided;
      const double done = (t - range.begin) / (range.end - range.begin);
      report(context, static_cast<size_t>(done * static_cast<double>(sigmas.size() - 1)), sigmas, x,
             denoised);
    }
    const double next = std::min(range.end, t + h);
    Interval interval(context, x, denoised, t, next);
    const Tensor low = interval.second_order(1.0 / 3);
    const Tensor high = interval.third_order();
    const double error = max_norm_ratio(low, high, low_before);
    const double factor = 1 + std::atan(std::cbrt(1 / (error + kTiny)) - 1);
    h *= factor;
    if (!std::isfinite(error) || h < kTiny)
      throw Error(ErrorCode::unsupported,
                  {.subject = "dpm_adaptive",
                   .expected = "no step is small enough",
                   .hint = "The model's answers may not be finite; try another dtype or sampler"});
    evaluated = factor < kAccept;
    if (evaluated) continue;
    low_before = low;
    x = high;
    t = next;
  }
  return x;
}

}  // namespace atelier
