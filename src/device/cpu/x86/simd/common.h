// What the kernels of all x86 instruction sets share. Internal linkage throughout: every
// translation unit has its own copy, compiled for its own instruction set.
#pragma once

#include <immintrin.h>

#include <cstdint>

#include "device/cpu/scalar.h"
#include "device/cpu/types.h"

#define ATELIER_UNROLL _Pragma("GCC unroll 16")
#define ATELIER_INLINE __attribute__((always_inline)) static inline
#define ATELIER_INLINE_MEMBER __attribute__((always_inline)) inline

namespace atelier {
namespace {

constexpr float kLog2E = 1.44269504088896F;

ATELIER_INLINE int64_t min64(int64_t a, int64_t b) { return a < b ? a : b; }
ATELIER_INLINE int64_t max64(int64_t a, int64_t b) { return a < b ? b : a; }
ATELIER_INLINE int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }
ATELIER_INLINE int64_t round_up(int64_t a, int64_t b) { return divide_up(a, b) * b; }

/// How exactly functions are evaluated: for results kept as bf16 or as fp32.
enum class Precision { bf16, fp32 };
template <class T>
constexpr Precision kPrecision = sizeof(T) == 2 ? Precision::bf16 : Precision::fp32;

/// Stands for numbers stored as T that are multiplied as 8-bit integers under a scale for each row.
template <class T>
struct Quantised {};

/// How the numbers of a product are stored, and whether they are multiplied as 8-bit integers.
template <class N>
struct Numbers {
  using Stored = N;
  static constexpr bool kQuantised = false;
};
template <class T>
struct Numbers<Quantised<T>> {
  using Stored = T;
  static constexpr bool kQuantised = true;
};
template <class N>
using Stored = typename Numbers<N>::Stored;
template <class N>
constexpr bool kQuantised = Numbers<N>::kQuantised;

}  // namespace
}  // namespace atelier
