// The CUDA decoders against the shared host functions, bit for bit. Skips without a GPU.
#include <cuda_runtime.h>
#include <gtest/gtest.h>

#include <numeric>
#include <vector>

#include "quant/cuda/decode_cuda.h"
#include "quant/float_codes.h"

namespace atelier {
namespace {

template <class Stored>
std::vector<uint16_t> decode_all(Encoding encoding, CudaOutput output) {
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
  const auto half = decode_all<uint16_t>(Encoding::f16, CudaOutput::bf16);
  for (size_t i = 0; i < half.size(); ++i)
    EXPECT_EQ(half[i], float_to_bfloat16(half_to_float(static_cast<uint16_t>(i)))) << i;
  const auto e4m3 = decode_all<uint8_t>(Encoding::f8_e4m3, CudaOutput::f16);
  for (size_t i = 0; i < e4m3.size(); ++i)
    EXPECT_EQ(e4m3[i], float_to_half(e4m3_to_float(static_cast<uint8_t>(i)))) << i;
  const auto e5m2 = decode_all<uint8_t>(Encoding::f8_e5m2, CudaOutput::bf16);
  for (size_t i = 0; i < e5m2.size(); ++i)
    EXPECT_EQ(e5m2[i], float_to_bfloat16(e5m2_to_float(static_cast<uint8_t>(i)))) << i;
}

TEST(CudaDecode, RefusesWhatItHasNoKernelFor) {
  EXPECT_FALSE(cuda_decodes(Encoding::q4_k));
  EXPECT_NE(cuda_decode(nullptr, Encoding::q4_k, 1, nullptr, CudaOutput::f32, nullptr), nullptr);
}

}  // namespace
}  // namespace atelier
