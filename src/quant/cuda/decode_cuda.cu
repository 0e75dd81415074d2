// Thin kernels round the shared conversions: one pass, a thread for eight elements, which it stores
// as words of 16 bytes (and reads so where they are plain numbers), neighbouring threads beside
// each other.
#include <cuda_runtime.h>

#include "quant/codec/all_blocks.h"
#include "quant/codec/four_bits.h"
#include "quant/cuda/decode_cuda.h"

namespace atelier {
namespace {

constexpr int kThreads = 256, kOctet = 8;

// ---- what is stored

/// Codes of one number each, and the number.
template <class T, float (*kWiden)(T)>
struct Codes {
  using Stored = T;
  static constexpr int kPerStored = 1;
  __device__ static float widen(T code, int) { return kWiden(code); }
};
template <class T>
__device__ float converted(T value) {
  return static_cast<float>(value);
}
// As processors round: what is no number keeps its sign and upper bits.
__device__ float converted_double(double value) {
  if (value == value) return static_cast<float>(value);
  const auto bits = static_cast<uint64_t>(__double_as_longlong(value));
  return float_from_bits(static_cast<uint32_t>(bits >> 32 & 0x80000000u) | 0x7fc00000u |
                         static_cast<uint32_t>(bits >> 29 & 0x3fffffu));
}
__device__ float from_half(uint16_t code) { return half_to_float(code); }
__device__ float from_bfloat16(uint16_t code) { return bfloat16_to_float(code); }
__device__ float from_e4m3(uint8_t code) { return e4m3_to_float(code); }
__device__ float from_e5m2(uint8_t code) { return e5m2_to_float(code); }
__device__ float from_e8m0(uint8_t code) { return e8m0_to_float(code); }

/// Two codes of four bits in a byte, the first in its upper half.
template <class Table>
struct Nibbles {
  using Stored = uint8_t;
  static constexpr int kPerStored = 2;
  __device__ static float widen(Stored byte, int place) {
    return Table::value(place == 0 ? byte >> 4 : byte & 15);
  }
};

/// Eight numbers as stored, read as words of up to 16 bytes where they are aligned so.
template <class From>
struct Octet {
  using Stored = typename From::Stored;
  static constexpr int kCount = kOctet / From::kPerStored;
  static constexpr size_t kBytes = kCount * sizeof(Stored);
  struct alignas(kBytes < 16 ? kBytes : 16) Words {
    Stored codes[kCount];
  };

  /// The octet that begins with the element `first` of `n`; zeros past the last.
  __device__ Octet(const Stored* from, int64_t first, int64_t n) {
    const Stored* at = from + first / From::kPerStored;
    if (first + kOctet <= n && reinterpret_cast<uintptr_t>(at) % alignof(Words) == 0) {
      words_ = *reinterpret_cast<const Words*>(at);
      return;
    }
    for (int i = 0; i < kCount; ++i)
      words_.codes[i] = first + i * From::kPerStored < n ? at[i] : Stored{};
  }
  __device__ float operator[](int j) const {
    return From::widen(words_.codes[j / From::kPerStored], j % From::kPerStored);
  }

