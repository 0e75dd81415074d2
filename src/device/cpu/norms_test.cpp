// Norms, activations and copies of every instruction set against twins in double precision.
#include <complex>

#include "device/cpu/test_support.h"

namespace atelier {
namespace {

std::vector<float> random_floats(int64_t count, uint32_t seed) {
  const Array array = Array::random(CpuType::fp32, count, seed);
  std::vector<float> floats;
  for (int64_t i = 0; i < count; ++i) floats.push_back(static_cast<float>(array.at(i)));
  return floats;
}

double silu(double x) { return x / (1 + std::exp(-x)); }
double gelu(double x) { return 0.5 * x * (1 + std::erf(x / std::sqrt(2.0))); }

struct GroupNormSize {
  int64_t batch, pixels, channels, skip, groups;
};

class NormTest : public KernelTest {
 protected:
  double limit() const { return tolerance(2e-6, 4e-3); }
  void expect_group_norm(const GroupNormSize& size, bool use_silu, float offset) const;
};

struct Normalised {
  std::vector<double> joined, y;
};
Normalised group_norm_twin(const CpuGroupNorm& run, const Array& x, const Array& skip) {
  const int64_t channels = run.channels + run.skip_channels, width = channels / run.groups;
  Normalised out;
  out.y.resize(static_cast<size_t>(run.batch * run.pixels * channels));
  out.joined = out.y;
  const auto index = [&](int64_t pixel, int64_t c) {
    return static_cast<size_t>(pixel * channels + c);
  };
  for (int64_t pixel = 0; pixel < run.batch * run.pixels; ++pixel) {
    for (int64_t c = 0; c < channels; ++c) {
      out.joined[index(pixel, c)] = c < run.channels
                                        ? x.at(pixel * run.channels + c)
                                        : skip.at(pixel * run.skip_channels + c - run.channels);
    }
  }
  for (int64_t i = 0; i < run.batch * run.groups; ++i) {
    const int64_t begin = i / run.groups * run.pixels, first = i % run.groups * width;
    double mean = 0, variance = 0;
    const double count = static_cast<double>(run.pixels * width);
    const auto each = [&](const auto& body) {
      for (int64_t p = begin; p < begin + run.pixels; ++p) {
        for (int64_t c = first; c < first + width; ++c) body(index(p, c), c);
      }
    };
    each([&](size_t at, int64_t) { mean += out.joined[at] / count; });
    each([&](size_t at, int64_t) {
      variance += (out.joined[at] - mean) * (out.joined[at] - mean) / count;
    });
    each([&](size_t at, int64_t c) {
      const double unit =
          (out.joined[at] - mean) / std::sqrt(variance + static_cast<double>(run.epsilon));
      const double y = run.weight == nullptr ? unit
                                             : unit * static_cast<double>(run.weight[c]) +
                                                   static_cast<double>(run.bias[c]);
      out.y[at] = run.silu ? silu(y) : y;
    });
  }
  return out;
}

void NormTest::expect_group_norm(const GroupNormSize& size, bool use_silu, float offset) const {
  const int64_t channels = size.channels + size.skip, rows = size.batch * size.pixels;
  Array x = Array::random(type(), rows * size.channels, 1, 2);
  for (int64_t i = 0; i < x.count(); ++i) x.set(i, static_cast<float>(x.at(i)) + offset);
  const Array skip = Array::random(type(), std::max<int64_t>(1, rows * size.skip), 2);
  const std::vector<float> weight = random_floats(channels, 3), bias = random_floats(channels, 4);
  Array y(type(), rows * channels), joined(type(), rows * channels);
  const CpuGroupNorm run{.type = type(),
                         .batch = size.batch,
                         .pixels = size.pixels,
                         .channels = size.channels,
                         .skip_channels = size.skip,
                         .x = x.data(),
                         .skip = size.skip > 0 ? skip.data() : nullptr,
                         .groups = size.groups,
                         .epsilon = 1e-5F,
                         .weight = weight.data(),
                         .bias = bias.data(),
                         .silu = use_silu,
                         .y = y.data(),
                         .joined = size.skip > 0 ? joined.data() : nullptr};
  kernels().group_norm(run, SerialParallel());
  const Normalised want = group_norm_twin(run, x, skip);
  // Scaling first and shifting by a large mean then costs a few digits.
  EXPECT_LT(relative_error(y, want.y), offset == 0 ? limit() : 5 * limit())
      << size.pixels << " pixels, " << channels << " channels, offset " << offset;
  if (size.skip > 0) {
    EXPECT_EQ(relative_error(joined, want.joined), 0);
  }
  Array again(type(), rows * channels);
  CpuGroupNorm threaded = run;
  threaded.y = again.data();
  kernels().group_norm(threaded, SpawnParallel(3));
  EXPECT_TRUE(y == again);
}

TEST_P(NormTest, GroupNormAgreesForOddSizes) {
  for (const GroupNormSize& size : {GroupNormSize{2, 64, 320, 0, 32},
                                    {1, 35, 64, 0, 32},
                                    {2, 1, 8, 0, 4},
                                    {1, 1000, 36, 0, 3},
                                    {3, 17, 130, 0, 2}}) {
    expect_group_norm(size, false, 0);
    expect_group_norm(size, true, 0);
  }
}

TEST_P(NormTest, GroupNormOfTwoInputsIsThatOfTheirConcatenation) {
  expect_group_norm({2, 49, 320, 160, 32}, true, 0);
  expect_group_norm({1, 30, 24, 40, 32}, false, 0);
  expect_group_norm({1, 33, 7, 5, 2}, true, 0);
}

TEST_P(NormTest, GroupNormKeepsItsAccuracyUnderALargeMean) {
  if (type() == CpuType::fp32) expect_group_norm({1, 4096, 32, 0, 4}, false, 300);
}

// Many copies of a small picture below each other have the same mean and variance.
TEST_P(NormTest, GroupNormLargerThanTheCachesAgrees) {
  constexpr int64_t kPixels = 500, kChannels = 128, kBytes = 17 << 20;
  const int64_t bytes = kPixels * kChannels * (type() == CpuType::fp32 ? 4 : 2);
  const int64_t copies = kBytes / bytes + 1;
  const Array one = Array::random(type(), kPixels * kChannels, 1, 2);
  Array x(type(), copies * one.count()), y(type(), x.count());
  for (int64_t i = 0; i < copies; ++i) {
    std::memcpy(static_cast<char*>(x.data()) + i * bytes, one.data(), static_cast<size_t>(bytes));
  }
  CpuGroupNorm run{};
  run.type = type();
  run.batch = 1;
  run.pixels = copies * kPixels;
  run.channels = kChannels;
  run.x = x.data();
  run.groups = 32;
  run.epsilon = 1e-5F;
  run.silu = true;
  run.y = y.data();
  kernels().group_norm(run, SpawnParallel(2));
  CpuGroupNorm small = run;
  small.pixels = kPixels;
  const std::vector<double> want = group_norm_twin(small, one, one).y;
  for (int64_t i = 0; i < copies; i += copies - 1) {
    Array part(type(), one.count());
    std::memcpy(part.data(), static_cast<char*>(y.data()) + i * bytes, static_cast<size_t>(bytes));
    EXPECT_LT(relative_error(part, want), limit()) << "copy " << i;
  }
}

TEST_P(NormTest, LayerNormAgreesForOddSizesAndStrides) {
  for (const int64_t channels : {1, 15, 64, 77, 320, 768, 1280}) {
    const int64_t rows = 11, stride = channels + 3;
    const Array x = Array::random(type(), rows * stride, 5, 3);
    const std::vector<float> weight = random_floats(channels, 6), bias = random_floats(channels, 7);
    Array y(type(), rows * channels);
    kernels().layer_norm({.type = type(),
                          .rows = rows,
                          .channels = channels,
                          .x = x.data(),
                          .x_stride = stride,
                          .epsilon = 1e-5F,
                          .weight = weight.data(),
                          .bias = bias.data(),
                          .y = y.data(),
                          .y_stride = channels},
                         SerialParallel());
    std::vector<double> want(static_cast<size_t>(rows * channels));
    for (int64_t r = 0; r < rows; ++r) {
      double mean = 0, variance = 0;
      for (int64_t c = 0; c < channels; ++c) mean += x.at(r * stride + c);
      mean /= static_cast<double>(channels);
      for (int64_t c = 0; c < channels; ++c) variance += std::pow(x.at(r * stride + c) - mean, 2);
      variance /= static_cast<double>(channels);
      for (int64_t c = 0; c < channels; ++c) {
        const size_t i = static_cast<size_t>(c);
        want[static_cast<size_t>(r * channels + c)] = (x.at(r * stride + c) - mean) /
                                                          std::sqrt(variance + 1e-5) *
                                                          static_cast<double>(weight[i]) +
                                                      static_cast<double>(bias[i]);
      }
    }
    EXPECT_LT(relative_error(y, want), limit()) << channels;
  }
}

TEST_P(NormTest, RmsNormOfHeadsAgreesAndTurnsPairs) {
  for (const int64_t channels : {2, 16, 40, 66, 128}) {
    for (const CpuType out : {CpuType::fp32, CpuType::bf16}) {
      for (const bool turns : {false, true}) {
        const int64_t rows = 5, heads = 3, width = heads * channels, stride = width + 3;
        const Array x = Array::random(type(), rows * stride, 5, 3);
        const std::vector<float> weight = random_floats(channels, 6);
        const std::vector<float> angles = random_floats(rows * channels / 2, 7);
        std::vector<float> cosines, sines;
        for (const float angle : angles) {
          cosines.push_back(std::cos(angle));
          sines.push_back(std::sin(angle));
        }
        Array y(out, rows * (width + 1));
        kernels().rms_norm({.type = type(),
                            .out = out,
                            .rows = rows,
                            .heads = heads,
                            .channels = channels,
                            .x = x.data(),
                            .x_stride = stride,
                            .epsilon = 1e-2F,
                            .weight = weight.data(),
                            .y = y.data(),
                            .y_stride = width + 1,
                            .cosines = turns ? cosines.data() : nullptr,
                            .sines = turns ? sines.data() : nullptr},
                           SerialParallel());
        std::vector<double> want(static_cast<size_t>(rows * (width + 1)));
        for (int64_t i = 0; i < rows * heads; ++i) {
          const int64_t row = i / heads, from = row * stride + i % heads * channels;
          const auto to = static_cast<size_t>(row * (width + 1) + i % heads * channels);
          double squares = 0;
          for (int64_t c = 0; c < channels; ++c) squares += std::pow(x.at(from + c), 2);
          const double scale = 1 / std::sqrt(squares / static_cast<double>(channels) + 1e-2);
          for (size_t c = 0; c < static_cast<size_t>(channels); c += 2) {
            const auto at = from + static_cast<int64_t>(c);
            const std::complex<double> pair(x.at(at) * scale * double{weight[c]},
                                            x.at(at + 1) * scale * double{weight[c + 1]});
            const auto angle = static_cast<size_t>(row * channels / 2) + c / 2;
            const auto turned = turns ? pair * std::polar(1.0, double{angles[angle]}) : pair;
            want[to + c] = turned.real();
            want[to + c + 1] = turned.imag();
          }
        }
        const bool wide = type() == CpuType::fp32 && out == CpuType::fp32;
        EXPECT_LT(relative_error(y, want), wide ? limit() : 4e-3) << channels << turns;
      }
    }
  }
}

TEST_P(NormTest, GegluMultipliesByTheGatesGelu) {
  for (const int64_t channels : {1, 16, 21, 1280}) {
    const int64_t rows = 5;
    const Array x = Array::random(type(), rows * 2 * channels, 8, 3);
    Array y(type(), rows * channels);
    kernels().geglu({type(), rows, channels, x.data(), y.data()}, SerialParallel());
    std::vector<double> want(static_cast<size_t>(rows * channels));
    for (int64_t r = 0; r < rows; ++r) {
      for (int64_t c = 0; c < channels; ++c) {
        want[static_cast<size_t>(r * channels + c)] =
            x.at(r * 2 * channels + c) * gelu(x.at((r * 2 + 1) * channels + c));
      }
    }
    EXPECT_LT(relative_error(y, want), limit()) << channels;
  }
}

struct ActivationTwin {
  CpuActivation activation;
  double (*function)(double x);
};
const ActivationTwin kActivations[] = {
    {CpuActivation::none, [](double x) { return x; }},
    {CpuActivation::gelu, gelu},
    {CpuActivation::gelu_tanh,
     [](double x) {
       return 0.5 * x * (1 + std::tanh(std::sqrt(2 / M_PI) * (x + 0.044715 * x * x * x)));
     }},
    {CpuActivation::quick_gelu, [](double x) { return x / (1 + std::exp(-1.702 * x)); }},
    {CpuActivation::silu, silu},
};

TEST_P(NormTest, ActivationsAgreeOverTheirWholeRange) {
  for (const ActivationTwin& twin : kActivations) {
    const int64_t count = 2111;
    Array x(type(), count), y(type(), count);
    for (int64_t i = 0; i < count; ++i) x.set(i, static_cast<float>(i - 1000) * 0.02F);
    x.set(count - 1, 1e4F);
    x.set(count - 2, -1e4F);
    kernels().activate({type(), twin.activation, count, x.data(), y.data()}, SpawnParallel(2));
    for (int64_t i = 0; i < count; ++i) {
      const double want = twin.function(x.at(i));
      ASSERT_NEAR(y.at(i), want, std::abs(want) * tolerance(3e-6, 5e-3) + tolerance(2e-6, 2e-4))
          << static_cast<int>(twin.activation) << " of " << x.at(i);
    }
  }
}

TEST_P(NormTest, ActivationsOfRowsLeaveWhatLiesBetweenAlone) {
  const int64_t rows = 5, count = 1061, x_stride = 1100, y_stride = 1070;
  const Array x = Array::random(type(), rows * x_stride, 4);
  Array whole(type(), rows * x_stride);
  kernels().activate({type(), CpuActivation::gelu_tanh, rows * x_stride, x.data(), whole.data()},
                     SerialParallel());
  const Array before = Array::random(type(), rows * y_stride, 5);
  Array y = before;
  kernels().activate(
      {type(), CpuActivation::gelu_tanh, count, x.data(), y.data(), rows, x_stride, y_stride},
      SpawnParallel(3));
  for (int64_t i = 0; i < rows * y_stride; ++i) {
    const int64_t row = i / y_stride, column = i % y_stride;
    ASSERT_EQ(y.at(i), column < count ? whole.at(row * x_stride + column) : before.at(i)) << i;
  }
}

TEST_P(NormTest, UpsamplingRepeatsEveryPixelFourTimes) {
  const CpuUpsample size{type(), 2, 3, 5, 7, nullptr, nullptr};
  const Array x = Array::random(type(), 2 * 3 * 5 * 7, 9);
  Array y(type(), 4 * x.count());
  CpuUpsample run = size;
  run.x = x.data();
  run.y = y.data();
  kernels().upsample2(run, SpawnParallel(2));
  for (int64_t i = 0; i < y.count(); ++i) {
    const int64_t c = i % 7, column = i / 7 % 10, row = i / 70 % 6, b = i / 420;
    ASSERT_EQ(y.at(i), x.at(((b * 3 + row / 2) * 5 + column / 2) * 7 + c)) << i;
  }
}

// A 2x2 convolution with padding 1 and summed weights, then the interleaving, against a 3x3
// convolution of the upsampled picture.
TEST_P(NormTest, PhasesInterleaveToTheConvolutionOfTheUpsampledPicture) {
  constexpr int64_t kH = 4, kW = 3, kC = 5, kO = 6;
  const Array x = Array::random(CpuType::fp32, kH * kW * kC, 10);
  const Array w = Array::random(CpuType::fp32, kO * kC * 9, 11);
  std::vector<float> phases(4 * kO * kC * 4);
  sum_phase_weights({CpuType::fp32, w.data()}, kO, kC, phases.data(), SerialParallel());
  const auto pixel = [&](int64_t row, int64_t column, int64_t c) {
    const bool inside = row >= 0 && row < kH && column >= 0 && column < kW;
    return inside ? x.at((row * kW + column) * kC + c) : 0.0;
  };
  Array z(type(), (kH + 1) * (kW + 1) * 4 * kO), y(type(), 4 * kH * kW * kO);
  for (int64_t i = 0; i < z.count(); ++i) {
    const int64_t o = i % (4 * kO), column = i / (4 * kO) % (kW + 1), row = i / (4 * kO) / (kW + 1);
    double sum = 0;
    for (int64_t c = 0; c < kC; ++c) {
      for (int64_t t = 0; t < 4; ++t) {
        sum += pixel(row - 1 + t / 2, column - 1 + t % 2, c) *
               static_cast<double>(phases[static_cast<size_t>((o * kC + c) * 4 + t)]);
      }
    }
    z.set(i, static_cast<float>(sum));
  }
  kernels().interleave_phases({type(), 1, kH, kW, kO, z.data(), y.data()}, SerialParallel());
  std::vector<double> want(static_cast<size_t>(y.count()));
  for (int64_t i = 0; i < y.count(); ++i) {
    const int64_t o = i % kO, column = i / kO % (2 * kW), row = i / kO / (2 * kW);
    for (int64_t c = 0; c < kC; ++c) {
      for (int64_t t = 0; t < 9; ++t) {
        const int64_t up = row + t / 3 - 1, left = column + t % 3 - 1;
        if (up < 0 || left < 0) continue;
        want[static_cast<size_t>(i)] += pixel(up / 2, left / 2, c) * w.at((o * kC + c) * 9 + t);
      }
    }
  }
  EXPECT_LT(relative_error(y, want), limit());
}

INSTANTIATE_TEST_SUITE_P(Isa, NormTest, testing::ValuesIn(all_variants()), variant_name);

}  // namespace
}  // namespace atelier
