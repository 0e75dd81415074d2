// Arguments of the convolution kernels, channels-last, and weight transforms they are built on.
//
// Shapes: C input channels, O output channels, picture [B][H][W][C].
#pragma once

#include <cstdint>

#include "device/cpu/parallel.h"
#include "device/cpu/types.h"

namespace atelier {

/// A convolution with a square kernel. It, and never the size of the picture, decides method and
/// packed weight.
struct CpuConv {
  CpuType type;  // of input and output
  int64_t inputs, outputs;
  int kernel = 3, stride = 1;
  int pad_begin = 1, pad_end = 1;  // zeros above and to the left; below and to the right
  bool upsample = false;  // the picture is first doubled to 2H x 2W by repeating pixels
};

/// How an instruction set would do a layer.
enum class CpuConvMethod : uint8_t {
  library,  // no kernel of ours is better: use libtorch's
  direct,
  winograd,  // F(2x2, 3x3): Lavin and Gray, arXiv:1509.09308
};

/// Size of an input picture before any upsampling.
struct CpuPicture {
  int64_t batch, height, width;
};

/// One application. `bias` is fp32 [outputs], or [batch][outputs] with bias_batch_stride = outputs.
/// `accumulate` adds the result to what y holds (a residual).
struct CpuConvRun {
  CpuPicture input;
  const void* x;
  const void* packed;  // 64-byte aligned
  const float* bias;  // or nullptr
  int64_t bias_batch_stride = 0;
  void* y;
  bool accumulate = false;
};

/// Height or width of the output for `size` pixels of input.
int64_t conv_output_size(const CpuConv& layer, int64_t size);

/// Nearest-2x upsampling followed by a 3x3 convolution with padding 1 equals four 2x2
/// convolutions of the small picture, one per output phase (row parity, column parity), in which
/// the weights of coinciding taps are summed. `weights` [O][C][3][3] -> `phases` fp32
/// [4][O][C][2][2], phase = 2 * row parity + column parity. As one 2x2 convolution with padding 1
/// and 4 O outputs the phases lie shifted by one pixel: see CpuUpsample in device/cpu/norms.h.
void sum_phase_weights(const CpuWeights& weights, int64_t outputs, int64_t inputs, float* phases,
                       const Parallel& parallel);

}  // namespace atelier
