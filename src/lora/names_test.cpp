// Names of layouts, files that are wrong, and strengths of blocks. Longer than most: every spelling
// in one place.
#include <ATen/ATen.h>
#include <fmt/format.h>
#include <gtest/gtest.h>

#include "base/error.h"
#include "lora/blocks.h"
#include "lora/lora.h"
#include "lora/with_config.h"
#include "models/golden_files.h"
#include "models/model.h"

namespace atelier {
namespace {

/// Shapes of a golden denoiser's weights by the model's names.
WeightShapes shapes_of(const TensorSource& source) {
  WeightShapes weights;
  for (const auto& [name, info] : source.tensors()) weights[name] = info.shape;
  return weights;
}

class LayoutNames : public ::testing::TestWithParam<const char*> {};

TEST_P(LayoutNames, AreTheReferencesNames) {
  const auto source = golden::source(GetParam(), "model");
  const ModelDef* def = detect_model(source).def;
  std::set<std::string, std::less<>> own;
  for (const auto& [name, info] : source->tensors()) own.insert(name);
  const auto layout = std::ranges::find(def->denoiser.layouts, "diffusers", &KeyLayout::name);
  const KeyNames names = layout_names(*layout, own);
  std::set<std::string> foreign, wanted;
  for (const auto& [name, meaning] : names) foreign.insert(name);
  for (const golden::Name& row : golden::names(GetParam())) {
    wanted.insert(row.to);
    const auto found = names.find(row.to);
    ASSERT_NE(found, names.end()) << row.to;
    EXPECT_EQ(found->second.canonical, row.from);
  }
  EXPECT_EQ(foreign, wanted);
}

INSTANTIATE_TEST_SUITE_P(Goldens, LayoutNames,
                         ::testing::Values("unet_sd1", "unet_sd2", "unet_sdxl", "unet_refiner",
                                           "unet_inpaint", "flux_dev", "flux_schnell", "flux_fill"),
                         [](const auto& test) { return std::string(test.param); });

class Files : public ::testing::Test {
 protected:
  std::shared_ptr<const Lora> read() const {
    return read_lora(
        file,
        {def->name, def->title, {{def->denoiser.name, true, def->denoiser.layouts, &weights}}});
  }
  std::string failure(ErrorCode code) const {
    try {
      read();
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), code);
      EXPECT_EQ(std::string(error.what()).find('\n'), std::string::npos);
      return error.what();
    }
    ADD_FAILURE() << "nothing thrown";
    return {};
  }
  void put(const std::string& module, int64_t rows, int64_t rank, int64_t columns) {
    file.put(module + ".lora_up.weight", at::ones({rows, rank}));
    file.put(module + ".lora_down.weight", at::ones({rank, columns}));
  }

  std::shared_ptr<const TensorSource> source = golden::source("unet_sd1", "model");
  const ModelDef* def = detect_model(source).def;
  WeightShapes weights = shapes_of(*source);
  MemorySource file{"some.safetensors"};
  const std::string q = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_q";
  const std::string k = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_k";
};

void expect_words(const std::string& text, std::initializer_list<std::string_view> words) {
  for (const std::string_view word : words)
    EXPECT_NE(text.find(word), std::string::npos) << word << " in: " << text;
}

TEST_F(Files, NamesThatMeanNothingAreToldOnceWithTheNearest) {
  put(q, 32, 2, 32);
  put(k, 32, 2, 32);
  put("lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_w", 32, 2, 32);
  put("lora_te3_encoder_block_0_layer_0_SelfAttention_q", 32, 2, 32);
  file.put("loss", at::ones({1}));
  const auto lora = read();
  EXPECT_EQ(lora->changes.size(), 2U);
  EXPECT_EQ(lora->kinds.at("LoRA"), 2);
  ASSERT_EQ(lora->warnings.size(), 1U);
  expect_words(lora->warnings[0].message,
               {"some.safetensors", "3 names mean nothing", "attn1_to_w (did you mean lora_unet_",
                "lora_te3_", "loss"});
  EXPECT_TRUE(lora->warnings[0].items.empty());
}

