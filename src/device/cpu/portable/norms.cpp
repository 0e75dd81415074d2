// Norms, activations and upsampling in plain C++.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "device/cpu/portable/portable.h"
#include "device/cpu/scalar.h"

namespace atelier::portable {
namespace {

float sigmoid(float x) { return 1.F / (1.F + std::exp(-x)); }

float apply(CpuActivation activation, float x) {
  constexpr float kSqrtHalf = 0.70710678F, kSqrtTwoOverPi = 0.79788456F;
  switch (activation) {
    case CpuActivation::gelu:
      return 0.5F * x * (1.F + std::erf(x * kSqrtHalf));
    case CpuActivation::gelu_tanh:
      return 0.5F * x * (1.F + std::tanh(kSqrtTwoOverPi * (x + 0.044715F * x * x * x)));
    case CpuActivation::quick_gelu:
      return x * sigmoid(1.702F * x);
    case CpuActivation::silu:
      return x * sigmoid(x);
    case CpuActivation::none:
      break;
  }
  return x;
}

// Calls body(T{}) with the storage type of `type`.
template <class F>
void with_type(CpuType type, const F& body) {
  type == CpuType::fp32 ? body(float{}) : body(Bf16{});
}

template <class T>
struct JoinedInput {
  const CpuGroupNorm& run;
  int64_t channels() const { return run.channels + run.skip_channels; }
  // `pixel` counts through the batch.
  T at(int64_t pixel, int64_t channel) const {
    return channel < run.channels
               ? static_cast<const T*>(run.x)[pixel * run.channels + channel]
               : static_cast<const T*>(
                     run.skip)[pixel * run.skip_channels + channel - run.channels];
  }
};

template <class T>
void normalise_group(const CpuGroupNorm& run, int64_t batch, int64_t group) {
  const JoinedInput<T> input{run};
  const int64_t width = input.channels() / run.groups, first = group * width;
  const int64_t begin = batch * run.pixels, end = begin + run.pixels;
  double sum = 0, squares = 0;
  for (int64_t pixel = begin; pixel < end; ++pixel) {
    for (int64_t c = first; c < first + width; ++c) {
      const double value = widen(input.at(pixel, c));
      sum += value;
      squares += value * value;
    }
  }
  const double count = static_cast<double>(width * run.pixels), mean = sum / count;
  const double variance = std::max(0.0, squares / count - mean * mean);
  const double inverse = 1 / std::sqrt(variance + static_cast<double>(run.epsilon));
  for (int64_t pixel = begin; pixel < end; ++pixel) {
    for (int64_t c = first; c < first + width; ++c) {
      const T value = input.at(pixel, c);
      const int64_t index = pixel * input.channels() + c;
      const double weight = run.weight == nullptr ? 1 : run.weight[c];
      const double bias = run.bias == nullptr ? 0 : run.bias[c];
      const float y = static_cast<float>((widen(value) - mean) * inverse * weight + bias);
      if (run.joined != nullptr) static_cast<T*>(run.joined)[index] = value;
      narrow(run.silu ? apply(CpuActivation::silu, y) : y, static_cast<T*>(run.y)[index]);
    }
  }
}

template <class T>
void normalise_row(const CpuLayerNorm& run, int64_t row) {
  const T* x = static_cast<const T*>(run.x) + row * run.x_stride;
  T* y = static_cast<T*>(run.y) + row * run.y_stride;
  double sum = 0, squares = 0;
  for (int64_t c = 0; c < run.channels; ++c) sum += widen(x[c]);
  const double mean = sum / static_cast<double>(run.channels);
  for (int64_t c = 0; c < run.channels; ++c) {
    const double off = widen(x[c]) - mean;
    squares += off * off;
  }
  const double inverse =
      1 / std::sqrt(squares / static_cast<double>(run.channels) + static_cast<double>(run.epsilon));
  for (int64_t c = 0; c < run.channels; ++c) {
    const double weight = run.weight == nullptr ? 1 : run.weight[c];
    const double bias = run.bias == nullptr ? 0 : run.bias[c];
    narrow(static_cast<float>((widen(x[c]) - mean) * inverse * weight + bias), y[c]);
  }
}

template <class In, class Out>
void normalise_head(const CpuRmsNorm& run, int64_t row, int64_t head) {
  const In* x = static_cast<const In*>(run.x) + row * run.x_stride + head * run.channels;
  Out* y = static_cast<Out*>(run.y) + row * run.y_stride + head * run.channels;
  double squares = 0;
  for (int64_t c = 0; c < run.channels; ++c) squares += double{widen(x[c])} * double{widen(x[c])};
  const double inverse =
      1 / std::sqrt(squares / static_cast<double>(run.channels) + static_cast<double>(run.epsilon));
  const auto scaled = [&](int64_t c) { return widen(x[c]) * inverse * double{run.weight[c]}; };
  if (run.cosines == nullptr) {
    for (int64_t c = 0; c < run.channels; ++c) narrow(static_cast<float>(scaled(c)), y[c]);
    return;
  }
  for (int64_t c = 0; c < run.channels; c += 2) {
    const int64_t angle = row * run.channels / 2 + c / 2;
    const double a = scaled(c), b = scaled(c + 1);
    const double cosine = double{run.cosines[angle]}, sine = double{run.sines[angle]};
    narrow(static_cast<float>(a * cosine - b * sine), y[c]);
    narrow(static_cast<float>(a * sine + b * cosine), y[c + 1]);
  }
}

// Copies `channels` numbers for every output pixel from where `source(batch, row, column)` lies.
template <class F>
void copy_pixels(const CpuUpsample& run, const Parallel& parallel, const F& source) {
  const int64_t bytes = run.channels * (run.type == CpuType::fp32 ? 4 : 2);
  const char* x = static_cast<const char*>(run.x);
  char* y = static_cast<char*>(run.y);
  parallel_for(parallel, run.batch * run.height * 2, [&](int64_t begin, int64_t end) {
    for (int64_t line = begin; line < end; ++line) {
      const int64_t batch = line / (2 * run.height), row = line % (2 * run.height);
      for (int64_t column = 0; column < 2 * run.width; ++column) {
        std::memcpy(y + (line * 2 * run.width + column) * bytes,
                    x + source(batch, row, column) * bytes, static_cast<size_t>(bytes));
      }
    }
  });
}

}  // namespace

void group_norm(const CpuGroupNorm& run, const Parallel& parallel) {
  with_type(run.type, [&]<class T>(T) {
    parallel_for(parallel, run.batch * run.groups, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) normalise_group<T>(run, i / run.groups, i % run.groups);
    });
  });
}

