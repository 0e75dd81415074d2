// Patches: merged into floats, left to the layer beside quantised matrices, taken back exactly.
#include <gtest/gtest.h>

#include "memory/memory_source.h"
#include "memory/residency.h"
#include "memory/test_patch.h"
#include "quant/decode.h"

namespace atelier {
namespace {

/// weight *= strength, which is no product of factors.
class Scaling final : public WeightPatch {
 public:
  void apply(at::Tensor& weight, double strength) const override { weight.mul_(strength); }
};

struct PatchTest : ::testing::Test {
  std::shared_ptr<MemorySource> source = std::make_shared<MemorySource>();
  Residency residency;
  Compute compute{.device = {}, .dtype = at::kFloat};
  std::shared_ptr<const Product> one, two;

  PatchTest() {
    at::manual_seed(5);
    source->put("a", at::randn({6, 32}));
    source->put("b", at::randn({4, 32}));
    std::vector<std::byte> blocks(6 * 34);
    for (size_t i = 0; i < blocks.size(); ++i)
      blocks[i] = static_cast<std::byte>(i % 34 < 2 ? 17 : i * 7);
    source->put("q", {6, 32}, Encoding::q8_0, blocks);
    one = std::make_shared<Product>(at::randn({6, 2}), at::randn({2, 32}));
    two = std::make_shared<Product>(at::randn({3, 2}), at::randn({2, 32}));
  }
  at::Tensor stored(const std::string& name) const {
    const TensorInfo& info = source->tensors().find(name)->second;
    at::Tensor out = at::empty(info.shape);
    decode(source->bytes(name), info.encoding, out, name);
    return out;
  }
  Weight bind(const std::string& name) {
    const Shape shape = source->tensors().find(name)->second.shape;
    return residency.bind({{{source, name, 0, shape[0]}}, shape, name + ".weight"}, plain_form(),
                          compute);
  }
  static at::Tensor delta(const Product& patch) {
    return at::matmul(patch.low_rank()->up, patch.low_rank()->down);
  }
  static Form beside_form() {
    return {.name = "beside",
            .prepare =
                [](const Operands& operands, const Compute& c) {
                  const auto side = operands.side();
                  const at::Tensor weight = operands.joined(c.dtype);
                  return side ? at::cat({weight, side->up}, 1) : weight.clone();
                },
            .prepare_down = [](const at::Tensor& down, const Compute&) { return down; }};
  }
  static void expect_equal(const at::Tensor& got, const at::Tensor& want) {
    ASSERT_EQ(got.sizes(), want.sizes());
    EXPECT_TRUE(at::allclose(got, want, 1e-5, 1e-5));
  }
};

TEST_F(PatchTest, AreMergedIntoFloatsInOrderAndByRows) {
  const Weight a = bind("a"), b = bind("b"), both = gather({a, b}, plain_form());
  const at::Tensor before = both.pin()->clone();
  residency.set_patches(
      {{"a.weight", {{one, 0, 6, 0.5}, {std::make_shared<Scaling>(), 0, 6, 3}, {two, 3, 3, -2}}}});
  at::Tensor want = (stored("a") + 0.5 * delta(*one)) * 3;
  want.narrow(0, 3, 3).sub_(2 * delta(*two));
  expect_equal(*a.pin(), want);
  expect_equal(both.pin()->narrow(0, 0, 6), want);
  EXPECT_TRUE(at::equal(both.pin()->narrow(0, 6, 4), stored("b")));
  residency.set_patches({});
  EXPECT_TRUE(at::equal(*both.pin(), before));
}

TEST_F(PatchTest, AreMergedBeforeRounding) {
  compute.rounded = at::kHalf;
  const Weight a = bind("a");
  residency.set_patches({{"a.weight", {{one, 0, 6, 1}}}});
  const at::Tensor want = (stored("a") + delta(*one)).to(at::kHalf).to(at::kFloat);
  EXPECT_TRUE(at::equal(*a.pin(), want));
}

TEST_F(PatchTest, OnlyWhatChangesIsPreparedAgain) {
  const Weight a = bind("a"), q = bind("q").as(plain_form());
  residency.set_patches({{"a.weight", {{one, 0, 6, 1}}}, {"q.weight", {{one, 0, 6, 1}}}});
  const void* const kept = q.pin()->const_data_ptr();
  const at::Tensor first = *a.pin();
  residency.set_patches({{"a.weight", {{one, 0, 6, 2}}}, {"q.weight", {{one, 0, 6, 1}}}});
  EXPECT_EQ(q.pin()->const_data_ptr(), kept);
  expect_equal(*a.pin(), stored("a") + 2 * delta(*one));
  EXPECT_NE(a.pin()->const_data_ptr(), first.const_data_ptr());
}

TEST_F(PatchTest, RunBesideQuantisedMatrices) {
  const Weight q = gather({bind("q"), bind("b")}, beside_form());
  residency.set_patches(
      {{"q.weight", {{one, 0, 6, 0.5}, {two, 3, 3, -1}}}, {"b.weight", {{two, 1, 3, 2}}}});
  const Pin pin = q.pin();
  ASSERT_EQ(pin.rank(), 2 + 2 + 2);
  EXPECT_TRUE(at::equal(pin->narrow(1, 0, 32).narrow(0, 0, 6), stored("q")));
  at::Tensor want = at::zeros({10, 32});
  want.narrow(0, 0, 6).add_(delta(*one), 0.5);
  want.narrow(0, 3, 3).sub_(delta(*two));
  want.narrow(0, 7, 3).add_(delta(*two), 2);
  expect_equal(at::matmul(pin->narrow(1, 32, pin.rank()), pin.down()), want);
  EXPECT_EQ(residency.weight_bytes(), Bytes((10 * (32 + 6) + 6 * 32) * 4));
  residency.set_patches({});
  EXPECT_EQ(q.pin().rank(), 0);
  EXPECT_EQ(q.pin()->size(1), 32);
}

TEST_F(PatchTest, RowsTellWhichColumnsOfTheBranchTheyTake) {
  const Weight q = gather({bind("q"), bind("b")}, beside_form());
  const auto ranges = [&] {
    std::vector<std::array<int64_t, 3>> found;
    const Pin pin = q.pin();
    for (const TailRange& range : pin.ranges())
      found.push_back({range.outputs_end, range.first, range.end});
    return found;
  };
  using Found = std::vector<std::array<int64_t, 3>>;
  // Two of one part after one of another: each part's lie together.
  residency.set_patches({{"q.weight", {{two, 3, 3, 1}, {two, 0, 3, 1}, {two, 3, 3, 2}}}});
  EXPECT_EQ(ranges(), (Found{{3, 0, 2}, {6, 2, 6}, {10, 6, 6}}));
  // One of all rows and one of some.
  residency.set_patches({{"q.weight", {{one, 0, 6, 1}, {two, 1, 3, 1}}}});
  EXPECT_EQ(ranges(), (Found{{1, 0, 2}, {4, 0, 4}, {6, 0, 4}, {10, 4, 4}}));
  const Weight alone = bind("q").as(beside_form());
  residency.set_patches({{"q.weight", {{one, 0, 6, 1}, {one, 0, 6, 2}}}});
  EXPECT_TRUE(alone.pin().ranges().empty());
}

TEST_F(PatchTest, ProductsThatCostMoreThanTheMatrixAreMerged) {
  const Weight q = bind("q").as(beside_form());
  const auto of_rank = [](int64_t rank) {
    return std::make_shared<Product>(at::randn({6, rank}), at::randn({rank, 32}));
  };
  const auto three = of_rank(3), five = of_rank(5);
  residency.set_patches({{"q.weight", {{one, 0, 6, 0.5}, {three, 0, 6, 1}}}});
  EXPECT_EQ(q.pin().rank(), 5);  // 5 (6 + 32) of 6 * 32 products
  residency.set_patches({{"q.weight", {{one, 0, 6, 0.5}, {five, 0, 6, 1}}}});
  EXPECT_EQ(q.pin().rank(), 0);
  EXPECT_FALSE(q.with_stored([](const Operands&) {}));
  expect_equal(*q.pin(), stored("q") + 0.5 * delta(*one) + delta(*five));
}

TEST_F(PatchTest, WhatIsNoProductIsMergedIntoQuantisedMatricesToo) {
  const Weight q = bind("q").as(beside_form());
  residency.set_patches({{"q.weight", {{one, 0, 6, 1}, {std::make_shared<Scaling>(), 0, 6, 2}}}});
  EXPECT_EQ(q.pin().rank(), 0);
  expect_equal(*q.pin(), (stored("q") + delta(*one)) * 2);
}

TEST_F(PatchTest, FloatsAreMergedEvenWhereTheLayerCouldRunThemBeside) {
  const Weight a = bind("a").as(beside_form());
  residency.set_patches({{"a.weight", {{one, 0, 6, 1}}}});
  EXPECT_EQ(a.pin().rank(), 0);
  expect_equal(*a.pin(), stored("a") + delta(*one));
}

TEST_F(PatchTest, WeightsBoundLaterFindTheirs) {
  residency.set_patches({{"a.weight", {{one, 0, 6, 1}}}});
  expect_equal(*bind("a").pin(), stored("a") + delta(*one));
}

}  // namespace
}  // namespace atelier
