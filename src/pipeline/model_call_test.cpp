// How branches become batches, on a made-up network.
#include "pipeline/model_call.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <array>

#include "base/error.h"

namespace atelier {
namespace {

/// Says of each picture the mean of its context, and keeps what it was asked.
struct Mean final : DiffusionModel {
  const ModelTraits& traits() const override { return sizes; }
  Bytes activation_bytes(int64_t, int64_t, int64_t) const override { return {}; }
  Bytes prompt_bytes(int64_t, int64_t) const override { return {}; }
  double prompt_operations(int64_t, int64_t, int64_t, int64_t) const override { return 0; }
  at::Tensor run(const DiffusionInput& input) const override {
    batches.push_back(input.x.size(0));
    tokens.push_back(input.context.embedding().size(1));
    guidances.push_back(input.guidance.defined() ? input.guidance.clone() : at::Tensor());
    references = input.references;
    vectors.push_back(input.vector.defined() ? input.vector.flatten() : at::Tensor());
    const at::Tensor said = input.context.embedding().to(at::kFloat).mean({1, 2});
    return said.view({-1, 1, 1, 1}).expand({-1, 4, 2, 2}).contiguous();
  }
  const Compute& compute() const override { return on; }

  ModelTraits sizes{.context_width = 3};
  Compute on;
  mutable std::vector<int64_t> batches, tokens;
  mutable std::vector<at::Tensor> vectors, guidances, references;
};

Conditioning prompt(int64_t chunks, double value) {
  return {at::full({1, 77 * chunks, 3}, value, at::kFloat), {}};
}

constexpr std::array kBoth{Branch::uncond, Branch::cond};

struct ModelCalls : ::testing::Test {
  Mean model;
  at::Tensor x = at::zeros({2, 4, 2, 2});

  /// What the network says of each picture.
  std::vector<float> call(const ModelCall& network, std::span<const Branch> branches) const {
    const at::Tensor said = network({x, 500, 1, branches}).select(1, 0).select(1, 0).select(1, 0);
    const at::Tensor values = said.contiguous();
    const float* first = values.const_data_ptr<float>();
    return {first, first + values.numel()};
  }
};

TEST_F(ModelCalls, RunBothBranchesAsOneBatchUncondFirst) {
  const ModelCall network = model_call(model, {prompt(1, 5), prompt(1, 3), {}});
  EXPECT_EQ(call(network, kBoth), (std::vector<float>{3, 3, 5, 5}));
  EXPECT_EQ(call(network, std::span(kBoth).last(1)), (std::vector<float>{5, 5}));
  EXPECT_EQ(model.batches, (std::vector<int64_t>{4, 2}));
}

TEST_F(ModelCalls, RepeatShorterPrompts) {
  const ModelCall network = model_call(model, {prompt(3, 5), prompt(4, 3), {}});
  EXPECT_EQ(call(network, kBoth), (std::vector<float>{3, 3, 5, 5}));
  EXPECT_EQ(model.tokens, std::vector<int64_t>{12 * 77});
}

TEST_F(ModelCalls, RunBranchesApartWhosePromptsHaveLittleInCommon) {
  const ModelCall network = model_call(model, {prompt(5, 5), prompt(7, 3), {}});
  for (int i = 0; i < 2; ++i) EXPECT_EQ(call(network, kBoth), (std::vector<float>{3, 3, 5, 5}));
  EXPECT_EQ(model.batches, (std::vector<int64_t>{2, 2, 2, 2}));
  EXPECT_EQ(model.tokens, (std::vector<int64_t>{7 * 77, 5 * 77, 7 * 77, 5 * 77}));
}

TEST_F(ModelCalls, GiveEachPictureTheVectorOfItsBranch) {
  model.sizes.vector_width = 1;
  Conditioning positive = prompt(1, 5), negative = prompt(1, 3);
  positive.vector = at::full({1, 1}, 50.0);
  negative.vector = at::full({1, 1}, 30.0);
  call(model_call(model, {positive, negative, {}}), kBoth);
  EXPECT_TRUE(at::equal(model.vectors.at(0).to(at::kFloat), at::tensor({30.f, 30.f, 50.f, 50.f})));
}

TEST_F(ModelCalls, RunBranchesApartWhereARepeatedPromptIsAnother) {
  model.sizes.prompt_repeats = false;
  call(model_call(model, {prompt(2, 5), prompt(2, 3), {}}), kBoth);
  EXPECT_EQ(model.batches, std::vector<int64_t>{4});
  const ModelCall unequal = model_call(model, {prompt(2, 5), prompt(1, 3), {}});
  EXPECT_EQ(call(unequal, kBoth), (std::vector<float>{3, 3, 5, 5}));
  EXPECT_EQ(model.tokens, (std::vector<int64_t>{2 * 77, 77, 2 * 77}));
}

TEST_F(ModelCalls, TellEachPictureTheScaleOfItsBranch) {
  model.sizes.guidance = 3.5;
  Conditioning positive = prompt(1, 5), negative = prompt(1, 3);
  call(model_call(model, {positive, negative, {}}), kBoth);
  EXPECT_TRUE(at::equal(model.guidances.at(0), at::full({4}, 3.5F)));
  positive.guidance = 2;
  negative.guidance = 1;
  call(model_call(model, {positive, negative, {}}), kBoth);
  EXPECT_TRUE(at::equal(model.guidances.at(1), at::tensor({1.F, 1.F, 2.F, 2.F})));
}

TEST_F(ModelCalls, PassReferencesOnToModelsThatLookAtThem) {
  const ModelCall network =
      model_call(model, {prompt(1, 5), prompt(1, 3), {}, {at::ones({1, 4, 3, 5})}});
  EXPECT_THROW(call(network, kBoth), Error);
  model.sizes.references = true;
  call(network, kBoth);
  ASSERT_EQ(model.references.size(), 1U);
  EXPECT_EQ(model.references[0].sizes(), at::IntArrayRef({1, 4, 3, 5}));
}

}  // namespace
}  // namespace atelier
