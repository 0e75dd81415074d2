// Channels-last norms: fp32 arithmetic, bf16 or fp32 storage. Partial sums are cut and added in an
// order that depends on the shape alone.
#pragma once

#include "device/cpu/norms.h"
#include "device/cpu/parallel.h"
#include "device/cpu/scratch.h"
#include "device/cpu/x86/simd/vector.h"

namespace atelier {
namespace {

constexpr int64_t kStreamAbove = 16 << 20;  // bytes; larger outputs leave the caches anyway
constexpr int64_t kMostSlices = 32;  // of a picture's pixels, summed separately
constexpr int kVectors = kLanes / 2;  // channels summed side by side, in registers

/// One of the two inputs that are normalised as if they were concatenated.
template <class T>
struct ChannelRange {
  const T* data;
  int64_t channels, offset;  // where its channels lie in the concatenation
};
template <class T>
struct ChannelRanges {
  ChannelRange<T> range[2];
  int count;
  int64_t channels;
};
template <class T>
ChannelRanges<T> channel_ranges(const CpuGroupNorm& run) {
  const int64_t joined = run.channels + run.skip_channels;
  return {{{static_cast<const T*>(run.x), run.channels, 0},
           {static_cast<const T*>(run.skip), run.skip_channels, run.channels}},
          run.skip_channels > 0 ? 2 : 1,
          joined};
}

/// Sums and sums of squares of kWidth vectors of channels over `pixels` rows, both of the distance
/// from `pilot` so that a large common mean costs no accuracy.
template <int kWidth, class T>
ATELIER_INLINE void sum_columns(const T* x, int64_t stride, int64_t pixels, const T* pilot,
                                Lanes lanes, float* sums, float* squares) {
  constexpr int64_t kAhead = 8;  // rows to prefetch
  Vec a[kWidth], q[kWidth], origin[kWidth];
  ATELIER_UNROLL for (int i = 0; i < kWidth; ++i) {
    a[i] = q[i] = zero();
    origin[i] = load(pilot + kLanes * i, lanes);
  }
  for (int64_t pixel = 0; pixel < pixels; ++pixel, x += stride) {
    if constexpr (kWidth > 1) {
      ATELIER_UNROLL for (int i = 0; i < kWidth * kLanes * int{sizeof(T)} / 64; ++i) {
        _mm_prefetch(reinterpret_cast<const char*>(x + kAhead * stride) + 64 * i, _MM_HINT_T0);
      }
    }
    ATELIER_UNROLL for (int i = 0; i < kWidth; ++i) {
      const Vec raw = kWidth > 1 ? load(x + kLanes * i) : load(x, lanes);
      const Vec value = sub(raw, origin[i]);
      a[i] = add(a[i], value);
      q[i] = fma(value, value, q[i]);
    }
  }
  ATELIER_UNROLL for (int i = 0; i < kWidth; ++i) {
    store(sums + kLanes * i, a[i], lanes);
    store(squares + kLanes * i, q[i], lanes);
  }
}

/// How group_norm() cuts the pixels of each picture.
struct Slices {
  int64_t count, pixels;
  explicit Slices(int64_t total)
      : count(min64(kMostSlices, max64(1, total / 16))), pixels(divide_up(total, count)) {}
};

/// Partial sums [batch][slice][2][channels] of the distance from each picture's first pixel.
template <class T>
void sum_slices(const CpuGroupNorm& run, const ChannelRanges<T>& in, const Slices& slices,
                float* partial, const Parallel& parallel) {
  parallel_for(parallel, run.batch * slices.count, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t first = i % slices.count * slices.pixels;
      const int64_t pixels = max64(0, min64(slices.pixels, run.pixels - first));
      float* sums = partial + i * 2 * in.channels;
      float* squares = sums + in.channels;
      for (int k = 0; k < in.count; ++k) {
        const ChannelRange<T>& range = in.range[k];
        const T* pilot = range.data + i / slices.count * run.pixels * range.channels;
        const T* x = pilot + first * range.channels;
        int64_t c = 0;
        for (; c + kLanes * kVectors <= range.channels; c += kLanes * kVectors) {
          sum_columns<kVectors>(x + c, range.channels, pixels, pilot + c, all_lanes(),
                                sums + range.offset + c, squares + range.offset + c);
        }
        for (; c < range.channels; c += kLanes) {
          sum_columns<1>(x + c, range.channels, pixels, pilot + c, first_lanes(range.channels - c),
                         sums + range.offset + c, squares + range.offset + c);
        }
      }
    }
  });
}