TEST_F(Files, AWarningThatNamesTheFirstFewHasAllOfThem) {
  put(q, 32, 2, 32);
  put(k, 32, 2, 32);
  for (char letter = 'a'; letter <= 'i'; ++letter)
    file.put(fmt::format("{}_{}", q, letter), at::ones({1}));
  const auto lora = read();
  ASSERT_EQ(lora->warnings.size(), 1U);
  expect_words(lora->warnings[0].message, {"9 names mean nothing", "to_q_e (did", "and 4 more"});
  EXPECT_EQ(lora->warnings[0].message.find("to_q_f"), std::string::npos);
  ASSERT_EQ(lora->warnings[0].items.size(), 9U);
  for (const std::string& item : lora->warnings[0].items)
    expect_words(item, {"attn1_to_q_", fmt::format("(did you mean {}?)", q)});
}

TEST_F(Files, NearestNamesAreThoseOfThePartsThePrefixMeans) {
  const WeightShapes l{{"text_model.encoder.layers.0.self_attn.q_proj.weight", {8, 8}}};
  const WeightShapes g{{"text_model.encoder.layers.9.self_attn.q_proj.weight", {8, 8}}};
  const LoraModel model{"toy",
                        "a toy",
                        {{def->denoiser.name, true, def->denoiser.layouts, &weights},
                         {"clip_l", false, {}, &l},
                         {"clip_g", false, {}, &g}}};
  constexpr KeyLayout kPlain[] = {{.name = "plain", .signature = ""}};
  LoraModel named = model;
  named.parts[1].layouts = named.parts[2].layouts = kPlain;
  put(q, 32, 2, 32);
  put("lora_te1_text_model_encoder_layers_9_self_attn_q_proj", 8, 2, 8);
  put("lora_te3_encoder_block_0_layer_0_SelfAttention_q", 8, 2, 8);
  const auto lora = read_lora(file, named);
  ASSERT_EQ(lora->warnings.size(), 1U);
  expect_words(lora->warnings[0].message,
               {"layers_9_self_attn_q_proj (did you mean "
                "lora_te1_text_model_encoder_layers_0_self_attn_q_proj?)",
                "SelfAttention_q (the model has no such text encoder)"});
}

TEST_F(Files, TensorsOfUnknownKindsOfKnownModulesAreToldAsThat) {
  put(q, 32, 2, 32);
  file.put(q + ".scalar", at::ones({1}));
  file.put(q + ".lora_down.bias", at::ones({2}));
  file.put("unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_q.reshape_weight",
           at::ones({2}));
  file.put(k + ".diff_b", at::ones({32}));
  const auto lora = read();
  EXPECT_EQ(lora->changes.size(), 1U);
  ASSERT_EQ(lora->warnings.size(), 1U);
  const std::string kind = " (an unknown kind of tensor of a known module)";
  expect_words(lora->warnings[0].message,
               {"4 names", "to_q.scalar" + kind, "to_q.lora_down.bias" + kind,
                "to_q.reshape_weight" + kind, "to_k.diff_b (the module has no bias)"});
  EXPECT_EQ(lora->warnings[0].message.find("did you mean"), std::string::npos);
}

TEST_F(Files, AlphasWithoutTheirTensorsAreTold) {
  put(q, 32, 2, 32);
  file.put(k + ".alpha", at::ones({}));
  file.put("nowhere.alpha", at::ones({}));
  const auto lora = read();
  ASSERT_EQ(lora->warnings.size(), 1U);
  expect_words(lora->warnings[0].message,
               {"2 names", k + ".alpha (an alpha without the tensors", "nowhere.alpha (an alpha"});
}

TEST_F(Files, AlphasAreNamedAsTheirTensors) {
  const std::string block = "unet.mid_block.attentions.0.transformer_blocks.0.attn1.";
  for (const std::string kind : {"lora", "lora_linear_layer"}) {
    MemorySource own("own.safetensors");
    own.put(block + "to_q." + kind + ".up.weight", at::ones({32, 2}));
    own.put(block + "to_q." + kind + ".down.weight", at::ones({2, 32}));
    own.put(block + "to_q." + kind + ".alpha", at::full({}, 6.0F));
    file = own;
    const auto lora = read();
    EXPECT_TRUE(lora->warnings.empty()) << kind;
    EXPECT_EQ(lora->changes.at(0).placed.patch->low_rank()->scale, 3) << kind;
  }
}

