// Low-rank patches beside quantised matrices: every linear layer equals its merged form.
#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "nn/layers.h"
#include "nn/test_support.h"
#include "quant/decode.h"

namespace atelier::nn {
namespace {

struct Precision {
  at::ScalarType dtype;
  double limit;
};

struct Side : ::testing::TestWithParam<Precision> {
  c10::InferenceMode guard;
  std::shared_ptr<MemorySource> source = std::make_shared<MemorySource>("file");
  Residency residency;
  BindReport report;
  PatchTable patches;

  Side() { at::manual_seed(7); }
  Scope w() {
    return Scope(std::make_shared<const Binding>(Binding{
        KeyMap(source, "", {}), residency, report, {.device = {}, .dtype = GetParam().dtype}}));
  }
  // A Q8_0 matrix with a patch of `rank`; gives the patched matrix.
  Tensor put(const std::string& name, int64_t out, int64_t in, int64_t rank) {
    std::vector<std::byte> blocks(static_cast<size_t>(out * in / 32 * 34));
    for (size_t i = 0; i < blocks.size(); ++i)
      blocks[i] = static_cast<std::byte>(i % 34 == 0 ? 17 : i % 34 == 1 ? 0x14 : (i * 31) >> 3);
    source->put(name, {out, in}, Encoding::q8_0, blocks);
    Tensor weight = at::empty({out, in});
    decode(blocks, Encoding::q8_0, weight, name);
    const Tensor up = at::randn({out, rank}) * 0.1, down = at::randn({rank, in}) * 0.1;
    patches[name] = {{std::make_shared<Product>(up, down), 0, out, 0.7}};
    return weight + 0.7 * at::matmul(up, down);
  }
  Tensor cast(const Tensor& x) { return x.to(GetParam().dtype); }
  void expect_close(const Tensor& got, const Tensor& want) {
    ASSERT_EQ(got.sizes(), want.sizes());
    EXPECT_LE(((got.to(at::kFloat) - want).norm() / want.norm()).item<double>(), GetParam().limit);
  }
};

TEST_P(Side, LinearWithAnEpilogue) {
  const Tensor weight = put("l.weight", 96, 64, 5), x = at::randn({3, 7, 64});
  const Linear layer(w() / "l", 64, 96, Bias::none, Epilogue::geglu);
  residency.set_patches(patches);
  const auto halves = at::linear(cast(x).to(at::kFloat), weight).chunk(2, -1);
  expect_close(layer(cast(x)), halves[0] * at::gelu(halves[1]));
}

TEST_P(Side, JoinedMatricesWithPatchesOfTheirOwn) {
  const Tensor q = put("l.q.weight", 32, 64, 4), k = put("l.k.weight", 32, 64, 33),
               x = at::randn({2, 50, 64});
  const Linear layer(w() / "l", {"q", "k"}, 64, 32, Bias::none);
  residency.set_patches(patches);
  expect_close(layer(cast(x)), at::linear(cast(x).to(at::kFloat), at::cat({q, k})));
}

TEST_P(Side, ResidualBranches) {
  const Tensor weight = put("l.weight", 64, 128, 16), x = at::randn({2, 9, 128}),
               y = at::randn({2, 9, 64});
  const ResidualLinear layer(w() / "l", 128, 64, Bias::none);
  residency.set_patches(patches);
  Tensor sum = cast(y).clone();
  layer.add_to(sum, cast(x));
  expect_close(sum, cast(y).to(at::kFloat) + at::linear(cast(x).to(at::kFloat), weight));
}

TEST_P(Side, LayersOfFewRows) {
  const Tensor plain = put("p.weight", 64, 96, 5), silu = put("s.weight", 64, 96, 5),
               x = at::randn({2, 96});
  const VectorLinear first(w() / "p", 96, 64, Bias::none),
      second(w() / "s", 96, 64, Bias::none, Epilogue::silu);
  residency.set_patches(patches);
  expect_close(first(cast(x)), at::linear(cast(x).to(at::kFloat), plain));
  expect_close(second(cast(x)), at::silu(at::linear(cast(x).to(at::kFloat), silu)));
}

TEST_P(Side, TakenAwayNothingIsLeftOfThem) {
  put("l.weight", 64, 64, 8);
  const Tensor x = cast(at::randn({5, 64}));
  const Linear layer(w() / "l", 64, 64, Bias::none);
  const Tensor before = layer(x);
  residency.set_patches(patches);
  EXPECT_FALSE(at::equal(layer(x), before));
  residency.set_patches({});
  EXPECT_TRUE(at::equal(layer(x), before));
}

INSTANTIATE_TEST_SUITE_P(
    Dtypes, Side, ::testing::Values(Precision{at::kFloat, 1e-5}, Precision{at::kBFloat16, 8e-3}),
    [](const auto& row) { return std::string(c10::toString(row.param.dtype)); });

}  // namespace
}  // namespace atelier::nn