struct ChannelSums {
  double pilot, sum, squares;
};
template <class T>
ChannelSums total_of(const CpuGroupNorm& run, const ChannelRanges<T>& in, const Slices& slices,
                     const float* partial, int64_t batch, int64_t channel) {
  const ChannelRange<T>& range = in.range[channel < run.channels ? 0 : 1];
  const T pilot = range.data[batch * run.pixels * range.channels + channel - range.offset];
  ChannelSums total{static_cast<double>(widen(pilot)), 0, 0};
  for (int64_t s = 0; s < slices.count; ++s) {
    const float* p = partial + (batch * slices.count + s) * 2 * in.channels + channel;
    total.sum += static_cast<double>(p[0]);
    total.squares += static_cast<double>(p[in.channels]);
  }
  return total;
}

/// From partial sums to y = scale x + shift for every channel of every picture, [batch][channels].
template <class T>
void fold_statistics(const CpuGroupNorm& run, const ChannelRanges<T>& in, const Slices& slices,
                     const float* partial, float* scale, float* shift) {
  const int64_t width = in.channels / run.groups;
  const double pixels = static_cast<double>(run.pixels);
  for (int64_t i = 0; i < run.batch * run.groups; ++i) {
    const int64_t batch = i / run.groups, first = i % run.groups * width;
    const auto channel = [&](int64_t c) { return total_of(run, in, slices, partial, batch, c); };
    double mean = 0, variance = 0;
    for (int64_t c = first; c < first + width; ++c) {
      const ChannelSums total = channel(c);
      mean += (total.sum / pixels + total.pilot) / static_cast<double>(width);
    }
    for (int64_t c = first; c < first + width; ++c) {
      const ChannelSums total = channel(c);
      const double off = total.pilot - mean;
      variance += (total.squares + 2 * off * total.sum) / pixels + off * off;
    }
    variance /= static_cast<double>(width);
    if (variance < 0) variance = 0;
    const double inverse = 1 / __builtin_sqrt(variance + static_cast<double>(run.epsilon));
    for (int64_t c = first; c < first + width; ++c) {
      const double weight = run.weight == nullptr ? 1 : static_cast<double>(run.weight[c]);
      const double bias = run.bias == nullptr ? 0 : static_cast<double>(run.bias[c]);
      scale[batch * in.channels + c] = static_cast<float>(weight * inverse);
      shift[batch * in.channels + c] = static_cast<float>(bias - mean * weight * inverse);
    }
  }
}

template <class T, bool kSilu>
ATELIER_INLINE Vec scaled(Vec x, Vec scale, Vec shift) {
  const Vec y = fma(x, scale, shift);
  if constexpr (kSilu) return swish<kPrecision<T>>(y, 1);
  return y;
}

/// One row past the caches; whole vectors only.
template <class T, bool kSilu>
ATELIER_INLINE void stream_row(const T* x, int64_t channels, const float* scale, const float* shift,
                               T* y) {
  for (int64_t c = 0; c < channels; c += kLanes) {
    stream(y + c, scaled<T, kSilu>(load(x + c), load(scale + c), load(shift + c)));
  }
}
template <class T, bool kSilu>
ATELIER_INLINE void store_row(const T* x, int64_t channels, const float* scale, const float* shift,
                              T* y, T* joined) {
  for (int64_t c = 0; c < channels; c += kLanes) {
    const Lanes lanes = first_lanes(channels - c);
    const Vec value = load(x + c, lanes);
    store(y + c, scaled<T, kSilu>(value, load(scale + c, lanes), load(shift + c, lanes)), lanes);
    if (joined != nullptr) store(joined + c, value, lanes);
  }
}

template <class T, bool kSilu>
void apply_scales(const CpuGroupNorm& run, const ChannelRanges<T>& in, const float* scale,
                  const float* shift, const Parallel& parallel) {
  const int64_t rows = run.batch * run.pixels, bytes = rows * in.channels * int64_t{sizeof(T)};
  T* y = static_cast<T*>(run.y);
  T* joined = static_cast<T*>(run.joined);
  const bool past_caches = in.count == 1 && joined == nullptr && in.channels % 32 == 0 &&
                           bytes > kStreamAbove && reinterpret_cast<uintptr_t>(y) % 64 == 0;
  parallel_for(parallel, rows, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      const float* a = scale + row / run.pixels * in.channels;
      const float* b = shift + row / run.pixels * in.channels;
      T* out = y + row * in.channels;
      if (past_caches) {
        stream_row<T, kSilu>(in.range[0].data + row * in.channels, in.channels, a, b, out);
        continue;
      }
      for (int k = 0; k < in.count; ++k) {
        const ChannelRange<T>& range = in.range[k];
        T* raw = joined == nullptr ? nullptr : joined + row * in.channels + range.offset;
        store_row<T, kSilu>(range.data + row * range.channels, range.channels, a + range.offset,
                            b + range.offset, out + range.offset, raw);
      }
    }
    if (past_caches) _mm_sfence();
  });
}

