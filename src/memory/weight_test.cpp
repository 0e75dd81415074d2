// Weights: preparing once, joining, rows, transposes, accounting.
#include "memory/weight.h"

#include <gtest/gtest.h>

#include <atomic>
#include <thread>

#include "base/error.h"
#include "memory/memory_source.h"
#include "memory/residency.h"
#include "quant/decode.h"

namespace atelier {
namespace {

struct Fixture : ::testing::Test {
  std::shared_ptr<MemorySource> source = std::make_shared<MemorySource>();
  Residency residency;
  Compute compute{.device = {}, .dtype = at::kBFloat16};

  Fixture() {
    at::manual_seed(1);
    source->put("a", at::randn({6, 4}));
    source->put("b", at::randn({2, 4}).to(at::kHalf));
  }
  WeightPart whole(const std::string& name) const {
    return {source, name, 0, source->tensor(name).size(0)};
  }
  Weight bind(const std::string& name) {
    return residency.bind({{whole(name)}, source->tensor(name).sizes().vec()}, plain_form(),
                          compute);
  }
};

using WeightTest = Fixture;

TEST_F(WeightTest, PinsTheDecodedTensor) {
  const Weight a = bind("a");
  EXPECT_TRUE(at::equal(*a.pin(), source->tensor("a").to(at::kBFloat16)));
}

TEST_F(WeightTest, OfTheStoredDtypeIsAViewOfTheSource) {
  compute.dtype = at::kFloat;
  EXPECT_EQ(bind("a").pin()->const_data_ptr(), source->tensor("a").const_data_ptr());
}

TEST_F(WeightTest, IsRoundedFirstWhereTheComputeSaysSo) {
  compute.dtype = at::kFloat;
  compute.rounded = at::kHalf;
  const at::Tensor a = source->tensor("a");
  const at::Tensor rounded = a.to(at::kHalf).to(at::kFloat);
  ASSERT_FALSE(at::equal(rounded, a));
  EXPECT_TRUE(at::equal(*bind("a").pin(), rounded));
  EXPECT_TRUE(at::equal(*bind("a").as(fp32_form()).pin(), rounded));
  const Weight both = residency.bind({{whole("a"), whole("b")}, {8, 4}}, plain_form(), compute);
  EXPECT_TRUE(at::equal(both.pin()->narrow(0, 0, 6), rounded));
}

TEST_F(WeightTest, JoinsPartsOfSeveralEncodings) {
  const Weight both = residency.bind({{whole("a"), whole("b")}, {8, 4}}, plain_form(), compute);
  const at::Tensor expected =
      at::cat({source->tensor("a"), source->tensor("b").to(at::kFloat)}).to(at::kBFloat16);
  EXPECT_TRUE(at::equal(*both.pin(), expected));
  EXPECT_TRUE(at::equal(*gather({bind("a"), bind("b")}, plain_form()).pin(), expected));
}

TEST_F(WeightTest, TakesRowsAndTransposes) {
  WeightPart rows = whole("a");
  rows.first_row = 2;
  rows.rows = 3;
  const at::Tensor a = source->tensor("a");
  EXPECT_TRUE(
      at::equal(*residency.bind({{rows}, {3, 4}}, fp32_form(), compute).pin(), a.narrow(0, 2, 3)));
  rows.transposed = true;
  EXPECT_TRUE(at::equal(*residency.bind({{rows}, {4, 3}}, fp32_form(), compute).pin(),
                        a.narrow(0, 2, 3).t()));
}

TEST_F(WeightTest, TakesRowsThatBeginWithinABlock) {
  // Six rows of 16 in three blocks of 32.
  std::vector<std::byte> blocks(3 * 34);
  for (size_t i = 0; i < blocks.size(); ++i)
    blocks[i] = static_cast<std::byte>(i % 34 < 2 ? 17 : i);
  source->put("q", {6, 16}, Encoding::q8_0, blocks);
  at::Tensor all = at::empty({6, 16});
  decode(blocks, Encoding::q8_0, all, "q");
  const WeightPart part{source, "q", 1, 3};
  EXPECT_TRUE(at::equal(*residency.bind({{part}, {3, 16}}, fp32_form(), compute).pin(),
                        all.narrow(0, 1, 3)));
  const WeightPart turned{source, "q", 1, 3, true};
  EXPECT_TRUE(at::equal(*residency.bind({{turned}, {16, 3}}, fp32_form(), compute).pin(),
                        all.narrow(0, 1, 3).t()));
}

// Eight of the rows by themselves, and all of them as they are pinned.
void expect_rows(const Weight& weight, Residency& residency) {
  const at::Tensor ids = at::tensor({1, 0, 3, 1, 2, 2, 0, 3}, at::kLong).view({2, 4});
  const at::Tensor rows = weight.as(rows_form()).rows(ids);
  EXPECT_EQ(residency.weight_bytes(), Bytes(0));
  const at::Tensor wanted = at::embedding(*weight.pin(), ids);
  EXPECT_EQ(rows.scalar_type(), wanted.scalar_type());
  EXPECT_TRUE(at::equal(rows, wanted));
}

TEST_F(WeightTest, RowsAreThoseOfTheWholeAndNothingElseIsDecoded) {
  expect_rows(bind("a"), residency);
}

TEST_F(WeightTest, RowsAreRoundedLikeTheWhole) {
  compute.dtype = at::kFloat;
  compute.rounded = at::kHalf;
  expect_rows(bind("a"), residency);
}

TEST_F(WeightTest, RowsMaySplitBlocksAndComeFromSeveralParts) {
  std::vector<std::byte> blocks(3 * 34);
  for (size_t i = 0; i < blocks.size(); ++i)
    blocks[i] = static_cast<std::byte>(i % 34 < 2 ? 17 : i);
  source->put("q", {6, 16}, Encoding::q8_0, blocks);
  source->put("r", at::randn({2, 16}));
  expect_rows(residency.bind({{{source, "q", 3, 2}, whole("r")}, {4, 16}}, plain_form(), compute),
              residency);
}

TEST_F(WeightTest, RowsOfWhatNeedsNoDecodingAreThoseOfTheFile) {
  compute.dtype = at::kFloat;
  const Weight a = bind("a").as(rows_form());
  EXPECT_TRUE(a.as_stored());
  residency.prepare_all();
  EXPECT_EQ(residency.weight_bytes(), Bytes(0));
  const at::Tensor ids = at::tensor({5, 0}, at::kLong);
  EXPECT_TRUE(at::equal(a.rows(ids), at::embedding(source->tensor("a"), ids)));
  EXPECT_EQ(a.pin()->const_data_ptr(), source->tensor("a").const_data_ptr());
}

TEST_F(WeightTest, RowsThereAreNotAreRefused) {
  for (const int64_t row : {-1, 6}) try {
      bind("a").rows(at::tensor({row}, at::kLong));
      ADD_FAILURE() << row;
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::invalid_argument);
    }
}

// Adds one to every element.
struct AddOne final : WeightPatch {
  void apply(at::Tensor& weight, double strength) const override { weight += strength; }
};

TEST_F(WeightTest, RowsOfAPatchedTableArePatched) {
  const Weight a = residency.bind({{whole("a")}, {6, 4}, "e.weight"}, rows_form(), compute);
  const at::Tensor ids = at::tensor({5, 0}, at::kLong);
  const at::Tensor before = a.rows(ids);
  residency.set_patches({{"e.weight", {{std::make_shared<AddOne>(), 0, 6, 2}}}});
  EXPECT_TRUE(
      at::equal(a.rows(ids), (at::embedding(source->tensor("a"), ids) + 2).to(at::kBFloat16)));
  residency.set_patches({});
  EXPECT_TRUE(at::equal(a.rows(ids), before));
  EXPECT_EQ(residency.weight_bytes(), Bytes(0));
}

// Codes of fp8 under one scale for each row.
TEST_F(WeightTest, IsScaledWherePartsAndRowsOfItAreTaken) {
  const at::Tensor codes = at::randn({6, 4}).to(at::kFloat8_e4m3fn);
  const std::vector<float> scales{0.5F, 2, 3, 0.1F, 7, 1};
  source->put("s", codes);
  source->scale("s", {.name = "s.scale",
                      .scales = std::as_bytes(std::span(scales)),
                      .columns = 24,
                      .tile_columns = 4});
  const at::Tensor wanted =
      (codes.to(at::kFloat) * at::tensor(scales).view({6, 1})).to(at::kBFloat16);
  EXPECT_TRUE(at::equal(*bind("s").pin(), wanted));
  EXPECT_FALSE(bind("s").as_stored());
  const WeightPart turned{source, "s", 2, 3, true};
  EXPECT_TRUE(at::equal(*residency.bind({{turned}, {4, 3}}, plain_form(), compute).pin(),
                        wanted.narrow(0, 2, 3).t()));
  expect_rows(bind("s"), residency);
}

TEST_F(WeightTest, AFormSeesItsOperandsInOrder) {
  const Weight sum =
      gather({bind("b"), bind("b")}, {"sum", [](const Operands& operands, const Compute&) {
                                        EXPECT_EQ(operands.size(), 2u);
                                        return operands.decoded(0, at::kFloat) +
                                               operands.decoded(1, at::kFloat);
                                      }});
  EXPECT_TRUE(at::equal(*sum.pin(), 2 * source->tensor("b").to(at::kFloat)));
}

TEST_F(WeightTest, IsPreparedOnceEvenFromManyThreads) {
  std::atomic<int> prepared = 0;
  const Weight a = bind("a").as({"counting", [&](const Operands& operands, const Compute&) {
                                   ++prepared;
                                   return operands.joined(at::kFloat).clone();
                                 }});
  std::vector<std::thread> threads;
  for (int i = 0; i < 8; ++i) threads.emplace_back([&] { EXPECT_EQ(a.pin()->numel(), 24); });
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(prepared, 1);
}

TEST_F(WeightTest, BytesAreCountedWhilePrepared) {
  EXPECT_EQ(residency.weight_bytes(), Bytes(0));
  {
    const Weight a = bind("a"), b = bind("b"), unused_raw = bind("a");
    const Weight copy = a;
    residency.prepare_all();
    EXPECT_EQ(residency.weight_bytes(), Bytes(24 * 2 + 8 * 2 + 24 * 2));
  }
  EXPECT_EQ(residency.weight_bytes(), Bytes(0));
  EXPECT_EQ(residency.peak_weight_bytes(), Bytes(112));
}

TEST_F(WeightTest, PreparingStopsWhenAsked) {
  const Weight a = bind("a"), b = bind("b");
  residency.prepare_all([](double share) {
    EXPECT_GT(share, 0);
    EXPECT_LT(share, 1);
    return false;
  });
  EXPECT_EQ(residency.weight_bytes(), Bytes(48));
}

// Counts what it is told of each tensor.
class ToldSource final : public TensorSource {
 public:
  explicit ToldSource(std::shared_ptr<const TensorSource> source) : source_(std::move(source)) {}
  const TensorTable& tensors() const override { return source_->tensors(); }
  std::span<const std::byte> bytes(std::string_view name) const override {
    return source_->bytes(name);
  }
  void will_need(std::string_view name) const override { ++wanted[std::string(name)]; }
  void wont_need(std::string_view name) const override { ++dropped[std::string(name)]; }
  std::string label() const override { return source_->label(); }
  const Metadata& metadata() const override { return source_->metadata(); }
  mutable std::map<std::string, int> wanted, dropped;

