// Thin kernels round the shared conversions: one pass, neighbouring threads on neighbouring values.
#include <cuda_runtime.h>

#include "quant/codec/all_blocks.h"
#include "quant/codec/four_bits.h"
#include "quant/cuda/decode_cuda.h"

namespace atelier {
namespace {

constexpr int kThreads = 256;

struct FromHalf {
  using Stored = uint16_t;
  __device__ static float widen(Stored code) { return half_to_float(code); }
};
struct FromBFloat16 {
  using Stored = uint16_t;
  __device__ static float widen(Stored code) { return bfloat16_to_float(code); }
};
struct FromFloat {
  using Stored = float;
  __device__ static float widen(Stored value) { return value; }
};
struct FromE4M3 {
  using Stored = uint8_t;
  __device__ static float widen(Stored code) { return e4m3_to_float(code); }
};
struct FromE5M2 {
  using Stored = uint8_t;
  __device__ static float widen(Stored code) { return e5m2_to_float(code); }
};

struct FromInt8 {
  using Stored = int8_t;
  __device__ static float widen(Stored code) { return static_cast<float>(code); }
};

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

template <class From, class To>
__global__ void decode(const typename From::Stored* from, int64_t n, typename To::Type* to) {
  const int64_t stride = static_cast<int64_t>(gridDim.x) * blockDim.x;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < n; i += stride)
    to[i] = To::narrow(From::widen(from[i]));
}

template <class From, class To>
void launch(const void* from, int64_t n, void* to, cudaStream_t stream) {
  const int64_t blocks = (n + kThreads - 1) / kThreads;
  const auto grid = static_cast<unsigned>(blocks < 65535 ? blocks : 65535);
  decode<From, To><<<grid, kThreads, 0, stream>>>(static_cast<const typename From::Stored*>(from),
                                                  n, static_cast<typename To::Type*>(to));
}

/// A thread takes eight elements, which share a scale.
template <class Block, class To>
__global__ void decode_octets(const uint8_t* from, int64_t octets, typename To::Type* to) {
  const int64_t stride = static_cast<int64_t>(gridDim.x) * blockDim.x;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < octets;
       i += stride) {
    constexpr int64_t kOctets = Block::kElements / 8;
    float values[8];
    decode_octet<Block>(from + i / kOctets * Block::kBytes, static_cast<int>(i % kOctets) * 8,
                        values);
    for (int j = 0; j < 8; ++j) to[8 * i + j] = To::narrow(values[j]);
  }
}

template <class Block, class To>
void launch_blocks(const void* from, int64_t n, void* to, cudaStream_t stream) {
  const int64_t blocks = (n / 8 + kThreads - 1) / kThreads;
  const auto grid = static_cast<unsigned>(blocks < 65535 ? blocks : 65535);
  decode_octets<Block, To><<<grid, kThreads, 0, stream>>>(static_cast<const uint8_t*>(from), n / 8,
                                                          static_cast<typename To::Type*>(to));
}

template <class From, class To>
__global__ void scale_codes(const typename From::Stored* from, int64_t n, const float* scales,
                            int64_t group, typename To::Type* to) {
  const int64_t stride = static_cast<int64_t>(gridDim.x) * blockDim.x;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < n; i += stride)
    to[i] = To::narrow(any_nan_as_one(scales[i / group] * From::widen(from[i])));
}

template <class From, class To>
void launch_scaled(const void* from, int64_t n, const float* scales, int64_t group, void* to,
                   cudaStream_t stream) {
  const int64_t blocks = (n + kThreads - 1) / kThreads;
  const auto grid = static_cast<unsigned>(blocks < 65535 ? blocks : 65535);
  scale_codes<From, To>
      <<<grid, kThreads, 0, stream>>>(static_cast<const typename From::Stored*>(from), n, scales,
                                      group, static_cast<typename To::Type*>(to));
}

/// A thread takes the two codes of a byte, which share a scale.
template <class Table, class To>
__global__ void scale_nibbles(const uint8_t* from, int64_t bytes, const float* scales,
                              int64_t group, typename To::Type* to) {
  const int64_t stride = static_cast<int64_t>(gridDim.x) * blockDim.x;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < bytes;
       i += stride) {
    const float scale = scales[2 * i / group];
    to[2 * i] = To::narrow(any_nan_as_one(scale * Table::value(from[i] >> 4)));
    to[2 * i + 1] = To::narrow(any_nan_as_one(scale * Table::value(from[i] & 15)));
  }
}