TEST_F(Files, AnAdaptersNameIsLeftOut) {
  const std::string block = "base_model.model.mid_block.attentions.0.transformer_blocks.0.attn1.";
  const auto adapter = [&](const std::string& module, const std::string& name) {
    file.put(block + module + ".lora_A." + name + ".weight", at::ones({2, 32}));
    file.put(block + module + ".lora_B." + name + ".weight", at::ones({32, 2}));
  };
  adapter("to_q", "default_0");
  adapter("to_k", "default_0");
  file.put(block + "to_q.lora_magnitude_vector.default_0.weight", at::ones({32}));
  file.put(block + "to_v.hada_w1_a.default_0", at::ones({32, 2}));
  file.put(block + "to_v.hada_w1_b.default_0", at::ones({2, 32}));
  file.put(block + "to_v.hada_w2_a.default_0", at::ones({32, 2}));
  file.put(block + "to_v.hada_w2_b.default_0", at::ones({2, 32}));
  const auto lora = read();
  EXPECT_TRUE(lora->warnings.empty());
  EXPECT_EQ(lora->kinds, (std::map<std::string, int64_t>{{"DoRA", 1}, {"LoHa", 1}, {"LoRA", 1}}));
  adapter("to_k", "my-style");
  expect_words(failure(ErrorCode::unsupported),
               {"some.safetensors", "one LoRA in a file", "default_0, my-style"});
}

TEST_F(Files, ChangesOfOtherSizesAreLeftOutAndTold) {
  put(q, 32, 2, 32);
  put(k, 64, 2, 32);
  const auto lora = read();
  EXPECT_EQ(lora->changes.size(), 1U);
  ASSERT_EQ(lora->warnings.size(), 1U);
  expect_words(lora->warnings[0].message, {"1 change was", "[64, 32] for [32, 32]", "to_k"});
}

TEST_F(Files, ALoraForAnotherArchitectureIsRefused) {
  put("lora_unet_double_blocks_0_img_attn_qkv", 96, 2, 32);
  put("lora_unet_single_blocks_0_linear1", 96, 2, 32);
  put(q, 32, 2, 32);
  expect_words(failure(ErrorCode::mismatch), {"some.safetensors", "a LoRA for Stable Diffusion 1.x",
                                              "one for FLUX.1", "1 of its 3 modules fit"});
}

TEST_F(Files, ALoraForWiderPromptsIsRefusedByItsShapes) {
  std::string cross = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn2_to_k";
  put(cross, 640, 2, 2048);
  expect_words(
      failure(ErrorCode::mismatch),
      {"one for Stable Diffusion XL", "0 of its 1 modules fit", "[640, 2048] for [32, 16]"});
}

TEST_F(Files, WhatIsNoLoraIsRefused) {
  file.put("model.diffusion_model.input_blocks.0.0.weight", at::ones({4, 4}));
  expect_words(failure(ErrorCode::mismatch),
               {"a LoRA (names such as", "1 tensors, the first named"});
}

TEST_F(Files, HalvesOfDifferentRanksAreMalformed) {
  file.put(q + ".lora_up.weight", at::ones({32, 3}));
  file.put(q + ".lora_down.weight", at::ones({2, 32}));
  expect_words(failure(ErrorCode::malformed),
               {"some.safetensors", "attn1_to_q.lora_up.weight", "the rank, 2", "[32, 3]"});
}

TEST_F(Files, AMissingHalfIsMalformed) {
  file.put(q + ".lora_up.weight", at::ones({32, 3}));
  expect_words(failure(ErrorCode::malformed), {"attn1_to_q.lora_down.weight", "is missing"});
}

TEST_F(Files, NumbersThatAreNotFiniteAreMalformed) {
  put(q, 32, 2, 32);
  file.put(q + ".lora_up.weight", at::full({32, 2}, std::numeric_limits<float>::quiet_NaN()));
  expect_words(failure(ErrorCode::malformed), {"attn1_to_q.lora_up.weight", "not finite"});
  file.put(q + ".lora_up.weight", at::ones({32, 2}));
  file.put(q + ".alpha", at::full({}, std::numeric_limits<float>::infinity()));
  expect_words(failure(ErrorCode::malformed), {"attn1_to_q.alpha", "not finite"});
}

TEST_F(Files, HugeRanksAndEmptyTensorsAreRefused) {
  put(q, 32, 40000, 32);
  expect_words(failure(ErrorCode::unsupported), {"a rank up to", "40000"});
  file.put(q + ".lora_up.weight", at::ones({32, 0}));
  file.put(q + ".lora_down.weight", at::ones({0, 32}));
  expect_words(failure(ErrorCode::malformed), {"has no numbers"});
}

