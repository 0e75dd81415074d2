// Noise and Brownian trees against golden/sampling/rng.json, and what must hold of them.
#include "sampling/noise.h"

#include <gtest/gtest.h>

#include <functional>

#include "base/error.h"
#include "sampling/brownian.h"
#include "sampling/golden_test.h"
#include "sampling/seed_sequence.h"

namespace atelier {
namespace {

constexpr std::array<int64_t, 4> kShape{1, 4, 8, 8};

TEST(Noise, EqualsEveryGoldenDraw) {
  const Json draws = golden::read("rng.json").at("randn");
  ASSERT_EQ(draws.size(), 8u);
  for (const Json& entry : draws) {
    SCOPED_TRACE(entry.at("seed").dump() + " " + entry.at("shape").dump());
    const Tensor noise =
        initial_noise(golden::shape(entry.at("shape")), entry.at("seed").get<uint64_t>());
    golden::expect_entry(noise, entry, 5e-7);
    const auto last = entry.at("last4").get<std::vector<double>>();
    for (size_t i = 0; i < last.size(); ++i)
      EXPECT_NEAR(noise.view({-1})[noise.numel() - 4 + static_cast<int64_t>(i)].item<double>(),
                  last[i], 1e-6);
  }
}

TEST(Noise, OnlyTheLow32BitsOfTheSeedCount) {
  EXPECT_TRUE(initial_noise(kShape, 7).equal(initial_noise(kShape, 7 + (uint64_t{1} << 32))));
  EXPECT_FALSE(initial_noise(kShape, 7).equal(initial_noise(kShape, 8)));
}

TEST(Noise, OfABatchIndexIsThatElementOfTheBatch) {
  const std::vector<int64_t> batch{3, 4, 8, 8}, pick{2, 0, 2};
  const Tensor all = initial_noise(batch, 11);
  const Tensor picked = initial_noise(batch, 11, pick);
  EXPECT_TRUE(picked[0].equal(all[2]));
  EXPECT_TRUE(picked[1].equal(all[0]));
  EXPECT_TRUE(picked[2].equal(all[2]));
}

TEST(Noise, RefusesIndicesThatWouldDrawForever) {
  const std::vector<int64_t> one{1, 4, 8, 8};
  for (const int64_t index : {int64_t{-1}, int64_t{65536}, int64_t{1} << 60}) {
    const std::vector<int64_t> indices{index};
    EXPECT_THROW(initial_noise(one, 0, indices), Error) << index;
  }
  const std::vector<int64_t> two{0, 1};
  EXPECT_THROW(initial_noise(one, 0, two), Error);
}

TEST(AncestralNoise, StartsWithTheStartNoiseOfItsSeedAndGoesOn) {
  AncestralNoise source(kShape, 5);
  EXPECT_TRUE(source.next(2, 1).equal(initial_noise(kShape, 5)));
  EXPECT_FALSE(source.next(2, 1).equal(initial_noise(kShape, 5)));
}

// Values of numpy.random.SeedSequence(entropy, spawn_key=..., pool_size=24).generate_state(1)[0].
TEST(SeedSequence, GivesNumpysWords) {
  const auto word = [](uint64_t entropy, std::vector<uint64_t> key) {
    return seed_sequence_word(entropy, key);
  };
  EXPECT_EQ(word(0, {}), 4025752534u);
  EXPECT_EQ(word(12345, {3, 2}), 961355584u);
  EXPECT_EQ(word(0xfedcba9876543210u, {0, 0}), 1906073441u);
  EXPECT_EQ(word(1, {uint64_t{5} << 32, 40}), 2034671523u);
}

TEST(BrownianTree, EqualsEveryGoldenIncrement) {
  const Json trees = golden::read("rng.json").at("brownian");
  ASSERT_EQ(trees.size(), 6u);
  for (const Json& entry : trees) {
    SCOPED_TRACE(entry.at("entropy").dump() + " " + entry.at("query").dump());
    BrownianTree tree(golden::shape(entry.at("shape")), entry.at("t0").get<double>(),
                      entry.at("t1").get<double>(), entry.at("entropy").get<uint64_t>());
    const Json& query = entry.at("query");
    golden::expect_entry(tree.increment(query[0].get<double>(), query[1].get<double>()), entry,
                         2e-6);
  }
}

TEST(BrownianTree, DoesNotDependOnTheOrderOfQueries) {
  const std::vector<double> times{0.03, 0.5, 0.500001, 1.25, 7.0, 14.6};
  const auto ask = [&](BrownianTree& tree, size_t i) {
    return tree.increment(times[i], times[i + 1]);
  };
  BrownianTree forward(kShape, 0.03, 14.6, 9), backward(kShape, 0.03, 14.6, 9);
  std::vector<Tensor> first;
  for (size_t i = 0; i + 1 < times.size(); ++i) first.push_back(ask(forward, i));
  for (size_t i = times.size() - 1; i-- > 0;)
    EXPECT_TRUE(ask(backward, i).equal(first[i])) << "interval " << i;
}

TEST(BrownianTree, IncrementsAddUpAndHaveTheVarianceOfTheirTime) {
  BrownianTree tree(std::array<int64_t, 4>{1, 4, 64, 64}, 0, 10, 3);
  const Tensor parts = tree.increment(1, 4) + tree.increment(4, 9);
  EXPECT_LT((parts - tree.increment(1, 9)).abs().max().item<double>(), 1e-5);
  EXPECT_NEAR(tree.increment(4, 9).var().item<double>(), 5, 0.25);
  EXPECT_NEAR(tree.increment(2, 2.01).var().item<double>(), 0.01, 0.0005);
  const Tensor a = tree.increment(0, 3).view({-1}), b = tree.increment(3, 6).view({-1});
  EXPECT_LT(std::abs((a * b).mean().item<double>()), 0.1);
}

TEST(BrownianTree, RefusesAnEmptyRange) {
  EXPECT_THROW(BrownianTree(kShape, 1, 1, 0), Error);
  EXPECT_THROW(BrownianTree(kShape, 2, 1, 0), Error);
  EXPECT_THROW(BrownianTree(kShape, 0, INFINITY, 0), Error);
}

TEST(BrownianNoise, IsTheIncrementOverTheRootOfTheTimeNegatedDownwards) {
  BrownianTree tree(kShape, 0.03, 14.6, 9);
  BrownianNoise noise(kShape, 0.03, 14.6, 9);
  const Tensor expected = tree.increment(1.5, 4) / -std::sqrt(2.5);
  EXPECT_LT((noise.next(4, 1.5) - expected).abs().max().item<double>(), 1e-6);
}

}  // namespace
}  // namespace atelier
