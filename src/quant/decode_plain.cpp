// Plain encodings in two short hops through a buffer in the first cache: stored value to float,
// float to compute number. The wide hops use F16C and AVX2 where the CPU has them.
#include "quant/decode_plain.h"

#include <c10/util/Float8_e4m3fn.h>
#include <c10/util/Float8_e5m2.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace atelier {
namespace {

constexpr int64_t kHop = 512;  // elements per hop

template <class T>
T load(const std::byte* from) {
  T value;
  std::memcpy(&value, from, sizeof(T));
  return value;
}

template <class Stored>
void widen(const std::byte* from, int64_t n, float* to) {
  for (int64_t i = 0; i < n; ++i)
    to[i] = static_cast<float>(load<Stored>(from + i * static_cast<int64_t>(sizeof(Stored))));
}

template <class Stored>
std::array<float, 256> byte_table() {
  std::array<float, 256> table{};
  for (size_t i = 0; i < table.size(); ++i)
    table[i] = static_cast<float>(std::bit_cast<Stored>(static_cast<uint8_t>(i)));
  return table;
}

template <class Stored>
void widen_byte(const std::byte* from, int64_t n, float* to) {
  static const std::array<float, 256> table = byte_table<Stored>();
  for (int64_t i = 0; i < n; ++i) to[i] = table[static_cast<uint8_t>(from[i])];
}

template <class T>
void narrow(const float* from, int64_t n, T* to) {
  for (int64_t i = 0; i < n; ++i) to[i] = static_cast<T>(from[i]);
}

template <>
void narrow(const float* from, int64_t n, float* to) {
  std::memcpy(to, from, static_cast<size_t>(n) * sizeof(float));
}

template <>
void widen<float>(const std::byte* from, int64_t n, float* to) {
  std::memcpy(to, from, static_cast<size_t>(n) * sizeof(float));
}

#if defined(__x86_64__)
#define ATELIER_AVX2 __attribute__((target("avx2,f16c")))

bool has_avx2() { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("f16c"); }

ATELIER_AVX2 void widen_half_avx2(const std::byte* from, int64_t n, float* to) {
  int64_t i = 0;
  for (; i + 8 <= n; i += 8) {
    const auto* p = reinterpret_cast<const __m128i*>(from + 2 * i);
    _mm256_storeu_ps(to + i, _mm256_cvtph_ps(_mm_loadu_si128(p)));
  }
  widen<c10::Half>(from + 2 * i, n - i, to + i);
}

ATELIER_AVX2 void widen_bfloat16_avx2(const std::byte* from, int64_t n, float* to) {
  int64_t i = 0;
  for (; i + 8 <= n; i += 8) {
    const auto* p = reinterpret_cast<const __m128i*>(from + 2 * i);
    const __m256i words = _mm256_cvtepu16_epi32(_mm_loadu_si128(p));
    _mm256_storeu_ps(to + i, _mm256_castsi256_ps(_mm256_slli_epi32(words, 16)));
  }
  widen<c10::BFloat16>(from + 2 * i, n - i, to + i);
}

ATELIER_AVX2 void narrow_half_avx2(const float* from, int64_t n, c10::Half* to) {
  int64_t i = 0;
  for (; i + 8 <= n; i += 8) {
    const __m128i half = _mm256_cvtps_ph(_mm256_loadu_ps(from + i), _MM_FROUND_TO_NEAREST_INT);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to + i), half);
  }
  narrow(from + i, n - i, to + i);
}

// Nearest even by adding half of the last kept place less its own parity; a NaN becomes 0x7fc0 as
// in c10::BFloat16.
ATELIER_AVX2 void narrow_bfloat16_avx2(const float* from, int64_t n, c10::BFloat16* to) {
  int64_t i = 0;
  for (; i + 8 <= n; i += 8) {
    const __m256 value = _mm256_loadu_ps(from + i);
    const __m256i bits = _mm256_castps_si256(value);
    const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
    const __m256i half = _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff));
    const __m256i rounded = _mm256_srli_epi32(_mm256_add_epi32(bits, half), 16);
    const __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(value, value, _CMP_UNORD_Q));
    const __m256i word = _mm256_blendv_epi8(rounded, _mm256_set1_epi32(0x7fc0), nan);
    const __m256i packed = _mm256_permute4x64_epi64(_mm256_packus_epi32(word, word), 0x08);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to + i), _mm256_castsi256_si128(packed));
  }
  narrow(from + i, n - i, to + i);
}

#endif

using Widen = void (*)(const std::byte* from, int64_t n, float* to);
template <class T>
using Narrow = void (*)(const float* from, int64_t n, T* to);

template <class Stored>
Widen best_widen() {
#if defined(__x86_64__)
  if (has_avx2()) {
    if constexpr (std::is_same_v<Stored, c10::Half>) return widen_half_avx2;
    if constexpr (std::is_same_v<Stored, c10::BFloat16>) return widen_bfloat16_avx2;
  }
#endif
  if constexpr (sizeof(Stored) == 1) return widen_byte<Stored>;
  return widen<Stored>;
}

template <class T>
Narrow<T> best_narrow() {
#if defined(__x86_64__)
  if (has_avx2()) {
    if constexpr (std::is_same_v<T, c10::Half>) return narrow_half_avx2;
    if constexpr (std::is_same_v<T, c10::BFloat16>) return narrow_bfloat16_avx2;
  }
#endif
  return narrow<T>;
}

template <class Stored, class T>
void decode_run(const std::byte* from, int64_t elements, T* to) {
  const Widen widen_hop = best_widen<Stored>();
  const Narrow<T> narrow_hop = best_narrow<T>();
  alignas(64) std::array<float, kHop> hop;
  for (int64_t i = 0; i < elements; i += kHop) {
    const int64_t n = std::min(kHop, elements - i);
    widen_hop(from + i * static_cast<int64_t>(sizeof(Stored)), n, hop.data());
    narrow_hop(hop.data(), n, to + i);
  }
}

template <class Stored>
constexpr EncodingTraits row(Encoding encoding, std::optional<at::ScalarType> same_as = {}) {
  return {encoding, same_as, decode_run<Stored, float>, decode_run<Stored, c10::BFloat16>,
          decode_run<Stored, c10::Half>};
}

constexpr EncodingTraits kRows[] = {
    row<double>(Encoding::f64),
    row<float>(Encoding::f32, at::kFloat),
    row<c10::Half>(Encoding::f16, at::kHalf),
    row<c10::BFloat16>(Encoding::bf16, at::kBFloat16),
    row<c10::Float8_e4m3fn>(Encoding::f8_e4m3),
    row<c10::Float8_e5m2>(Encoding::f8_e5m2),
    row<int64_t>(Encoding::i64),
    row<int32_t>(Encoding::i32),
    row<int16_t>(Encoding::i16),
    row<int8_t>(Encoding::i8),
    row<uint64_t>(Encoding::u64),
    row<uint32_t>(Encoding::u32),
    row<uint16_t>(Encoding::u16),
    row<uint8_t>(Encoding::u8),
    row<uint8_t>(Encoding::boolean),
};

}  // namespace

std::span<const EncodingTraits> plain_traits() { return kRows; }

}  // namespace atelier