void layer_norm(const CpuLayerNorm& run, const Parallel& parallel) {
  with_type(run.type, [&]<class T>(T) {
    parallel_for(parallel, run.rows, [&](int64_t begin, int64_t end) {
      for (int64_t row = begin; row < end; ++row) normalise_row<T>(run, row);
    });
  });
}

void rms_norm(const CpuRmsNorm& run, const Parallel& parallel) {
  with_type(run.type, [&]<class In>(In) {
    with_type(run.out, [&]<class Out>(Out) {
      parallel_for(parallel, run.rows, [&](int64_t begin, int64_t end) {
        for (int64_t i = begin * run.heads; i < end * run.heads; ++i)
          normalise_head<In, Out>(run, i / run.heads, i % run.heads);
      });
    });
  });
}

void geglu(const CpuGeglu& run, const Parallel& parallel) {
  with_type(run.type, [&]<class T>(T) {
    parallel_for(parallel, run.rows, [&](int64_t begin, int64_t end) {
      for (int64_t row = begin; row < end; ++row) {
        const T* x = static_cast<const T*>(run.x) + row * 2 * run.channels;
        T* y = static_cast<T*>(run.y) + row * run.channels;
        for (int64_t c = 0; c < run.channels; ++c) {
          narrow(widen(x[c]) * apply(CpuActivation::gelu, widen(x[run.channels + c])), y[c]);
        }
      }
    });
  });
}

void activate(const CpuActivate& run, const Parallel& parallel) {
  with_type(run.type, [&]<class T>(T) {
    parallel_for(parallel, run.rows * run.count, [&](int64_t begin, int64_t end) {
      for (int64_t task = begin; task < end; ++task) {
        const int64_t row = task / run.count, i = task % run.count;
        const float x = widen(static_cast<const T*>(run.x)[row * run.x_stride + i]);
        narrow(apply(run.activation, x), static_cast<T*>(run.y)[row * run.y_stride + i]);
      }
    });
  });
}

void upsample2(const CpuUpsample& run, const Parallel& parallel) {
  copy_pixels(run, parallel, [&](int64_t batch, int64_t row, int64_t column) {
    return (batch * run.height + row / 2) * run.width + column / 2;
  });
}

void interleave_phases(const CpuUpsample& run, const Parallel& parallel) {
  copy_pixels(run, parallel, [&](int64_t batch, int64_t row, int64_t column) {
    const int64_t padded_row = batch * (run.height + 1) + row / 2 + row % 2;
    const int64_t pixel = padded_row * (run.width + 1) + column / 2 + column % 2;
    return pixel * 4 + row % 2 * 2 + column % 2;
  });
}

}  // namespace atelier::portable
