// Arguments of the norm, activation and upsampling kernels, channels-last.
#pragma once

#include <cstdint>

#include "device/cpu/types.h"

namespace atelier {

/// y = act(groupnorm(x)) over pictures [batch][pixels][channels]. With `skip` set the input is the
/// concatenation of x and skip along the channels, and `joined` (optional) receives it. Mean and
/// variance are summed in a fixed order. y may be x if there is no skip.
struct CpuGroupNorm {
  CpuType type;
  int64_t batch, pixels;
  int64_t channels;  // of x
  int64_t skip_channels = 0;
  const void* x;
  const void* skip = nullptr;
  int64_t groups;  // divides channels + skip_channels
  float epsilon;
  const float* weight;  // [channels + skip_channels] or nullptr for 1
  const float* bias;  // the same or nullptr for 0
  bool silu = false;
  void* y;
  void* joined = nullptr;
};

/// y = (x - mean) / sqrt(variance + epsilon) * weight + bias for each row. y may be x.
struct CpuLayerNorm {
  CpuType type;
  int64_t rows, channels;
  const void* x;
  int64_t x_stride;  // elements from row to row
  float epsilon;
  const float* weight;  // [channels] or nullptr for 1
  const float* bias;  // or nullptr for 0
  void* y;
  int64_t y_stride;
};

/// y = x / sqrt(mean(x^2) + epsilon) * weight for each of `heads` runs of `channels` side by side
/// in a row. With angles, pairs of neighbouring channels then turn by those of their row: (a, b) ->
/// (a cos - b sin, a sin + b cos); channels are even.
struct CpuRmsNorm {
  CpuType type;  // of x
  CpuType out;  // of y
  int64_t rows, heads, channels;
  const void* x;
  int64_t x_stride;  // elements from row to row
  float epsilon;
  const float* weight;  // [channels]
  void* y;
  int64_t y_stride;
  const float* cosines = nullptr;  // [rows][channels / 2]
  const float* sines = nullptr;
};

/// y[r][c] = x[r][c] * gelu(x[r][channels + c]): x [rows][2 channels] -> y [rows][channels].
struct CpuGeglu {
  CpuType type;
  int64_t rows, channels;
  const void* x;
  void* y;
};

/// y = activation(x) in each of `rows` rows of `count` numbers. y may be x.
struct CpuActivate {
  CpuType type;
  CpuActivation activation;
  int64_t count;
  const void* x;
  void* y;
  int64_t rows = 1;
  int64_t x_stride = 0, y_stride = 0;  // elements from row to row
};

/// upsample2: x [batch][height][width][channels] -> y [batch][2 height][2 width][channels], each
/// pixel four times. interleave_phases: x is [batch][height + 1][width + 1][4][channels], the
/// output of a 2x2 convolution with padding 1 and the weights of sum_phase_weights; y as before.
struct CpuUpsample {
  CpuType type;
  int64_t batch, height, width, channels;  // of the small picture
  const void* x;
  void* y;
};

}  // namespace atelier
