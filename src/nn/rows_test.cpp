// Layers of transformers over rows of tokens against their plain ATen form.
#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "memory/memory_source.h"
#include "nn/cpu.h"
#include "nn/layers.h"
#include "nn/modulation.h"
#include "nn/rope.h"

namespace atelier::nn {
namespace {

struct Precision {
  at::ScalarType dtype;
  double limit;  // relative, against fp32
};

struct Rows : ::testing::TestWithParam<Precision> {
  c10::InferenceMode guard;
  std::shared_ptr<MemorySource> source = std::make_shared<MemorySource>("file");
  Residency residency;
  BindReport report;

  Rows() { at::manual_seed(3); }
  void put(const std::string& name, Shape shape) { source->put(name, at::randn(shape)); }
  Tensor t(const std::string& name) { return source->tensor(name); }
  Scope w() {
    return Scope(std::make_shared<const Binding>(
        Binding{KeyMap(source, "", {}), residency, report, {.device = {}, .dtype = dtype()}}));
  }
  at::ScalarType dtype() const { return GetParam().dtype; }
  Tensor cast(const Tensor& x) { return x.to(dtype()); }
  void expect_close(const Tensor& got, const Tensor& want) {
    ASSERT_EQ(got.sizes(), want.sizes());
    EXPECT_EQ(got.scalar_type(), dtype());
    const Tensor expected = want.to(at::kFloat);
    EXPECT_LE(((got.to(at::kFloat) - expected).norm() / expected.norm()).item<double>(),
              GetParam().limit);
  }
};

Tensor plain_rms_norm(const Tensor& x, const Tensor& weight, double eps) {
  return x / (x.square().mean(-1, true) + eps).sqrt() * weight;
}

TEST_P(Rows, RmsNormOfRowsAndOfHeadsWithinRows) {
  put("n.scale", {40});
  const RmsNorm norm(w() / "n", 40, 1e-2, "scale");
  const Tensor x = at::randn({2, 3, 40}), rows = at::randn({2, 3, 5 * 40});
  expect_close(norm(cast(x)), plain_rms_norm(x, t("n.scale"), 1e-2));
  const Tensor heads = rows.narrow(2, 40, 80).unflatten(2, {2, 40});
  const Tensor got = norm(cast(rows).narrow(2, 40, 80).unflatten(2, {2, 40}));
  expect_close(got, plain_rms_norm(heads, t("n.scale"), 1e-2));
  EXPECT_TRUE(got.is_contiguous());
  expect_close(norm(x), plain_rms_norm(x, t("n.scale"), 1e-2));
}

TEST_P(Rows, HeadsAreNormedAndTurnedIntoPartOfATensor) {
  put("n.scale", {8});
  const RmsNorm norm(w() / "n", 8, 1e-6, "scale");
  const Rope rope(at::randn({3, 1}), std::vector<int64_t>{8}, 100, at::kCPU);
  const Tensor wide = at::randn({2, 3, 60}), x = wide.narrow(2, 5, 40);
  Tensor joined = at::full({2, 7, 40}, 9, at::dtype(dtype()));
  Tensor part = joined.narrow(1, 4, 3);
  norm.turned_to(part, cast(wide).narrow(2, 5, 40), rope);
  const Tensor normed = plain_rms_norm(x.unflatten(2, {5, 8}), t("n.scale"), 1e-6);
  expect_close(part, rope.turn(normed).flatten(2));
  EXPECT_TRUE((joined.narrow(1, 0, 4) == 9).all().item<bool>());
}

TEST_P(Rows, RmsNormKeepsItsSumsInFp32) {
  put("n.scale", {40});
  const RmsNorm norm(w() / "n", 40, 1e-6, "scale");
  const Tensor x = at::randn({2, 7, 40});
  expect_close(norm(x * 1e6), plain_rms_norm(x * 1e6, t("n.scale"), 1e-6));  // squares beyond fp16
  expect_close(norm(x.select(1, 3)), plain_rms_norm(x.select(1, 3), t("n.scale"), 1e-6));
}

TEST_P(Rows, LayersOfFewRowsPrepareNothing) {
  for (const char* name : {"v.weight", "a.weight", "b.weight"}) put(name, {32, 48});
  for (const char* name : {"v.bias", "a.bias", "b.bias"}) put(name, {32});
  const VectorLinear layer(w() / "v", 48, 32, Bias::with, Epilogue::silu);
  LinearParts parts;
  const LinearPart a = parts.add(w() / "a", 48, 32), b = parts.add(w() / "b", 48, 32);
  const VectorLinear joined(parts);
  const Tensor x = at::randn({5, 48});
  expect_close(layer(cast(x)),
               at::silu(at::linear(cast(x), cast(t("v.weight")), cast(t("v.bias")))));
  expect_close(a.of(joined(cast(x))), at::linear(cast(x), cast(t("a.weight")), cast(t("a.bias"))));
  expect_close(b.of(joined(cast(x))), at::linear(cast(x), cast(t("b.weight")), cast(t("b.bias"))));
  EXPECT_TRUE(at::equal(layer(cast(x).narrow(0, 3, 1)), layer(cast(x)).narrow(0, 3, 1)));
  const bool own = cpu::linear_layer(w().compute(), 48, 32, Epilogue::plain).has_value();
  EXPECT_LE(residency.weight_bytes(), own ? Bytes(3 * 32 * 4) : Bytes(1 << 20));  // biases
}

TEST_P(Rows, ModulatedNormsAndGatedResiduals) {
  const Tensor x = at::randn({2, 5, 48}), y = at::randn({2, 5, 48});
  const Tensor both = at::randn({2, 96});
  const auto parts = both.chunk(2, 1), given = cast(both).chunk(2, 1);
  expect_close(
      modulate(cast(x), given[0], given[1]),
      at::layer_norm(x, {48}, {}, {}, 1e-6) * (1 + parts[1].unsqueeze(1)) + parts[0].unsqueeze(1));
  Tensor sum = cast(y).clone();
  add_gated(sum, given[0], cast(x));
  expect_close(sum, y + parts[0].unsqueeze(1) * x);
}

TEST_P(Rows, RotaryPairsTurnByPosition) {
  const std::vector<int64_t> axes{2, 6};
  const Tensor ids = at::tensor({0, 0, 3, 1, 0, 5, 70, 2}, at::kLong).view({4, 2});
  const Rope rope(ids, axes, 100, at::kCPU);
  const Tensor x = at::randn({2, 4, 3, 8});
  const Tensor got = rope.turn(cast(x));
  const Tensor frequencies =
      at::tensor({1.0, 1.0, std::pow(100.0, -1.0 / 3), std::pow(100.0, -2.0 / 3)}, at::kDouble);
  const Tensor angles = ids.to(at::kDouble).repeat_interleave(at::tensor({1, 3}), 1) * frequencies;
  const Tensor turns = at::polar(at::ones_like(angles), angles).unsqueeze(1);
  const Tensor complex = at::view_as_complex(x.to(at::kDouble).unflatten(3, {4, 2}));
  expect_close(got, at::view_as_real(complex * turns).flatten(3));
  EXPECT_TRUE(at::equal(got.select(1, 0), cast(x).select(1, 0)));

  EXPECT_TRUE(at::equal(rope.part(1, 2).turn(cast(x).narrow(1, 1, 2)), got.narrow(1, 1, 2)));
}

INSTANTIATE_TEST_SUITE_P(Cpu, Rows,
                         ::testing::Values(Precision{at::kFloat, 2e-6},
                                           Precision{at::kBFloat16, 8e-3},
                                           Precision{at::kHalf, 2e-3}),
                         [](const auto& test) {
                           return std::string(dtype_name(test.param.dtype));
                         });

TEST(Patches, AreSquaresOfCellsAndGoBack) {
  const Tensor x = at::arange(2 * 3 * 4 * 6).view({2, 3, 4, 6});
  const Tensor rows = patches(x, 2);
  EXPECT_EQ(rows.sizes(), at::IntArrayRef({2, 6, 12}));
  // the second row's last square, of the second channel
  EXPECT_TRUE(
      at::equal(rows[1][5].narrow(0, 4, 4), x[1][1].narrow(0, 2, 2).narrow(1, 4, 2).reshape({4})));
  EXPECT_TRUE(at::equal(from_patches(rows, 2, 3, 2), x));
  const Tensor odd = from_patches(patches(x.narrow(2, 0, 3).narrow(3, 0, 5), 2), 2, 3, 2);
  EXPECT_TRUE(at::equal(odd.select(2, 3).narrow(2, 0, 5), x.select(2, 0).narrow(2, 0, 5)));
  EXPECT_TRUE(at::equal(odd.select(3, 5).narrow(2, 0, 3), x.select(3, 0).narrow(2, 0, 3)));
}

TEST(Rope, IsMadeAgainOnlyForAnotherKey) {
  const RopeCache cache;
  int made = 0;
  const auto ask = [&](int64_t length) {
    return cache.get({length, 1}, [&] {
      ++made;
      return Rope(at::zeros({length, 1}), std::vector<int64_t>{4}, 100, at::kCPU);
    });
  };
  EXPECT_EQ(ask(3).length(), 3);
  EXPECT_EQ(ask(3).length(), 3);
  EXPECT_EQ(made, 1);
  EXPECT_EQ(ask(5).length(), 5);
  EXPECT_EQ(made, 2);
}

}  // namespace
}  // namespace atelier::nn