TEST_F(Files, ACoreTooLargeToMultiplyOutIsRefused) {
  file.put(q + ".lora_up.weight", at::ones({1, 20000}));
  file.put(q + ".lora_mid.weight", at::ones({20000, 1, 3, 3}));
  file.put(q + ".lora_down.weight", at::ones({1, 20000}));
  expect_words(failure(ErrorCode::malformed), {"lora_mid.weight", "a smaller core"});
}

TEST_F(Files, FactorsOfHostileShapesAreRefusedBeforeAnythingIsComputed) {
  file.put(q + ".lokr_w1", at::ones({30000, 1}));
  file.put(q + ".lokr_w2", at::ones({1, 30000}));
  expect_words(failure(ErrorCode::mismatch), {"[30000, 30000] for [32, 32]"});
  MemorySource scalars("scalars");
  scalars.put(q + ".lora_up.weight", at::ones({}));
  scalars.put(q + ".lora_down.weight", at::ones({}));
  const LoraModel model{
      def->name, def->title, {{def->denoiser.name, true, def->denoiser.layouts, &weights}}};
  EXPECT_THROW(read_lora(scalars, model), Error);
}

TEST_F(Files, TrianglesOfNoSquareAreMalformed) {
  for (const Shape& shape : {Shape{8, 4}, Shape{4}, Shape{1, 4097 * 2048}}) {
    file.put(q + ".oft_R.weight", at::zeros(shape));
    expect_words(failure(ErrorCode::malformed),
                 {"attn1_to_q.oft_R.weight", "[blocks, b (b - 1) / 2]"});
  }
  file.put(q + ".oft_R.weight", at::zeros({5, 6}));
  expect_words(failure(ErrorCode::mismatch), {"[any, 20] for [32, 32]"});
}

TEST_F(Files, AlphaIsDividedByTheRank) {
  put(q, 32, 2, 32);
  const auto plain = read()->changes.at(0).placed.patch->low_rank();
  file.put(q + ".alpha", at::full({}, 6.0F));
  const auto scaled = read()->changes.at(0).placed.patch->low_rank();
  EXPECT_TRUE(at::equal(plain->up, scaled->up));
  EXPECT_EQ(plain->scale * 3, scaled->scale);
}

TEST_F(Files, PeftsConfigSaysAlphaForAllAndForSome) {
  const std::string block = "unet.mid_block.attentions.0.transformer_blocks.0.attn1.";
  put(block + "to_q", 32, 4, 32);
  put(block + "to_k", 32, 4, 32);
  const WithConfig configured(std::make_shared<MemorySource>(file),
                              R"({"unet.r": 4, "unet.lora_alpha": 8, "unet.use_rslora": true,
                                        "unet.alpha_pattern": {"attn1.to_k": 2}})");
  const auto lora = read_lora(
      configured,
      {def->name, def->title, {{def->denoiser.name, true, def->denoiser.layouts, &weights}}});
  std::map<std::string, double> scales;
  for (const auto& change : lora->changes)
    scales[change.weight.substr(change.weight.find("to_"))] =
        change.placed.patch->low_rank()->scale;
  EXPECT_EQ(scales, (std::map<std::string, double>{{"to_q.weight", 4}, {"to_k.weight", 1}}));
}

TEST_F(Files, PeftsConfigOfLohaAndLokrCallsItAlpha) {
  const std::string block = "unet.mid_block.attentions.0.transformer_blocks.0.attn1.";
  for (const char* leaf : {"hada_w1_a", "hada_w2_a"})
    file.put(block + "to_q." + leaf, at::ones({32, 2}));
  for (const char* leaf : {"hada_w1_b", "hada_w2_b"})
    file.put(block + "to_q." + leaf, at::ones({2, 32}));
  file.put(block + "to_k.lokr_w1", at::ones({4, 4}));
  file.put(block + "to_k.lokr_w2", at::ones({8, 8}));
  const WithConfig configured(std::make_shared<MemorySource>(file),
                              R"({"unet.r": 4, "unet.alpha": 6})");
  const auto lora = read_lora(
      configured,
      {def->name, def->title, {{def->denoiser.name, true, def->denoiser.layouts, &weights}}});
  std::map<std::string, double> numbers;
  for (const auto& change : lora->changes) {
    at::Tensor weight = at::zeros({32, 32});
    change.placed.patch->apply(weight, 1);
    numbers[change.weight.substr(change.weight.find("to_"))] = weight.max().item<double>();
  }
  EXPECT_EQ(numbers,
            (std::map<std::string, double>{{"to_q.weight", 2 * 2 * 6 / 2}, {"to_k.weight", 1.5}}));
}

