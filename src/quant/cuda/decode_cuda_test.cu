// The CUDA decoders against the shared host functions, bit for bit. Skips without a GPU.
#include <cuda_runtime.h>
#include <gtest/gtest.h>

#include <numeric>
#include <random>
#include <vector>

#include "quant/codec/all_blocks.h"
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

TEST(CudaDecode, RefusesWhatItHasNoKernelFor) {
  EXPECT_FALSE(cuda_decodes(Encoding::c64));
  EXPECT_NE(cuda_decode(nullptr, Encoding::c64, 1, nullptr, Number::f32, nullptr), nullptr);
}

}  // namespace
}  // namespace atelier