 private:
  Words words_;
};

// ---- what is written

struct ToFloat {
  using Type = float;
  __device__ static Type narrow(float value) { return value; }
};
struct ToBFloat16 {
  using Type = uint16_t;
  __device__ static Type narrow(float value) { return float_to_bfloat16(value); }
};
struct ToHalf {
  using Type = uint16_t;
  __device__ static Type narrow(float value) { return float_to_half(value); }
};

/// The first `count` of eight values; `to` is aligned to 16 bytes.
template <class To>
__device__ void store(typename To::Type* to, const float (&values)[kOctet], int64_t count) {
  union {
    typename To::Type numbers[kOctet];
    uint4 words[kOctet * sizeof(typename To::Type) / 16];
  } out;
  for (int j = 0; j < kOctet; ++j) out.numbers[j] = To::narrow(values[j]);
  if (count >= kOctet) {
    for (size_t word = 0; word < sizeof out / 16; ++word)
      reinterpret_cast<uint4*>(to)[word] = out.words[word];
  } else {
    for (int j = 0; j < count; ++j) to[j] = out.numbers[j];
  }
}

/// Calls `take` with the first element of each octet that is this thread's.
template <class Take>
__device__ void each_octet(int64_t n, Take take) {
  const int64_t stride = static_cast<int64_t>(gridDim.x) * blockDim.x * kOctet;
  const int64_t thread = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  for (int64_t first = thread * kOctet; first < n; first += stride) take(first);
}

unsigned grid_of(int64_t n) {
  const int64_t blocks = (n + kThreads * kOctet - 1) / (kThreads * kOctet);
  return static_cast<unsigned>(blocks < 65535 ? blocks : 65535);
}

// ---- kernels

template <class From, class To>
__global__ void decode(const typename From::Stored* from, int64_t n, typename To::Type* to) {
  each_octet(n, [=](int64_t first) {
    const Octet<From> codes(from, first, n);
    float values[kOctet];
    for (int j = 0; j < kOctet; ++j) values[j] = codes[j];
    store<To>(to + first, values, n - first);
  });
}

/// The elements of an octet share a scale.
template <class Block, class To>
__global__ void decode_octets(const uint8_t* from, int64_t n, typename To::Type* to) {
  each_octet(n, [=](int64_t first) {
    float values[kOctet];
    decode_octet<Block>(from + first / Block::kElements * Block::kBytes,
                        static_cast<int>(first % Block::kElements), values);
    store<To>(to + first, values, n - first);
  });
}

template <class From, class To>
__global__ void decode_scaled(const typename From::Stored* from, int64_t n, const float* scales,
                              Tiles tiles, typename To::Type* to) {
  each_octet(n, [=](int64_t first) {
    const int64_t last = first + kOctet <= n ? first + kOctet - 1 : n - 1;
    const int64_t column = first % tiles.columns;
    // Within one tile of one row one scale serves all.
    const bool one = column + (last - first) < tiles.columns &&
                     column / tiles.tile_columns == (column + last - first) / tiles.tile_columns;
    const float scale = scales[scale_index(tiles, first)];
    const Octet<From> codes(from, first, n);
    float values[kOctet];
    for (int j = 0; j < kOctet; ++j) {
      const int64_t i = first + j < last ? first + j : last;
      values[j] = any_nan_as_one((one ? scale : scales[scale_index(tiles, i)]) * codes[j]);
    }
    store<To>(to + first, values, n - first);
  });
}

// ---- tables

using Launch = void (*)(const void*, int64_t, void*, cudaStream_t);
using LaunchScaled = void (*)(const void*, int64_t, const float*, Tiles, void*, cudaStream_t);

template <class From, class To>
void launch(const void* from, int64_t n, void* to, cudaStream_t stream) {
  decode<From, To><<<grid_of(n), kThreads, 0, stream>>>(
      static_cast<const typename From::Stored*>(from), n, static_cast<typename To::Type*>(to));
}

template <class Block, class To>
void launch_blocks(const void* from, int64_t n, void* to, cudaStream_t stream) {
  decode_octets<Block, To><<<grid_of(n), kThreads, 0, stream>>>(
      static_cast<const uint8_t*>(from), n, static_cast<typename To::Type*>(to));
}

template <class From, class To>
void launch_scaled(const void* from, int64_t n, const float* scales, Tiles tiles, void* to,
                   cudaStream_t stream) {
  decode_scaled<From, To>
      <<<grid_of(n), kThreads, 0, stream>>>(static_cast<const typename From::Stored*>(from), n,
                                            scales, tiles, static_cast<typename To::Type*>(to));
}

struct Row {
  Encoding encoding;
  Launch launch[3];  // by Number
};
struct ScaledRow {
  Encoding encoding;
  LaunchScaled launch[3];  // by Number
};

template <class From>
constexpr Row row(Encoding encoding) {
  return {encoding, {launch<From, ToFloat>, launch<From, ToBFloat16>, launch<From, ToHalf>}};
}

template <class Block>
constexpr Row block_row() {
  return {Block::kEncoding,
          {launch_blocks<Block, ToFloat>, launch_blocks<Block, ToBFloat16>,
           launch_blocks<Block, ToHalf>}};
}

template <class From>
constexpr ScaledRow scaled_row(Encoding encoding) {
  return {
      encoding,
      {launch_scaled<From, ToFloat>, launch_scaled<From, ToBFloat16>, launch_scaled<From, ToHalf>}};
}

template <class T>
using Converted = Codes<T, converted<T>>;
using Half = Codes<uint16_t, from_half>;
using BFloat16 = Codes<uint16_t, from_bfloat16>;
using E4M3 = Codes<uint8_t, from_e4m3>;
using E5M2 = Codes<uint8_t, from_e5m2>;
using E8M0 = Codes<uint8_t, from_e8m0>;

constexpr Row kRows[] = {
    row<Codes<double, converted_double>>(Encoding::f64),
    row<Converted<float>>(Encoding::f32),
    row<Half>(Encoding::f16),
    row<BFloat16>(Encoding::bf16),
    row<E4M3>(Encoding::f8_e4m3),
    row<E5M2>(Encoding::f8_e5m2),
    row<Converted<int64_t>>(Encoding::i64),
    row<Converted<int32_t>>(Encoding::i32),
    row<Converted<int16_t>>(Encoding::i16),
    row<Converted<int8_t>>(Encoding::i8),
    row<Converted<uint64_t>>(Encoding::u64),
    row<Converted<uint32_t>>(Encoding::u32),
    row<Converted<uint16_t>>(Encoding::u16),
    row<Converted<uint8_t>>(Encoding::u8),
    row<Converted<uint8_t>>(Encoding::boolean),
    row<Nibbles<NormalFloat4>>(Encoding::nf4),
    row<Nibbles<TwelfthsFloat4>>(Encoding::fp4),
    row<Nibbles<E2M1Float4>>(Encoding::e2m1),
    row<E8M0>(Encoding::f8_e8m0),
};

constexpr ScaledRow kScaledRows[] = {
    scaled_row<Converted<float>>(Encoding::f32),
    scaled_row<Half>(Encoding::f16),
    scaled_row<BFloat16>(Encoding::bf16),
    scaled_row<E4M3>(Encoding::f8_e4m3),
    scaled_row<E5M2>(Encoding::f8_e5m2),
    scaled_row<Converted<int8_t>>(Encoding::i8),
    scaled_row<Nibbles<NormalFloat4>>(Encoding::nf4),
    scaled_row<Nibbles<TwelfthsFloat4>>(Encoding::fp4),
    scaled_row<Nibbles<E2M1Float4>>(Encoding::e2m1),
};

template <class... Block>
const Row* find_block(Encoding encoding, BlockList<Block...>) {
  static constexpr Row kBlockRows[] = {block_row<Block>()...};
  for (const Row& candidate : kBlockRows)
    if (candidate.encoding == encoding) return &candidate;
  return nullptr;
}

const Row* find(Encoding encoding) {
  for (const Row& candidate : kRows)
    if (candidate.encoding == encoding) return &candidate;
  return find_block(encoding, AllBlocks());
}

const char* failure() {
  const cudaError_t error = cudaGetLastError();
  return error == cudaSuccess ? nullptr : cudaGetErrorString(error);
}

}  // namespace

bool cuda_decodes(Encoding encoding) { return find(encoding) != nullptr; }

const char* cuda_decode(const void* from, Encoding encoding, int64_t elements, void* to,
                        Number output, void* stream) {
  const Row* found = find(encoding);
  if (!found) return "no CUDA kernel for this encoding";
  if (elements <= 0) return nullptr;
  found->launch[static_cast<int>(output)](from, elements, to, static_cast<cudaStream_t>(stream));
  return failure();
}

const char* cuda_decode_scaled(const void* from, Encoding encoding, int64_t elements,
                               const float* scales, const Tiles& tiles, void* to, Number output,
                               void* stream) {
  for (const ScaledRow& row : kScaledRows) {
    if (row.encoding != encoding) continue;
    if (elements <= 0) return nullptr;
    row.launch[static_cast<int>(output)](from, elements, scales, tiles, to,
                                         static_cast<cudaStream_t>(stream));
    return failure();
  }
  return "no CUDA kernel for this encoding under scales";
}

int cuda_device_count() {
  int count = 0;
  return cudaGetDeviceCount(&count) == cudaSuccess ? count : 0;
}

}  // namespace atelier