template <class T>
void group_norm_of(const CpuGroupNorm& run, const Parallel& parallel) {
  const ChannelRanges<T> in = channel_ranges<T>(run);
  const Slices slices(run.pixels);
  const int64_t partial_count = run.batch * slices.count * 2 * in.channels;
  const int64_t fold_count = run.batch * in.channels;
  const Scratch scratch((partial_count + 2 * fold_count) * int64_t{sizeof(float)});
  float* partial = static_cast<float*>(scratch.data());
  float* scale = partial + partial_count;
  float* shift = scale + fold_count;
  sum_slices(run, in, slices, partial, parallel);
  fold_statistics(run, in, slices, partial, scale, shift);
  run.silu ? apply_scales<T, true>(run, in, scale, shift, parallel)
           : apply_scales<T, false>(run, in, scale, shift, parallel);
}

template <class T>
ATELIER_INLINE void layer_norm_row(const CpuLayerNorm& run, const T* x, T* y) {
  const int64_t channels = run.channels;
  Vec sum = zero(), squares = sum;
  for (int64_t c = 0; c < channels; c += kLanes) {
    sum = add(sum, load(x + c, first_lanes(channels - c)));
  }
  const Vec mean = splat(reduce_add(sum) / static_cast<float>(channels));
  for (int64_t c = 0; c < channels; c += kLanes) {
    const Lanes lanes = first_lanes(channels - c);
    const Vec off = keep(lanes, sub(load(x + c, lanes), mean));
    squares = fma(off, off, squares);
  }
  const float variance = reduce_add(squares) / static_cast<float>(channels);
  const Vec inverse = splat(1.F / __builtin_sqrtf(variance + run.epsilon));
  for (int64_t c = 0; c < channels; c += kLanes) {
    const Lanes lanes = first_lanes(channels - c);
    const Vec weight = run.weight == nullptr ? splat(1) : load(run.weight + c, lanes);
    const Vec bias = run.bias == nullptr ? zero() : load(run.bias + c, lanes);
    const Vec off = sub(load(x + c, lanes), mean);
    store(y + c, fma(mul(off, inverse), weight, bias), lanes);
  }
}

template <class T>
void layer_norm_of(const CpuLayerNorm& run, const Parallel& parallel) {
  parallel_for(parallel, run.rows, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      layer_norm_row(run, static_cast<const T*>(run.x) + row * run.x_stride,
                     static_cast<T*>(run.y) + row * run.y_stride);
    }
  });
}

template <class In, class Out>
ATELIER_INLINE void rms_norm_head(const CpuRmsNorm& run, const In* x, Out* y, const float* cosines,
                                  const float* sines) {
  const int64_t channels = run.channels;
  Vec squares = zero();
  for (int64_t c = 0; c < channels; c += kLanes) {
    const Vec value = load(x + c, first_lanes(channels - c));
    squares = fma(value, value, squares);
  }
  const float mean = reduce_add(squares) / static_cast<float>(channels);
  const Vec inverse = splat(1.F / __builtin_sqrtf(mean + run.epsilon));
  for (int64_t c = 0; c < channels; c += kLanes) {
    const Lanes lanes = first_lanes(channels - c);
    Vec value = mul(mul(load(x + c, lanes), inverse), load(run.weight + c, lanes));
    if (cosines != nullptr) {
      const Lanes pairs = first_lanes(min64(channels - c, kLanes) / 2);
      value = turn_pairs(value, load(cosines + c / 2, pairs), load(sines + c / 2, pairs));
    }
    store(y + c, value, lanes);
  }
}

template <class In, class Out>
void rms_norm_of(const CpuRmsNorm& run, const Parallel& parallel) {
  parallel_for(parallel, run.rows, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      const int64_t angles = row * run.channels / 2;
      const float* cosines = run.cosines == nullptr ? nullptr : run.cosines + angles;
      const float* sines = run.cosines == nullptr ? nullptr : run.sines + angles;
      for (int64_t head = 0; head < run.heads; ++head) {
        const int64_t first = head * run.channels;
        rms_norm_head(run, static_cast<const In*>(run.x) + row * run.x_stride + first,
                      static_cast<Out*>(run.y) + row * run.y_stride + first, cosines, sines);
      }
    }
  });
}

void group_norm(const CpuGroupNorm& run, const Parallel& parallel) {
  run.type == CpuType::fp32 ? group_norm_of<float>(run, parallel)
                            : group_norm_of<Bf16>(run, parallel);
}
void layer_norm(const CpuLayerNorm& run, const Parallel& parallel) {
  run.type == CpuType::fp32 ? layer_norm_of<float>(run, parallel)
                            : layer_norm_of<Bf16>(run, parallel);
}
void rms_norm(const CpuRmsNorm& run, const Parallel& parallel) {
  constexpr CpuType kWide = CpuType::fp32;
  if (run.type == kWide)
    run.out == kWide ? rms_norm_of<float, float>(run, parallel)
                     : rms_norm_of<float, Bf16>(run, parallel);
  else
    run.out == kWide ? rms_norm_of<Bf16, float>(run, parallel)
                     : rms_norm_of<Bf16, Bf16>(run, parallel);
}

}  // namespace
}  // namespace atelier
