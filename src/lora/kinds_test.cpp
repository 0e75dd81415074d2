// Every kind of change against what trainers' own code makes of the same tensors.
#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "base/error.h"
#include "lora/lora.h"
#include "lora/with_config.h"
#include "models/golden_files.h"

namespace atelier {
namespace {

using at::Tensor;

constexpr KeyLayout kOwn[] = {{.name = "original", .signature = "m.weight"}};

std::shared_ptr<const TensorSource> kinds() {
  static const auto file = open_checkpoint(std::filesystem::path(ATELIER_SOURCE_DIR) / "tests" /
                                           "golden" / "lora" / "kinds.safetensors");
  return file;
}

std::vector<std::string> names_of_kinds() {
  std::vector<std::string> names;
  for (const auto& [name, info] : kinds()->tensors())
    if (name.starts_with("base/")) names.push_back(name.substr(5));
  return names;
}

/// The tensors of one case as a LoRA file for the weight "m.weight", as PEFT names it if PEFT wrote
/// the file, and as diffusers does if it wrote a config along.
std::shared_ptr<const TensorSource> file_of(const std::string& kind) {
  auto file = std::make_shared<MemorySource>("kind.safetensors");
  const std::string head = "file/" + kind + "/";
  const auto config = kinds()->metadata().find("config/" + kind);
  const bool configured = config != kinds()->metadata().end();
  const std::string module = configured                  ? "unet.m."
                             : kind.starts_with("peft_") ? "base_model.model.m."
                                                         : "m.";
  for (const auto& [name, info] : kinds()->tensors())
    if (name.starts_with(head))
      file->put(module + name.substr(head.size()), info.shape, info.encoding, kinds()->bytes(name));
  if (!configured) return file;
  const Json options = parse_json(config->second, "config");
  Json prefixed;
  for (const auto& [key, value] : options.items()) prefixed["unet." + key] = value;
  return std::make_shared<WithConfig>(file, prefixed.dump());
}

std::shared_ptr<const Lora> read(const TensorSource& file, const WeightShapes& weights) {
  return read_lora(file, {"toy", "a toy", {{"toy", true, kOwn, &weights}}});
}

Tensor changed(const Lora& lora, const Tensor& weight, double strength) {
  Tensor result = weight.clone();
  for (const Lora::Change& change : lora.changes) {
    Tensor rows = result.narrow(0, change.placed.first_row, change.placed.rows);
    change.placed.patch->apply(rows, strength);
  }
  return result;
}

Tensor product_of(const LowRank& change) {
  return at::mm(change.up.to(at::kFloat), change.down.to(at::kFloat)) * change.scale;
}

class Kinds : public ::testing::TestWithParam<std::string> {};

TEST_P(Kinds, AreComputedAsTheirTrainerDoes) {
  const Tensor base = golden::tensor(*kinds(), "base/" + GetParam());
  const Tensor want = golden::tensor(*kinds(), "want/" + GetParam());
  const WeightShapes weights{{"m.weight", base.sizes().vec()}};
  const auto lora = read(*file_of(GetParam()), weights);
  ASSERT_EQ(lora->changes.size(), 1U);
  EXPECT_TRUE(lora->warnings.empty());
  EXPECT_GT(lora->bytes.count(), 0);
  for (const double strength : {1.0, -0.7, 0.0})
    EXPECT_TRUE(
        golden::close(changed(*lora, base, strength), base + strength * (want - base), 2e-6))
        << strength;
}

TEST_P(Kinds, ThatAreALowRankProductSaySo) {
  const Tensor base = golden::tensor(*kinds(), "base/" + GetParam());
  const WeightShapes weights{{"m.weight", base.sizes().vec()}};
  const auto lora = read(*file_of(GetParam()), weights);
  const auto product = lora->changes.at(0).placed.patch->low_rank();
  EXPECT_EQ(product.has_value(), GetParam() == "lora" || GetParam() == "lora_rs");
  if (product) {
    EXPECT_TRUE(golden::close(base + product_of(*product),
                              golden::tensor(*kinds(), "want/" + GetParam()), 2e-6));
  }
}

INSTANTIATE_TEST_SUITE_P(Lora, Kinds, ::testing::ValuesIn(names_of_kinds()),
                         [](const auto& test) { return test.param; });

/// A layout that keeps two of the model's matrices joined, one transposed and one with its halves
/// the other way round, and one that the model keeps joined of parts.
constexpr KeyRule kRules[] = {
    {"a.weight", {"joined.weight"}, {.part = 0, .of = 2}},
    {"b.weight", {"joined.weight"}, {.part = 1, .of = 2}},
    {"t.weight", {"turned"}, {.transposed = true}},
    {"h", {"halves"}, {.halves_exchanged = true}},
    {"m", {"first", "second", "rest"}},
};
constexpr KeyLayout kForeign[] = {{.name = "original", .signature = "a.weight"},
                                  {.name = "foreign", .signature = "turned", .rules = kRules}};

const WeightShapes kShapes{{"a.weight", {4, 6}}, {"b.weight", {4, 6}},  {"t.weight", {4, 6}},
                           {"h.weight", {4, 6}}, {"m.weight", {15, 6}}, {"m.bias", {15}}};

/// Up and down of rank 2 with numbers of their own.
void put(MemorySource& file, const std::string& module, int64_t rows, int64_t columns) {
  const auto numbers = [&](int64_t n, int64_t m) {
    return at::arange(n * m, at::kFloat)
        .view({n, m})
        .add(static_cast<double>(rows))
        .mul(0.01)
        .sin();
  };
  file.put(module + ".lora_up.weight", numbers(rows, 2));
  file.put(module + ".lora_down.weight", numbers(2, columns));
}

Tensor product(const MemorySource& file, const std::string& module) {
  return at::mm(golden::tensor(file, module + ".lora_up.weight"),
                golden::tensor(file, module + ".lora_down.weight"));
}

/// Numbers for a weight to begin with.
Tensor numbers_of(const Shape& shape) {
  return at::arange(c10::multiply_integers(shape), at::kFloat).cos().view(shape);
}

class Places : public ::testing::Test {
 protected:
  std::map<std::string, Tensor> applied(Tensor (*begin)(const Shape&) = [](const Shape& shape) {
    return at::zeros(shape);
  }) {
    const auto lora = read_lora(file, {"toy", "a toy", {{"toy", true, kForeign, &kShapes}}});
    EXPECT_TRUE(lora->warnings.empty());
    std::map<std::string, Tensor> result;
    for (const auto& change : lora->changes) {
      const Shape& shape = kShapes.at(change.weight);
      Tensor& weight = result.try_emplace(change.weight, begin(shape)).first->second;
      Tensor rows = weight.narrow(0, change.placed.first_row, change.placed.rows);
      change.placed.patch->apply(rows, 1);
      check_low_rank(change.placed);
    }
    return result;
  }
  static void check_low_rank(const PlacedPatch& placed) {
    const auto factors = placed.patch->low_rank();
    if (!factors) return;
    Tensor alone = at::zeros({placed.rows, factors->down.size(1)});
    placed.patch->apply(alone, 1);
    EXPECT_TRUE(golden::close(product_of(*factors), alone, 1e-6));
  }
  MemorySource file{"places.safetensors"};
};

TEST_F(Places, AMatrixTheModelKeepsApartIsTakenApart) {
  put(file, "lora_unet_joined", 8, 6);
  const auto weights = applied();
  const Tensor whole = product(file, "lora_unet_joined");
  EXPECT_TRUE(at::allclose(weights.at("a.weight"), whole.narrow(0, 0, 4)));
  EXPECT_TRUE(at::allclose(weights.at("b.weight"), whole.narrow(0, 4, 4)));
}

TEST_F(Places, AChangeThatCannotBeTakenApartIsRefused) {
  file.put("joined.oft_blocks", at::full({2, 4, 4}, 0.1));
  file.put("turned.oft_blocks", at::full({2, 3, 3}, 0.1));
  EXPECT_THROW(applied(), Error);
}

TEST_F(Places, ATransposedMatrixIsChangedInItsTranspose) {
  put(file, "turned", 6, 4);
  EXPECT_TRUE(at::allclose(applied().at("t.weight"), product(file, "turned").t()));
}

TEST_F(Places, HalvesInTheOtherOrderAreExchanged) {
  put(file, "unet.halves", 4, 6);
  EXPECT_TRUE(at::allclose(applied().at("h.weight"), product(file, "unet.halves").roll(2, 0)));
}

TEST_F(Places, PartsOfAJoinedMatrixFindTheirRows) {
  put(file, "lora_unet_second", 6, 6);
  put(file, "lora_unet_rest", 3, 6);
  file.put("lora_unet_second.diff_b", at::arange(6, at::kFloat));
  file.put("lora_unet_rest.diff_b", at::ones({3}));
  const auto weights = applied();
  Tensor want = at::zeros({15, 6});
  want.narrow(0, 6, 6).copy_(product(file, "lora_unet_second"));
  want.narrow(0, 12, 3).copy_(product(file, "lora_unet_rest"));
  EXPECT_TRUE(at::allclose(weights.at("m.weight"), want));
  EXPECT_TRUE(at::equal(weights.at("m.bias").narrow(0, 6, 6), at::arange(6, at::kFloat)));
  EXPECT_EQ(weights.at("m.bias").sum().item<double>(), 15 + 3);
}

TEST_F(Places, PartsOfAJoinedMatrixMustHaveTheirOwnSize) {
  put(file, "a", 4, 6);
  for (const char* module : {"first", "second", "rest"}) {
    MemorySource wrong = file;
    put(wrong, module, 4, 6);
    const auto lora = read_lora(wrong, {"toy", "a toy", {{"toy", true, kForeign, &kShapes}}});
    EXPECT_EQ(lora->changes.size(), 1U) << module;
    ASSERT_EQ(lora->warnings.size(), 1U) << module;
    EXPECT_NE(lora->warnings[0].message.find("weights of another size"), std::string::npos);
  }
  for (const char* module : {"first", "second"}) {
    MemorySource wrong = file;
    wrong.put(std::string(module) + ".diff_b", at::ones({5}));
    const auto lora = read_lora(wrong, {"toy", "a toy", {{"toy", true, kForeign, &kShapes}}});
    EXPECT_EQ(lora->changes.size(), 1U) << module;
  }
}

/// What PEFT's OFT multiplies a matrix of `columns` with, of blocks of two with one number `v` in
/// each, by its series of five terms.
Tensor turn_of_pairs(double v, int64_t columns) {
  const double c = 1 - 2 * v * v + v * v * v * v, s = 2 * v - 2 * v * v * v;
  const Tensor pair = at::tensor({c, -s, s, c}, at::kFloat).view({2, 2});
  return at::block_diag(std::vector<Tensor>(static_cast<size_t>(columns / 2), pair));
}

TEST_F(Places, ATurnedInputIsPlacedByTheWeightsOwnRows) {
  for (const char* module : {"joined", "turned", "halves", "second", "rest"})
    file.put(std::string(module) + ".oft_R.weight", at::full({1, 1}, 0.25));
  const auto weights = applied(numbers_of);
  const Tensor six = turn_of_pairs(0.25, 6), four = turn_of_pairs(0.25, 4);
  for (const char* name : {"a.weight", "b.weight", "h.weight"})
    EXPECT_TRUE(golden::close(weights.at(name), at::mm(numbers_of({4, 6}), six), 1e-6)) << name;
  EXPECT_TRUE(golden::close(weights.at("t.weight"), at::mm(four.t(), numbers_of({4, 6})), 1e-6));
  Tensor want = numbers_of({15, 6});
  want.narrow(0, 6, 9).copy_(at::mm(want.narrow(0, 6, 9), six));
  EXPECT_TRUE(golden::close(weights.at("m.weight"), want, 1e-6));
}

TEST_F(Places, ATurnedInputCanHaveMagnitudes) {
  file.put("a.oft_R.weight", at::full({3, 1}, 0.25));
  file.put("a.dora_scale", at::arange(1, 5, at::kFloat).view({4, 1}));
  const Tensor norms = applied(numbers_of).at("a.weight").norm(2, {1});
  EXPECT_TRUE(golden::close(norms, at::arange(1, 5, at::kFloat), 1e-6));
}

TEST_F(Places, EveryKindOfChangeToOneModuleIsMade) {
  put(file, "a", 4, 6);
  file.put("a.diff", at::full({4, 6}, 0.5));
  put(file, "b", 4, 6);
  file.put("b.set_weight", at::full({4, 6}, 2.0));
  put(file, "m", 15, 6);
  file.put("m.lora_up.bias", at::ones({15}));
  file.put("m.diff_b", at::full({15}, 0.5));
  const auto weights = applied(numbers_of);
  EXPECT_TRUE(
      golden::close(weights.at("a.weight"), numbers_of({4, 6}) + product(file, "a") + 0.5, 1e-6));
  EXPECT_TRUE(golden::close(weights.at("b.weight"), product(file, "b") + 2, 1e-6));
  EXPECT_TRUE(golden::close(weights.at("m.bias"), numbers_of({15}) + 1.5, 1e-6));
  const auto lora = read_lora(file, {"toy", "a toy", {{"toy", true, kForeign, &kShapes}}});
  EXPECT_EQ(lora->kinds, (std::map<std::string, int64_t>{
                             {"LoRA", 3}, {"full difference", 1}, {"whole weight", 1}}));
}

TEST_F(Places, ChangesToOneModuleThatContradictOneAnotherAreRefused) {
  put(file, "a", 4, 6);
  file.put("a.diff", at::ones({4, 8}));
  EXPECT_THROW(applied(), Error);
}

TEST_F(Places, RowsOfAWholeWeightKeepTheOthers) {
  file.put("joined.set_weight", at::ones({8, 6}));
  const auto weights = applied();
  EXPECT_TRUE(at::equal(weights.at("a.weight"), at::ones({4, 6})));
  EXPECT_TRUE(at::equal(weights.at("b.weight"), at::ones({4, 6})));
}

}  // namespace
}  // namespace atelier
