// Separable resampling in fixed point, the way Pillow does it.
// Source: Pillow, src/libImaging/Resample.c (filters, rounding and order of the passes).
#include "media/resize.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <numbers>

#include "base/nearest.h"
#include "media/codecs.h"

namespace atelier {
namespace {

constexpr int kFractionBits = 22;
constexpr int32_t kMaxSide = 65535;
constexpr int64_t kMaxSamples = int64_t{1} << 30;

double box(double x) { return x > -0.5 && x <= 0.5 ? 1 : 0; }

double triangle(double x) { return std::max(0.0, 1 - std::abs(x)); }

/// Keys' cubic with a = -1/2.
double cubic(double x) {
  constexpr double a = -0.5;
  x = std::abs(x);
  if (x < 1) return ((a + 2) * x - (a + 3)) * x * x + 1;
  if (x < 2) return (((x - 5) * x + 8) * x - 4) * a;
  return 0;
}

double sinc(double x) {
  x *= std::numbers::pi;
  return x == 0 ? 1 : std::sin(x) / x;
}

double lanczos(double x) { return x >= -3 && x < 3 ? sinc(x) * sinc(x / 3) : 0; }

/// A filter's weight by distance in output pixels, zero beyond `support`.
struct Kernel {
  double support;
  double (*weight)(double);
};

constexpr std::array<std::string_view, 5> kNames = {"nearest", "area", "bilinear", "bicubic",
                                                    "lanczos"};
constexpr std::array<Kernel, 5> kKernels = {
    {{0, nullptr}, {0.5, box}, {1, triangle}, {2, cubic}, {3, lanczos}}};

/// Where the samples of one output position come from: `count` inputs from `first` on, weighted
/// by `weights[offset...]`.
struct Taps {
  struct Run {
    int32_t first, count;
    size_t offset;
  };
  std::vector<Run> runs;
  std::vector<int32_t> weights;
};

int32_t half_up(double x) { return static_cast<int32_t>(std::floor(x + 0.5)); }

Taps make_taps(int32_t from, int32_t to, const Kernel& kernel) {
  const double scale = static_cast<double>(from) / to;
  const double stretch = std::max(scale, 1.0);
  const double support = kernel.support * stretch;
  Taps taps;
  std::vector<double> weights;
  for (int32_t i = 0; i < to; ++i) {
    const double centre = (i + 0.5) * scale;
    const int32_t first = std::max(half_up(centre - support), 0);
    const int32_t last = std::min(half_up(centre + support), from);
    weights.clear();
    double sum = 0;
    for (int32_t j = first; j < last; ++j) {
      weights.push_back(kernel.weight((j - centre + 0.5) * (1 / stretch)));
      sum += weights.back();
    }
    taps.runs.push_back({first, last - first, taps.weights.size()});
    for (double weight : weights) {
      const double fixed = (sum == 0 ? weight : weight / sum) * (1 << kFractionBits);
      taps.weights.push_back(static_cast<int32_t>(fixed + (fixed < 0 ? -0.5 : 0.5)));
    }
  }
  return taps;
}

uint8_t rounded(int32_t sum) {
  return static_cast<uint8_t>(std::clamp(sum >> kFractionBits, 0, 255));
}

Image resize_rows(const Image& image, int32_t width, const Kernel& kernel) {
  const Taps taps = make_taps(image.width, width, kernel);
  Image resized = make_image(width, image.height, image.channels);
  const auto channels = static_cast<size_t>(image.channels);
  uint8_t* to = resized.pixels.data();
  for (int32_t y = 0; y < image.height; ++y) {
    const uint8_t* row =
        image.pixels.data() + static_cast<size_t>(y) * static_cast<size_t>(image.width) * channels;
    for (const Taps::Run& run : taps.runs) {
      std::array<int32_t, 4> sums;
      sums.fill(1 << (kFractionBits - 1));
      const uint8_t* from = row + static_cast<size_t>(run.first) * channels;
      for (size_t j = 0; j < static_cast<size_t>(run.count); ++j)
        for (size_t c = 0; c < channels; ++c) sums[c] += *from++ * taps.weights[run.offset + j];
      for (size_t c = 0; c < channels; ++c) *to++ = rounded(sums[c]);
    }
  }
  return resized;
}

Image resize_columns(const Image& image, int32_t height, const Kernel& kernel) {
  const Taps taps = make_taps(image.height, height, kernel);
  Image resized = make_image(image.width, height, image.channels);
  const size_t stride = static_cast<size_t>(image.width) * static_cast<size_t>(image.channels);
  std::vector<int32_t> sums(stride);
  uint8_t* to = resized.pixels.data();
  for (const Taps::Run& run : taps.runs) {
    std::ranges::fill(sums, 1 << (kFractionBits - 1));
    for (size_t j = 0; j < static_cast<size_t>(run.count); ++j) {
      const uint8_t* from = image.pixels.data() + (static_cast<size_t>(run.first) + j) * stride;
      const int32_t weight = taps.weights[run.offset + j];
      for (size_t i = 0; i < stride; ++i) sums[i] += from[i] * weight;
    }
    for (size_t i = 0; i < stride; ++i) *to++ = rounded(sums[i]);
  }
  return resized;
}

/// The source index of each output position, stepping as Pillow does.
std::vector<size_t> nearest_indices(int32_t from, int32_t to) {
  const double scale = static_cast<double>(from) / to;
  std::vector<size_t> indices;
  double at = scale * 0.5;
  for (int32_t i = 0; i < to; ++i, at += scale)
    indices.push_back(static_cast<size_t>(std::min(static_cast<int32_t>(at), from - 1)));
  return indices;
}

Image resize_nearest(const Image& image, int32_t width, int32_t height) {
  Image resized = make_image(width, height, image.channels);
  const std::vector<size_t> columns = nearest_indices(image.width, width);
  const auto channels = static_cast<size_t>(image.channels);
  auto to = resized.pixels.begin();
  for (size_t y : nearest_indices(image.height, height)) {
    const uint8_t* row = image.pixels.data() + y * static_cast<size_t>(image.width) * channels;
    for (size_t x : columns) to = std::copy_n(row + x * channels, channels, to);
  }
  return resized;
}

/// Multiplies alpha into the colours of an RGBA picture.
void premultiply(Image& image) {
  for (size_t i = 0; i < image.pixels.size(); i += 4)
    for (size_t c = 0; c < 3; ++c) {
      const int product = image.pixels[i + c] * image.pixels[i + 3] + 128;
      image.pixels[i + c] = static_cast<uint8_t>(((product >> 8) + product) >> 8);
    }
}

void unpremultiply(Image& image) {
  for (size_t i = 0; i < image.pixels.size(); i += 4) {
    const int alpha = image.pixels[i + 3];
    if (alpha == 0 || alpha == 255) continue;
    for (size_t c = 0; c < 3; ++c)
      image.pixels[i + c] = static_cast<uint8_t>(std::min(255, 255 * image.pixels[i + c] / alpha));
  }
}

void check_target(const Image& image, int32_t width, int32_t height) {
  if (width < 1 || height < 1 || width > kMaxSide || height > kMaxSide)
    throw Error(ErrorCode::invalid_argument, {"resize", fmt::format("sides of 1 to {}", kMaxSide),
                                              fmt::format("{}x{}", width, height)});
  const int64_t rows = std::max(image.height, height);
  if (int64_t{width} * rows * image.channels > kMaxSamples)
    throw Error(ErrorCode::invalid_argument,
                {"resize", fmt::format("at most {} samples", kMaxSamples),
                 fmt::format("{}x{} from {}x{}", width, height, image.width, image.height)});
}

}  // namespace

std::span<const std::string_view> filter_names() { return kNames; }

Filter parse_filter(std::string_view name) {
  const auto found = std::ranges::find(kNames, name);
  if (found != kNames.end()) return static_cast<Filter>(found - kNames.begin());
  const std::string_view near = nearest(name, kNames);
  throw Error(
      ErrorCode::invalid_argument,
      {"resize filter", fmt::format("one of {}", fmt::join(kNames, ", ")),
       fmt::format("'{}'", name), near.empty() ? "" : fmt::format("Did you mean {}?", near)});
}

Image resize(const Image& image, int32_t width, int32_t height, Filter filter) {
  check_image(image);
  check_target(image, width, height);
  if (width == image.width && height == image.height) return image;
  if (filter == Filter::nearest) return resize_nearest(image, width, height);
  const Kernel& kernel = kKernels[static_cast<size_t>(filter)];
  Image result = image;
  if (image.channels == 4) premultiply(result);
  if (width != image.width) result = resize_rows(result, width, kernel);
  if (height != image.height) result = resize_columns(result, height, kernel);
  if (image.channels == 4) unpremultiply(result);
  return result;
}

}  // namespace atelier