 private:
  std::shared_ptr<const TensorSource> source_;
};

TEST_F(WeightTest, LetsGoOfStoredBytesThatItDoesNotView) {
  const auto told = std::make_shared<ToldSource>(source);
  const auto bind_told = [&](const std::string& name) {
    return residency.bind(
        {{{told, name, 0, source->tensor(name).size(0)}}, source->tensor(name).sizes().vec()},
        plain_form(), {.device = {}, .dtype = at::kFloat});
  };
  const Weight viewed = bind_told("a"), decoded = bind_told("b");
  residency.prepare_all();
  EXPECT_EQ(told->wanted, (std::map<std::string, int>{{"a", 1}, {"b", 1}}));
  EXPECT_EQ(told->dropped, (std::map<std::string, int>{{"b", 1}}));
}

TEST_F(WeightTest, WhatFewRunsNeedIsPreparedOnDemand) {
  Form form = plain_form();
  form.on_demand = true;
  const Weight rare = bind("a").as(form);
  residency.prepare_all();
  EXPECT_EQ(residency.weight_bytes(), Bytes(0));
  EXPECT_EQ(rare.pin()->numel(), 24);
  EXPECT_EQ(residency.weight_bytes(), Bytes(48));
}

TEST_F(WeightTest, NeedsAreWorkedOutFromShapes) {
  const Weight a = bind("a"), b = bind("b"), wide = bind("b").as(fp32_form());
  const Residency::Needs needs = residency.needs();
  EXPECT_EQ(needs.prepared, Bytes(24 * 2 + 8 * 2 + 8 * 4));
  EXPECT_EQ(needs.stored, Bytes(24 * 4 + 8 * 2 + 8 * 2));
  EXPECT_EQ(needs.largest, Bytes(48));
  EXPECT_EQ(residency.weight_bytes(), Bytes(0));
}

// Weights of 128 KiB each in bf16.
struct LargeWeights : Fixture {
  std::vector<Weight> weights;
  LargeWeights() {
    for (int i = 0; i < 8; ++i) {
      const std::string name = "w" + std::to_string(i);
      source->put(name, at::randn({256, 256}));
      weights.push_back(bind(name));
    }
    weights.push_back(bind("a"));  // small
  }
  void expect_right() {
    for (int i = 0; i < 8; ++i) {
      const at::Tensor want = source->tensor("w" + std::to_string(i)).to(at::kBFloat16);
      EXPECT_TRUE(at::equal(*weights[static_cast<size_t>(i)].pin(), want));
    }
  }
};

TEST_F(LargeWeights, StayPreparedEvenlySpreadWithinWhatIsAllowed) {
  constexpr int64_t kEach = 256 * 256 * 2, kSmallOne = 24 * 2;
  const auto stay = [&](int64_t bytes) {
    residency.keep({.prepared = Bytes(bytes)});
    residency.prepare_all();
    std::string which;
    for (const Weight& weight : weights) {
      const Pin first = weight.pin();
      which += first->const_data_ptr() == weight.pin()->const_data_ptr() ? 'x' : '.';
    }
    expect_right();
    return which;
  };
  EXPECT_EQ(stay(4 * kEach + kSmallOne), ".x.x.x.xx");
  EXPECT_EQ(residency.weight_bytes(), Bytes(4 * kEach + kSmallOne));
  EXPECT_EQ(stay(2 * kEach + kSmallOne), "...x...xx");
  EXPECT_EQ(residency.weight_bytes(), Bytes(2 * kEach + kSmallOne));
  EXPECT_EQ(stay(0), "........x");
  EXPECT_EQ(residency.weight_bytes(), Bytes(kSmallOne));
  EXPECT_EQ(stay(8 * kEach + kSmallOne), "xxxxxxxxx");
}

TEST_F(WeightTest, APinOutlivesItsWeight) {
  std::optional<Pin> pin;
  {
    const Weight a = bind("a");
    pin = a.pin();
  }
  EXPECT_TRUE(at::equal(**pin, source->tensor("a").to(at::kBFloat16)));
}

}  // namespace
}  // namespace atelier