TEST_F(Files, AConfigThatIsNoJsonIsAWarning) {
  put(q, 32, 2, 32);
  for (const char* config : {"{\"unet.r\": 4,", "4", ""}) {
    const WithConfig configured(std::make_shared<MemorySource>(file), config);
    const auto lora = read_lora(
        configured,
        {def->name, def->title, {{def->denoiser.name, true, def->denoiser.layouts, &weights}}});
    EXPECT_EQ(lora->changes.size(), 1U);
    ASSERT_EQ(lora->warnings.size(), 1U) << config;
    expect_words(lora->warnings[0].message, {"some.safetensors", "lora_adapter_metadata"});
  }
}

// ---- strengths of blocks

TEST(Blocks, AreNamedAfterTheirPlace) {
  EXPECT_EQ(block_of("input_blocks.4.1.proj_in.weight"), "IN04");
  EXPECT_EQ(block_of("middle_block.1.proj_in.weight"), "M00");
  EXPECT_EQ(block_of("output_blocks.11.0.in_layers.2.weight"), "OUT11");
  EXPECT_EQ(block_of("double_blocks.18.img_attn.qkv.weight"), "D18");
  EXPECT_EQ(block_of("single_blocks.37.linear1.weight"), "S37");
  EXPECT_EQ(block_of("time_embed.0.weight"), "BASE");
}

/// Twelve blocks each way, as Stable Diffusion 1.x has them.
WeightShapes sd1_shapes() {
  WeightShapes weights{{"time_embed.0.weight", {4, 4}},
                       {"middle_block.0.out_layers.3.weight", {4}}};
  for (int i = 0; i < 12; ++i)
    for (const char* way : {"input_blocks.", "output_blocks."})
      weights[way + std::to_string(i) + ".0.in_layers.2.weight"] = {4, 4};
  return weights;
}

double strength(const BlockStrengths& strengths, const std::string& weight) {
  return strengths.of(weight + ".0.in_layers.2.weight");
}

TEST(Blocks, CanBeNamedSinglyInRunsAndByLetters) {
  const BlockStrengths some("in=0,OUT03-OUT05=0.5,M00=-1,BASE=2", "sd1", sd1_shapes());
  EXPECT_EQ(strength(some, "input_blocks.0"), 0);
  EXPECT_EQ(strength(some, "input_blocks.11"), 0);
  EXPECT_EQ(strength(some, "output_blocks.2"), 1);
  EXPECT_EQ(strength(some, "output_blocks.4"), 0.5);
  EXPECT_EQ(some.of("middle_block.0.out_layers.3.weight"), -1);
  EXPECT_EQ(some.base(), 2);
  EXPECT_EQ(BlockStrengths().of("input_blocks.0.0.weight"), 1);
}

TEST(Blocks, CanBeListedInFullOrWithoutThoseThatLackAttention) {
  std::string all = "1";
  for (int i = 0; i < 25; ++i) all += "," + std::to_string(i);
  const BlockStrengths full(all, "sd1", sd1_shapes());
  EXPECT_EQ(strength(full, "input_blocks.3"), 3);
  EXPECT_EQ(strength(full, "output_blocks.11"), 24);
  const BlockStrengths short_list("1,.1,.2,.4,.5,.7,.8,0,3,4,5,6,7,8,9,10,11", "sd1", sd1_shapes());
  EXPECT_EQ(strength(short_list, "input_blocks.4"), 0.4);
  EXPECT_EQ(strength(short_list, "input_blocks.3"), 1);
  EXPECT_EQ(strength(short_list, "output_blocks.10"), 10);
}

TEST(Blocks, WrongListsAreErrors) {
  for (const char* text :
       {"1,2,3", "IN12=1", "IN00=x", "IN00", "OUT05-OUT03=1", "IN00=nan", ",", "IN00=1e9", "=1"})
    EXPECT_THROW(BlockStrengths(text, "sd1", sd1_shapes()), Error) << text;
}

}  // namespace
}  // namespace atelier