template <class Table, class To>
void launch_nibbles(const void* from, int64_t n, const float* scales, int64_t group, void* to,
                    cudaStream_t stream) {
  const int64_t blocks = (n / 2 + kThreads - 1) / kThreads;
  const auto grid = static_cast<unsigned>(blocks < 65535 ? blocks : 65535);
  scale_nibbles<Table, To><<<grid, kThreads, 0, stream>>>(
      static_cast<const uint8_t*>(from), n / 2, scales, group, static_cast<typename To::Type*>(to));
}

using LaunchScaled = void (*)(const void*, int64_t, const float*, int64_t, void*, cudaStream_t);

struct ScaledRow {
  Encoding encoding;
  LaunchScaled launch[3];  // by Number
};

template <class From>
constexpr ScaledRow scaled_row(Encoding encoding) {
  return {
      encoding,
      {launch_scaled<From, ToFloat>, launch_scaled<From, ToBFloat16>, launch_scaled<From, ToHalf>}};
}

template <class Table>
constexpr ScaledRow nibble_row(Encoding encoding) {
  return {encoding,
          {launch_nibbles<Table, ToFloat>, launch_nibbles<Table, ToBFloat16>,
           launch_nibbles<Table, ToHalf>}};
}

constexpr ScaledRow kScaledRows[] = {
    scaled_row<FromFloat>(Encoding::f32),     scaled_row<FromHalf>(Encoding::f16),
    scaled_row<FromBFloat16>(Encoding::bf16), scaled_row<FromE4M3>(Encoding::f8_e4m3),
    scaled_row<FromE5M2>(Encoding::f8_e5m2),  scaled_row<FromInt8>(Encoding::i8),
    nibble_row<NormalFloat4>(Encoding::nf4),  nibble_row<TwelfthsFloat4>(Encoding::fp4),
};

using Launch = void (*)(const void*, int64_t, void*, cudaStream_t);

struct Row {
  Encoding encoding;
  Launch launch[3];  // by Number
};

template <class From>
constexpr Row row(Encoding encoding) {
  return {encoding, {launch<From, ToFloat>, launch<From, ToBFloat16>, launch<From, ToHalf>}};
}

constexpr Row kRows[] = {
    row<FromFloat>(Encoding::f32),     row<FromHalf>(Encoding::f16),
    row<FromBFloat16>(Encoding::bf16), row<FromE4M3>(Encoding::f8_e4m3),
    row<FromE5M2>(Encoding::f8_e5m2),
};

template <class Block>
constexpr Row block_row() {
  return {Block::kEncoding,
          {launch_blocks<Block, ToFloat>, launch_blocks<Block, ToBFloat16>,
           launch_blocks<Block, ToHalf>}};
}

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

}  // namespace

bool cuda_decodes(Encoding encoding) { return find(encoding) != nullptr; }

const char* cuda_decode(const void* from, Encoding encoding, int64_t elements, void* to,
                        Number output, void* stream) {
  const Row* found = find(encoding);
  if (!found) return "no CUDA kernel for this encoding";
  if (elements <= 0) return nullptr;
  found->launch[static_cast<int>(output)](from, elements, to, static_cast<cudaStream_t>(stream));
  const cudaError_t error = cudaGetLastError();
  return error == cudaSuccess ? nullptr : cudaGetErrorString(error);
}

const char* cuda_decode_scaled(const void* from, Encoding encoding, int64_t elements,
                               const float* scales, int64_t group, void* to, Number output,
                               void* stream) {
  for (const ScaledRow& row : kScaledRows) {
    if (row.encoding != encoding) continue;
    if (elements <= 0) return nullptr;
    row.launch[static_cast<int>(output)](from, elements, scales, group, to,
                                         static_cast<cudaStream_t>(stream));
    const cudaError_t error = cudaGetLastError();
    return error == cudaSuccess ? nullptr : cudaGetErrorString(error);
  }
  return "no CUDA kernel for this encoding under scales";
}

int cuda_device_count() {
  int count = 0;
  return cudaGetDeviceCount(&count) == cudaSuccess ? count : 0;
}

}  // namespace atelier
