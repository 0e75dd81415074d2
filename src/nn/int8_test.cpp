// Layers multiplied as 8-bit integers: every kind against the same arithmetic in double precision,
// with patches, and where they are left as they were.
#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "device/cpu/int8.h"
#include "nn/layers.h"
#include "nn/test_support.h"
#include "quant/decode.h"

namespace atelier::nn {
namespace {

struct Int8 : ::testing::TestWithParam<at::ScalarType> {
  c10::InferenceMode guard;
  std::shared_ptr<MemorySource> source = std::make_shared<MemorySource>("file");
  Residency residency;
  BindReport report;

  Int8() { at::manual_seed(7); }
  void SetUp() override {
    if (!cpu_int8_kernels(detect_cpu_features())) GTEST_SKIP() << "no kernels for 8-bit integers";
  }
  Scope w(bool int8 = true) {
    return Scope(std::make_shared<const Binding>(
        Binding{KeyMap(source, "", {}),
                residency,
                report,
                {.device = {}, .dtype = GetParam(), .rounded = {}, .int8 = int8}}));
  }
  // Puts a Q8_0 matrix into the file; gives its numbers.
  Tensor put(const std::string& name, int64_t out, int64_t in) {
    std::vector<std::byte> blocks(static_cast<size_t>(out * in / 32 * 34));
    for (size_t i = 0; i < blocks.size(); ++i)
      blocks[i] = static_cast<std::byte>(i % 34 == 0   ? i * 17 % 251
                                         : i % 34 == 1 ? 0x14
                                                       : (i * 31) >> 3);
    source->put(name, {out, in}, Encoding::q8_0, blocks);
    Tensor weight = at::empty({out, in});
    decode(blocks, Encoding::q8_0, weight, name);
    return weight;
  }
  Tensor cast(const Tensor& x) { return x.to(GetParam()); }
  // Rows as the integers they are rounded to, times their scales.
  static Tensor rounded(const Tensor& rows) {
    const Tensor wide = rows.to(at::kFloat);
    const Tensor largest = wide.abs().amax(-1, true);
    const Tensor integers = (wide.to(at::kDouble) * (127 / largest).to(at::kDouble)).round();
    return integers * (largest / 127).to(at::kDouble);
  }
  Tensor product(const Tensor& x, const Tensor& weight) {
    return at::linear(rounded(cast(x)), rounded(weight));
  }
  void expect_close(const Tensor& got, const Tensor& want) {
    ASSERT_EQ(got.sizes(), want.sizes());
    const double limit = GetParam() == at::kFloat ? 1e-6 : 4e-3;
    EXPECT_LE(((got.to(at::kDouble) - want).norm() / want.norm()).item<double>(), limit);
  }
  int64_t layers() const { return residency.count_form(kInt8Form); }
};

TEST_P(Int8, LinearWithAnEpilogue) {
  const Tensor weight = put("l.weight", 96, 64), x = at::randn({3, 7, 64});
  const Linear layer(w() / "l", 64, 96, Bias::none, Epilogue::geglu);
  const auto halves = product(x, weight).chunk(2, -1);
  expect_close(layer(cast(x)), halves[0] * at::gelu(halves[1]));
  EXPECT_EQ(layers(), 1);
}

TEST_P(Int8, JoinedMatrices) {
  const Tensor q = put("l.q.weight", 32, 64), k = put("l.k.weight", 32, 64);
  const Tensor x = at::randn({2, 50, 64});
  const Linear layer(w() / "l", {"q", "k"}, 64, 32, Bias::none);
  expect_close(layer(cast(x)), product(x, at::cat({q, k})));
  EXPECT_EQ(layers(), 1);
}

TEST_P(Int8, ResidualBranches) {
  const Tensor weight = put("l.weight", 64, 128), bias = at::randn({64});
  source->put("l.bias", bias);
  const Tensor x = at::randn({2, 9, 128}), y = at::randn({2, 9, 64});
  const ResidualLinear layer(w() / "l", 128, 64);
  Tensor sum = cast(y).clone();
  layer.add_to(sum, cast(x));
  expect_close(sum, cast(y).to(at::kDouble) + product(x, weight) + bias);
}

TEST_P(Int8, ConvolutionsOfOnePixel) {
  const Tensor weight = put("l.weight", 32, 64), bias = at::randn({32});
  source->put("l.bias", bias);
  const Conv2d layer(w() / "l", 64, 32, k1x1);
  EXPECT_EQ(layers(), 1);
  const Tensor x = cast(at::randn({2, 64, 5, 3})).contiguous(at::MemoryFormat::ChannelsLast);
  const Tensor want = product(x.permute({0, 2, 3, 1}), weight) + bias;
  Tensor y = layer(x);
  EXPECT_TRUE(y.is_contiguous(at::MemoryFormat::ChannelsLast));
  expect_close(y.permute({0, 2, 3, 1}), want);
  const Tensor before = y.clone();
  layer.add_to(y, x);
  expect_close(y.permute({0, 2, 3, 1}), before.permute({0, 2, 3, 1}).to(at::kDouble) + want);
  const Tensor shift = at::randn({2, 32});
  expect_close(layer(x, shift).permute({0, 2, 3, 1}), want + shift.view({2, 1, 1, 32}));
}

TEST_P(Int8, PatchesAreMergedBeforeRounding) {
  const Tensor weight = put("l.weight", 64, 96), x = at::randn({20, 96});
  const Tensor up = at::randn({64, 5}) * 0.1, down = at::randn({5, 96}) * 0.1;
  const Linear layer(w() / "l", 96, 64, Bias::none);
  const Tensor before = layer(cast(x));
  PatchTable patches;
  patches["l.weight"] = {{std::make_shared<Product>(up, down), 0, 64, 0.7}};
  residency.set_patches(patches);
  expect_close(layer(cast(x)), product(x, weight.add(at::matmul(up, down), 0.7)));
  EXPECT_FALSE(at::equal(layer(cast(x)), before));
  EXPECT_EQ(layers(), 1);
  residency.set_patches({});
  EXPECT_TRUE(at::equal(layer(cast(x)), before));
}

TEST_P(Int8, ARowAloneGivesTheBytesItGivesAmongOthers) {
  put("l.weight", 64, 96);
  const Tensor x = cast(at::randn({70, 96}));
  const Linear layer(w() / "l", 96, 64, Bias::none);
  const Tensor together = layer(x);
  for (int64_t row = 0; row < 70; row += 23)
    EXPECT_TRUE(at::equal(layer(x.narrow(0, row, 1)), together.narrow(0, row, 1)));
}

TEST_P(Int8, OtherEncodingsAndOtherLayersStayAsTheyWere) {
  put("l.q.weight", 64, 64);
  source->put("l.k.weight", at::randn({64, 64}));
  const Scope on = w(), off = w(false);
  const Linear mixed(on / "l", {"q", "k"}, 64, 64, Bias::none);
  const Linear plain(on / "l" / "k", 64, 64, Bias::none);
  const VectorLinear vector(on / "l" / "q", 64, 64, Bias::none);
  EXPECT_EQ(layers(), 0);
  const Tensor rows = cast(at::randn({9, 64}));
  EXPECT_TRUE(at::equal(mixed(rows), Linear(off / "l", {"q", "k"}, 64, 64, Bias::none)(rows)));
  EXPECT_TRUE(at::equal(plain(rows), Linear(off / "l" / "k", 64, 64, Bias::none)(rows)));
  EXPECT_TRUE(at::equal(vector(rows), VectorLinear(off / "l" / "q", 64, 64, Bias::none)(rows)));
}

INSTANTIATE_TEST_SUITE_P(Dtypes, Int8, ::testing::Values(at::kFloat, at::kBFloat16),
                         [](const auto& row) { return std::string(c10::toString(row.param)); });

}  // namespace
}  // namespace atelier::nn
