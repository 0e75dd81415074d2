// What linear layers do to their products.
#pragma once

#include "device/cpu/linear.h"
#include "device/cpu/x86/simd/vector.h"

namespace atelier {
namespace {

/// What a layer does to its product, gates aside.
template <class T>
ATELIER_INLINE Vec with_epilogue(CpuEpilogue epilogue, Vec x) {
  switch (epilogue) {
    case CpuEpilogue::gelu:
      return gelu<kPrecision<T>>(x);
    case CpuEpilogue::gelu_tanh:
      return gelu_tanh<kPrecision<T>>(x);
    case CpuEpilogue::quick_gelu:
      return swish<kPrecision<T>>(x, 1.702F);
    case CpuEpilogue::silu:
      return swish<kPrecision<T>>(x, 1);
    case CpuEpilogue::plain:
    case CpuEpilogue::geglu:
      break;
  }
  return x;
}

}  // namespace
}  // namespace atelier
