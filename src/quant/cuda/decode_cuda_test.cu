// The CUDA decoders against the shared host functions, bit for bit. Skips without a GPU.
#include <cuda_runtime.h>
#include <gtest/gtest.h>

#include <cmath>
#include <numeric>
#include <random>
#include <vector>

#include "quant/codec/all_blocks.h"
#include "quant/codec/four_bits.h"
#include "quant/cuda/decode_cuda.h"

namespace atelier {
namespace {

template <class Stored>
std::vector<uint16_t> decode_all(Encoding encoding, Number output) {
  std::vector<Stored> codes(size_t{1} << (8 * sizeof(Stored)));
  std::iota(codes.begin(), codes.end(), Stored{0});
  void *from = nullptr, *to = nullptr;
  EXPECT_EQ(cudaMalloc(&from, codes.size() * sizeof(Stored)), cudaSuccess);
  EXPECT_EQ(cudaMalloc(&to, codes.size() * 2), cudaSuccess);
  cudaMemcpy(from, codes.data(), codes.size() * sizeof(Stored), cudaMemcpyHostToDevice);
  const auto count = static_cast<int64_t>(codes.size());
  EXPECT_EQ(cuda_decode(from, encoding, count, to, output, nullptr), nullptr);
  std::vector<uint16_t> result(codes.size());
  cudaMemcpy(result.data(), to, result.size() * 2, cudaMemcpyDeviceToHost);
  cudaFree(from);
  cudaFree(to);
  return result;
}

TEST(CudaDecode, EveryCodeGivesTheHostsBits) {
  if (cuda_device_count() == 0) GTEST_SKIP() << "no GPU";
  const auto half = decode_all<uint16_t>(Encoding::f16, Number::bf16);
  for (size_t i = 0; i < half.size(); ++i)
    EXPECT_EQ(half[i], float_to_bfloat16(half_to_float(static_cast<uint16_t>(i)))) << i;
  const auto e4m3 = decode_all<uint8_t>(Encoding::f8_e4m3, Number::f16);
  for (size_t i = 0; i < e4m3.size(); ++i)
    EXPECT_EQ(e4m3[i], float_to_half(e4m3_to_float(static_cast<uint8_t>(i)))) << i;
  const auto e5m2 = decode_all<uint8_t>(Encoding::f8_e5m2, Number::bf16);
  for (size_t i = 0; i < e5m2.size(); ++i)
    EXPECT_EQ(e5m2[i], float_to_bfloat16(e5m2_to_float(static_cast<uint8_t>(i)))) << i;
}

// On the GPU and by the shared function on the host, from random bytes: every kind of scale.
template <class Block>
void compare_blocks() {
  constexpr int kBlocks = 257;
  std::mt19937 random(9);
  std::vector<uint8_t> bytes(kBlocks * Block::kBytes);
  for (uint8_t& byte : bytes) byte = static_cast<uint8_t>(random());
  std::vector<uint16_t> expected, found(kBlocks * Block::kElements);
  for (int octet = 0; octet < kBlocks * Block::kElements / 8; ++octet) {
    float values[8];
    decode_octet<Block>(bytes.data() + octet / (Block::kElements / 8) * Block::kBytes,
                        octet % (Block::kElements / 8) * 8, values);
    for (const float value : values) expected.push_back(float_to_bfloat16(value));
  }
  void *from = nullptr, *to = nullptr;
  ASSERT_EQ(cudaMalloc(&from, bytes.size()), cudaSuccess);
  ASSERT_EQ(cudaMalloc(&to, found.size() * 2), cudaSuccess);
  cudaMemcpy(from, bytes.data(), bytes.size(), cudaMemcpyHostToDevice);
  EXPECT_EQ(cuda_decode(from, Block::kEncoding, static_cast<int64_t>(found.size()), to,
                        Number::bf16, nullptr),
            nullptr);
  cudaMemcpy(found.data(), to, found.size() * 2, cudaMemcpyDeviceToHost);
  cudaFree(from);
  cudaFree(to);
  EXPECT_EQ(found, expected) << "encoding " << static_cast<int>(Block::kEncoding);
}

template <class... Block>
void compare_all(BlockList<Block...>) {
  (compare_blocks<Block>(), ...);
}

TEST(CudaDecode, EveryBlockEncodingGivesTheHostsBits) {
  if (cuda_device_count() == 0) GTEST_SKIP() << "no GPU";
  compare_all(AllBlocks());
}

/// Linear runs of 64 elements.
constexpr Tiles kRuns{1 << 20, 1, 64};

// All bytes under scales, rounded to bf16.
std::vector<uint16_t> decode_scaled(Encoding encoding, const std::vector<float>& scales,
                                    size_t elements, const Tiles& tiles = kRuns) {
  std::vector<uint8_t> codes(256);
  std::iota(codes.begin(), codes.end(), uint8_t{0});
  std::vector<uint16_t> result(elements);
  void *from = nullptr, *factors = nullptr, *to = nullptr;
  EXPECT_EQ(cudaMalloc(&from, codes.size()), cudaSuccess);
  EXPECT_EQ(cudaMalloc(&factors, scales.size() * 4), cudaSuccess);
  EXPECT_EQ(cudaMalloc(&to, elements * 2), cudaSuccess);
  cudaMemcpy(from, codes.data(), codes.size(), cudaMemcpyHostToDevice);
  cudaMemcpy(factors, scales.data(), scales.size() * 4, cudaMemcpyHostToDevice);
  EXPECT_EQ(
      cuda_decode_scaled(from, encoding, static_cast<int64_t>(elements),
                         static_cast<const float*>(factors), tiles, to, Number::bf16, nullptr),
      nullptr);
  cudaMemcpy(result.data(), to, elements * 2, cudaMemcpyDeviceToHost);
  cudaFree(from);
  cudaFree(factors);
  cudaFree(to);
  return result;
}

TEST(CudaDecode, EveryCodeUnderAScaleGivesTheHostsBits) {
  if (cuda_device_count() == 0) GTEST_SKIP() << "no GPU";
  const std::vector<float> scales{0.3F, 1.7F, 0.01F, 90.1F, 0.7F, 3.3F, 0.25F, 11.F};
  const auto product = [&](size_t i, float code) {
    return float_to_bfloat16(any_nan_as_one(scales[i / 64] * code));
  };
  const auto e4m3 = decode_scaled(Encoding::f8_e4m3, scales, 256);
  const auto int8 = decode_scaled(Encoding::i8, scales, 256);
  for (size_t i = 0; i < 256; ++i) {
    EXPECT_EQ(e4m3[i], product(i, e4m3_to_float(static_cast<uint8_t>(i)))) << i;
    EXPECT_EQ(int8[i], product(i, static_cast<float>(static_cast<int8_t>(i)))) << i;
  }
  const auto nf4 = decode_scaled(Encoding::nf4, scales, 512);
  const auto fp4 = decode_scaled(Encoding::fp4, scales, 512);
  const auto e2m1 = decode_scaled(Encoding::e2m1, scales, 512);
  for (size_t i = 0; i < 512; ++i) {
    const int code = static_cast<int>(i % 2 == 0 ? i / 2 >> 4 : i / 2 & 15);
    EXPECT_EQ(nf4[i], product(i, NormalFloat4::value(code))) << i;
    EXPECT_EQ(fp4[i], product(i, TwelfthsFloat4::value(code))) << i;
    EXPECT_EQ(e2m1[i], product(i, E2M1Float4::value(code))) << i;
  }
}

// Rows of 13 numbers in tiles of two rows and five columns: scales change within octets, and the
// last octet is cut short.
TEST(CudaDecode, TilesOfAnyShapeGiveTheHostsBits) {
  if (cuda_device_count() == 0) GTEST_SKIP() << "no GPU";
  const Tiles tiles{13, 2, 5};
  std::vector<float> scales(30);
  for (size_t i = 0; i < scales.size(); ++i) scales[i] = 0.3F + static_cast<float>(i);
  const auto found = decode_scaled(Encoding::i8, scales, 253, tiles);
  for (size_t i = 0; i < found.size(); ++i) {
    const float scale = scales[static_cast<size_t>(scale_index(tiles, static_cast<int64_t>(i)))];
    EXPECT_EQ(found[i], float_to_bfloat16(scale * static_cast<float>(static_cast<int8_t>(i)))) << i;
  }
}

TEST(CudaDecode, WideNumbersAreConvertedAsOnTheHost) {
  if (cuda_device_count() == 0) GTEST_SKIP() << "no GPU";
  const std::vector<double> numbers{0.1, -3e38, 1e300, std::nan("5"), -1e-45, 7, 8, 9, 10.5};
  std::vector<float> found(numbers.size());
  void *from = nullptr, *to = nullptr;
  ASSERT_EQ(cudaMalloc(&from, numbers.size() * 8), cudaSuccess);
  ASSERT_EQ(cudaMalloc(&to, numbers.size() * 4), cudaSuccess);
  cudaMemcpy(from, numbers.data(), numbers.size() * 8, cudaMemcpyHostToDevice);
  EXPECT_EQ(cuda_decode(from, Encoding::f64, static_cast<int64_t>(numbers.size()), to, Number::f32,
                        nullptr),
            nullptr);
  cudaMemcpy(found.data(), to, found.size() * 4, cudaMemcpyDeviceToHost);
  cudaFree(from);
  cudaFree(to);
  for (size_t i = 0; i < numbers.size(); ++i)
    EXPECT_EQ(bits_of(found[i]), bits_of(static_cast<float>(numbers[i]))) << i;
}

TEST(CudaDecode, RefusesWhatItHasNoKernelFor) {
  EXPECT_NE(cuda_decode_scaled(nullptr, Encoding::q4_0, 32, nullptr, kRuns, nullptr, Number::f32,
                               nullptr),
            nullptr);
  EXPECT_FALSE(cuda_decodes(Encoding::c64));
  EXPECT_NE(cuda_decode(nullptr, Encoding::c64, 1, nullptr, Number::f32, nullptr), nullptr);
}

}  // namespace
}  // namespace atelier
