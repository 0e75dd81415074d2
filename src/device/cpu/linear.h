// Arguments of the linear kernels: y = activation(x W^T + t U^T + b) [+ y], where t = x D^T, a tail
// of few further inputs, carries what is added to a weight that is not to be touched: U D.
#pragma once

#include <cstdint>

#include "device/cpu/types.h"

namespace atelier {

/// What a linear layer does to its product before storing.
enum class CpuEpilogue : uint8_t {
  plain,
  gelu,
  gelu_tanh,
  quick_gelu,
  silu,
  geglu,  // the first half of the outputs times gelu of the second half
};

/// The tail's inputs that some outputs take: those up to `outputs_end` from where the range before
/// ends. U is zero in the others, which are neither packed nor multiplied. Neither `first` nor
/// `end` decreases from range to range.
struct TailRange {
  int64_t outputs_end, first, end;
};

/// A layer; decides the packed weight's form.
struct CpuLinear {
  CpuType type;  // of x and y
  int64_t inputs, outputs;  // of W, so that geglu stores outputs / 2 numbers a row
  CpuEpilogue epilogue = CpuEpilogue::plain;
  int64_t tail = 0;  // outputs of D, inputs of U
  bool int8 = false;  // multiplied by CpuInt8Kernels (device/cpu/int8.h), which know no tail
  /// Of all outputs, where there are any; else every output takes the whole tail. Not owned.
  const TailRange* tail_ranges = nullptr;
  int64_t tail_range_count = 0;
};

/// One application to `rows` rows. `accumulate` adds the result to what y holds (a residual).
struct CpuLinearRun {
  int64_t rows;
  const void* x;
  int64_t x_stride;  // elements from row to row
  const void* packed;  // 64-byte aligned
  const float* bias;  // [outputs] or nullptr
  void* y;
  int64_t y_stride;
  bool accumulate = false;
  /// D, packed as the weight of a plain layer from `inputs` to `tail`; t is rounded to `type`. Not
  /// read where the layer has no tail.
  const void* down = nullptr;
};

}  // namespace atelier
