// Activations and upsampling copies.
#pragma once

#include <string.h>

#include "device/cpu/norms.h"
#include "device/cpu/parallel.h"
#include "device/cpu/x86/simd/vector.h"

namespace atelier {
namespace {

template <class T>
void geglu_of(const CpuGeglu& run, const Parallel& parallel) {
  parallel_for(parallel, run.rows, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      const T* x = static_cast<const T*>(run.x) + row * 2 * run.channels;
      T* y = static_cast<T*>(run.y) + row * run.channels;
      for (int64_t c = 0; c < run.channels; c += kLanes) {
        const Lanes lanes = first_lanes(run.channels - c);
        const Vec gate = gelu<kPrecision<T>>(load(x + run.channels + c, lanes));
        store(y + c, mul(load(x + c, lanes), gate), lanes);
      }
    }
  });
}

template <class T, CpuActivation activation>
void activate_with(const CpuActivate& run, const Parallel& parallel) {
  constexpr int64_t kChunk = 1024;
  const int64_t chunks = divide_up(run.count, kChunk);
  parallel_for(parallel, run.rows * chunks, [&](int64_t begin, int64_t end) {
    for (int64_t task = begin; task < end; ++task) {
      const int64_t row = task / chunks, first = task % chunks * kChunk;
      const T* x = static_cast<const T*>(run.x) + row * run.x_stride;
      T* y = static_cast<T*>(run.y) + row * run.y_stride;
      for (int64_t i = first; i < min64(first + kChunk, run.count); i += kLanes) {
        const Lanes lanes = first_lanes(run.count - i);
        store(y + i, activated<kPrecision<T>>(activation, load(x + i, lanes)), lanes);
      }
    }
  });
}

template <class T>
void activate_of(const CpuActivate& run, const Parallel& parallel) {
  switch (run.activation) {
    case CpuActivation::gelu:
      return activate_with<T, CpuActivation::gelu>(run, parallel);
    case CpuActivation::gelu_tanh:
      return activate_with<T, CpuActivation::gelu_tanh>(run, parallel);
    case CpuActivation::quick_gelu:
      return activate_with<T, CpuActivation::quick_gelu>(run, parallel);
    case CpuActivation::silu:
      return activate_with<T, CpuActivation::silu>(run, parallel);
    case CpuActivation::none:
      return activate_with<T, CpuActivation::none>(run, parallel);
  }
}

/// Copies the channels of every output pixel from pixel `source(batch, row, column)` of x.
template <class F>
void copy_pixels(const CpuUpsample& run, const Parallel& parallel, const F& source) {
  const int64_t bytes = run.channels * (run.type == CpuType::fp32 ? 4 : 2);
  const char* x = static_cast<const char*>(run.x);
  char* y = static_cast<char*>(run.y);
  parallel_for(parallel, run.batch * run.height * 2, [&](int64_t begin, int64_t end) {
    for (int64_t line = begin; line < end; ++line) {
      const int64_t batch = line / (2 * run.height), row = line % (2 * run.height);
      for (int64_t column = 0; column < 2 * run.width; ++column) {
        memcpy(y + (line * 2 * run.width + column) * bytes, x + source(batch, row, column) * bytes,
               static_cast<size_t>(bytes));
      }
    }
  });
}

void geglu(const CpuGeglu& run, const Parallel& parallel) {
  run.type == CpuType::fp32 ? geglu_of<float>(run, parallel) : geglu_of<Bf16>(run, parallel);
}
void activate(const CpuActivate& run, const Parallel& parallel) {
  run.type == CpuType::fp32 ? activate_of<float>(run, parallel) : activate_of<Bf16>(run, parallel);
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

}  // namespace
}  // namespace atelier
