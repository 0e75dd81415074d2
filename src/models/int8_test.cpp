// Whole denoisers with Q8_0 matrices multiplied as 8-bit integers: how far off the output is.
#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "device/cpu/int8.h"
#include "models/denoiser_test.h"
#include "nn/layers.h"
#include "quant/codec/encode.h"

namespace atelier {
namespace {

/// The golden with every matrix whose rows are whole blocks in Q8_0.
std::shared_ptr<const TensorSource> quantised(const TensorSource& from) {
  auto file = std::make_shared<MemorySource>("model.gguf");
  const EncodingInfo& q8 = encoding_info(Encoding::q8_0);
  for (const auto& [name, info] : from.tensors()) {
    const at::Tensor numbers = golden::tensor(from, name).to(at::kFloat).contiguous();
    const int64_t count = numbers.numel();
    if (info.shape.size() < 2 || count / info.shape[0] % q8.block_elements != 0) {
      file->put(name, numbers);
      continue;
    }
    std::vector<std::byte> bytes(static_cast<size_t>(count / q8.block_elements * q8.block_bytes));
    encode({numbers.const_data_ptr<float>(), static_cast<size_t>(count)}, count, q8.encoding, {},
           bytes, SerialParallel());
    file->put(name, info.shape, q8.encoding, bytes);
  }
  return file;
}

double relative_error(const at::Tensor& got, const at::Tensor& want) {
  return ((got - want).norm() / want.norm()).item<double>();
}

struct Case {
  const char* folder;
  double most;  // of the output's relative error
};

class Int8Model : public ::testing::TestWithParam<Case> {};

TEST_P(Int8Model, IsOffByLittle) {
  if (!cpu_int8_kernels(detect_cpu_features())) GTEST_SKIP() << "no kernels for 8-bit integers";
  const auto file = quantised(*golden::source(GetParam().folder, "model"));
  const auto expected = golden::source(GetParam().folder, "expected");
  const auto output = [&](const golden::Net& net) {
    return net.model->forward(golden::input(*expected));  // a context knows the layers it has met
  };
  const at::Tensor exact = output(*golden::load(file));
  const auto net = golden::load(file, at::kBFloat16, true);
  EXPECT_GT(net->residency.count_form(nn::kInt8Form), 5);
  const double int8 = relative_error(output(*net), exact);
  const double bf16 = relative_error(output(*golden::load(file, at::kBFloat16)), exact);
  RecordProperty("int8", std::to_string(int8));
  RecordProperty("bf16", std::to_string(bf16));
  EXPECT_LT(int8, GetParam().most);
  EXPECT_GT(int8, bf16);
}

INSTANTIATE_TEST_SUITE_P(Families, Int8Model,
                         ::testing::Values(Case{"unet_sd1", 0.045}, Case{"unet_sdxl", 0.06},
                                           Case{"flux_dev", 0.025}),
                         [](const auto& row) { return std::string(row.param.folder); });

}  // namespace
}  // namespace atelier
