// Prompt weights, long prompts, two encoders, vectors of sizes and embeddings, on a made-up
// encoder.
#include "pipeline/conditioning.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "base/error.h"
#include "formats/safetensors.h"

namespace atelier {
namespace {

/// One token per letter: a is 1, b is 2.
struct Letters final : Tokenizer {
  std::vector<int32_t> encode(std::string_view text) const override {
    std::vector<int32_t> ids;
    for (const char letter : text)
      if (letter >= 'a' && letter <= 'z') ids.push_back(letter - 'a' + 1);
    return ids;
  }
};

/// Says of each token its id (or its vector's values) plus the number of tokens before the end, so
/// that the text matters everywhere; pooled is the sum of the chunk's ids.
struct Echo final : TextEncoder {
  explicit Echo(int64_t channels) : channels_(channels) {}
  TextEncoding encode(std::span<const TokenChunk> chunks,
                      const TextOptions& options) const override {
    asked = options;
    std::vector<at::Tensor> hidden, pooled;
    for (const TokenChunk& chunk : chunks) {
      at::Tensor ids = at::tensor(chunk.ids, at::kFloat).view({1, -1, 1});
      at::Tensor state = ids.repeat({1, 1, channels_});
      for (const TokenVector& v : chunk.vectors) state[0][v.position].copy_(v.values);
      hidden.push_back(state + 0.01 * ids.remainder(100).sum());
      pooled.push_back(ids.sum().expand({1, channels_}));
    }
    return {at::cat(hidden), at::cat(pooled)};
  }
  int64_t width() const override { return channels_; }
  int64_t positions() const override { return 77; }
  mutable TextOptions asked;

 private:
  int64_t channels_;
};

struct Conditions : ::testing::Test {
  Letters letters;
  Echo l{3}, g{5};
  PartDef<TextEncoder> l_def{"clip_l", {}, {}, nullptr, nullptr};
  PartDef<TextEncoder> g_def{"clip_g", {}, {}, nullptr, nullptr};
  std::array<TextPart, 2> parts{{{&l_def, {}}, {&g_def, {}}}};

  ModelDef sd1() const {
    ModelDef def;
    def.text = std::span(parts).first(1);
    return def;
  }
  ModelDef sdxl() const {
    ModelDef def;
    def.text = parts;
    def.vector = VectorKind::sdxl;
    def.clip_skip = -2;
    def.clip_final_norm = false;
    return def;
  }
  EncodedPrompt encode(std::string_view prompt, PromptReader reader) const {
    const PromptEncoder encoders[] = {{l, letters}};
    return encode_prompt(sd1(), encoders, prompt, reader);
  }
  EncodedPrompt encode(std::string_view prompt) const { return encode(prompt, {}); }
};

TEST_F(Conditions, AnUnweightedPromptIsWhatTheEncoderSays) {
  const at::Tensor context = encode("abc").context;
  EXPECT_EQ(context.sizes(), at::IntArrayRef({1, 77, 3}));
  const std::vector<int64_t> ids{49406, 1, 2, 3, 49407};
  for (size_t i = 0; i + 1 < ids.size(); ++i)
    EXPECT_FLOAT_EQ((context[0][static_cast<int64_t>(i) + 1][0] - context[0][0][0]).item<float>(),
                    static_cast<float>(ids[i + 1] - ids[0]));
}

TEST_F(Conditions, AWeightMovesATokenFromWhatTheEmptyPromptSaysThere) {
  const at::Tensor plain = encode("ab c").context, empty = encode("").context;
  const at::Tensor weighted = encode("(ab:1.5) c").context;
  for (int64_t t = 0; t < 77; ++t) {
    const bool heavy = t == 1 || t == 2;
    const at::Tensor want = empty[0][t] + 1.5 * (plain[0][t] - empty[0][t]);
    EXPECT_TRUE(heavy ? at::allclose(weighted[0][t], want) : at::equal(weighted[0][t], plain[0][t]))
        << t;
  }
}

/// As T5: no pooled state, chunks of any length.
struct Unpooled final : TextEncoder {
  TextEncoding encode(std::span<const TokenChunk> chunks,
                      const TextOptions& options) const override {
    return {echo.encode(chunks, options).hidden, {}};
  }
  int64_t width() const override { return echo.width(); }
  int64_t positions() const override { return 4096; }
  Echo echo{3};
};

TEST_F(Conditions, AnEncoderWithoutPooledStateWeighsPromptsOfAnyLength) {
  const Unpooled t5;
  const PartDef<TextEncoder> t5_def{"t5xxl", {}, {}, nullptr, nullptr};
  const TextPart part{&t5_def, {}};
  ModelDef def;
  def.text = {&part, 1};
  const PromptEncoder encoders[] = {{t5, letters}};
  const auto said = [&](const std::string& prompt) {
    const EncodedPrompt encoded = encode_prompt(def, encoders, prompt);
    EXPECT_FALSE(encoded.pooled.defined());
    return encoded.context;
  };
  EXPECT_EQ(said("abc").size(1), 256);
  const std::string many(300, 'b');
  const at::Tensor plain = said("a" + many), weighted = said("(a:2)" + many);
  ASSERT_EQ(weighted.sizes(), at::IntArrayRef({1, 302, 3}));
  // of 302 tokens that say nothing the first is the end, 1, and 0.01 of the sum, 1, is added
  EXPECT_TRUE(at::allclose(weighted[0][0], 1.01 + 2 * (plain[0][0] - 1.01)));
  EXPECT_TRUE(at::equal(weighted.narrow(1, 1, 301), plain.narrow(1, 1, 301)));
}

TEST_F(Conditions, PooledIsOfTheFirstChunkAndUnweighted) {
  const EncodedPrompt one = encode(std::string(75, 'b'));
  const EncodedPrompt two = encode(std::string(75, 'b') + std::string(20, 'c'));
  EXPECT_EQ(one.context.size(1), 77);
  EXPECT_EQ(two.context.size(1), 2 * 77);
  EXPECT_TRUE(at::equal(one.pooled, two.pooled));
  EXPECT_TRUE(at::equal(encode("(ab:2)").pooled, encode("ab").pooled));
}

TEST_F(Conditions, TheFamilyAndTheUserChooseTheLayer) {
  encode("a");
  EXPECT_EQ(l.asked.layer, -1);
  EXPECT_TRUE(l.asked.final_norm);
  EXPECT_FALSE(l.asked.project);
  encode("a", {.layer = -3});
  EXPECT_EQ(l.asked.layer, -3);
  const PromptEncoder encoders[] = {{l, letters}, {g, letters}};
  encode_prompt(sdxl(), encoders, "a");
  EXPECT_EQ(g.asked.layer, -2);
  EXPECT_FALSE(g.asked.final_norm);
  EXPECT_TRUE(g.asked.project);
}

TEST_F(Conditions, TwoEncodersStandSideBySide) {
  const PromptEncoder encoders[] = {{l, letters}, {g, letters}};
  const EncodedPrompt both = encode_prompt(sdxl(), encoders, "abc");
  EXPECT_EQ(both.context.sizes(), at::IntArrayRef({1, 77, 8}));
  EXPECT_TRUE(at::equal(both.context.narrow(2, 0, 3), encode("abc").context));
  EXPECT_EQ(both.pooled.size(1), 5);
  // The second encoder pads with 0, the first with the end token.
  EXPECT_GT(both.context[0][76][0].item<float>(), 40000);
  EXPECT_LT(both.context[0][76][3].item<float>(), 40000);
}

TEST_F(Conditions, TheVectorIsPooledStateAndSinusoidsOfTheSizes) {
  const EncodedPrompt prompt{
      .context = at::zeros({1, 77, 8}), .pooled = at::ones({1, 5}), .warnings = {}};
  const PictureMeasures m{.width = 832,
                          .height = 1216,
                          .crop_x = 4,
                          .crop_y = 2,
                          .target_width = 640,
                          .target_height = 960};
  const at::Tensor vector = condition(sdxl(), prompt, m).vector;
  ASSERT_EQ(vector.sizes(), at::IntArrayRef({1, 5 + 6 * 256}));
  EXPECT_TRUE(at::equal(vector.narrow(1, 0, 5), at::ones({1, 5})));
  const double order[] = {1216, 832, 2, 4, 960, 640};
  for (int64_t i = 0; i < 6; ++i) {
    const at::Tensor part = vector[0].narrow(0, 5 + 256 * i, 256);
    EXPECT_NEAR(part[0].item<double>(), std::cos(order[i]), 1e-4) << i;
    EXPECT_NEAR(part[128].item<double>(), std::sin(order[i]), 1e-4) << i;
    EXPECT_NEAR(part[127].item<double>(), std::cos(order[i] * std::pow(10000, -127.0 / 128)), 1e-4);
  }
}

TEST_F(Conditions, TheRefinerIsToldAScoreInsteadOfATarget) {
  const EncodedPrompt prompt{
      .context = at::zeros({1, 77, 8}), .pooled = at::ones({1, 5}), .warnings = {}};
  ModelDef refiner = sdxl();
  refiner.vector = VectorKind::sdxl_refiner;
  const at::Tensor vector = condition(refiner, prompt, {.score = 2.5}).vector;
  ASSERT_EQ(vector.size(1), 5 + 5 * 256);
  EXPECT_NEAR(vector[0][5 + 4 * 256].item<double>(), std::cos(2.5), 1e-5);
  EXPECT_FALSE(condition(sd1(), prompt, {}).vector.defined());
}

TEST_F(Conditions, SomeModelsAreToldThePooledStateAlone) {
  const EncodedPrompt prompt{
      .context = at::zeros({1, 77, 8}), .pooled = at::ones({1, 5}), .warnings = {}};
  ModelDef def = sd1();
  def.vector = VectorKind::pooled;
  EXPECT_TRUE(at::equal(condition(def, prompt, {}).vector, prompt.pooled));
}

/// A folder of embedding files that goes away with the test.
struct Embeddings : Conditions {
  std::filesystem::path folder =
      std::filesystem::temp_directory_path() /
      ("atelier_" + std::string(::testing::UnitTest::GetInstance()->current_test_info()->name()) +
       "_" + std::to_string(::getpid()));
  Embeddings() { std::filesystem::create_directories(folder); }
  ~Embeddings() override { std::filesystem::remove_all(folder); }

  void write(const std::string& file, const std::vector<std::pair<std::string, at::Tensor>>& all) {
    std::vector<TensorSpec> specs;
    for (const auto& [name, tensor] : all)
      specs.push_back({.name = name, .shape = tensor.sizes().vec(), .encoding = Encoding::f32});
    write_safetensors(folder / file, specs, [&](size_t i) {
      const at::Tensor& t = all[i].second;
      return std::as_bytes(std::span(t.const_data_ptr<float>(), static_cast<size_t>(t.numel())));
    });
  }
};

TEST_F(Embeddings, VectorsStandInPlaceOfTheName) {
  write("mood.safetensors", {{"emb_params", at::full({2, 3}, 7.0)}});
  EmbeddingFolder folders({folder});
  const EncodedPrompt said = encode("a embedding:mood b", {&folders});
  const at::Tensor state = said.context[0].select(1, 0);
  EXPECT_TRUE(said.warnings.empty());
  EXPECT_FLOAT_EQ((state[2] - state[1]).item<float>(), 6);
  EXPECT_FLOAT_EQ((state[3] - state[2]).item<float>(), 0);
  EXPECT_FLOAT_EQ((state[4] - state[1]).item<float>(), 1);  // b after a
}

TEST_F(Embeddings, EachEncoderTakesItsOwnTensor) {
  write("pair.safetensors", {{"clip_g", at::full({1, 5}, 9.0)}, {"clip_l", at::full({2, 3}, 8.0)}});
  EmbeddingFolder folders({folder});
  const PromptEncoder encoders[] = {{l, letters}, {g, letters}};
  const EncodedPrompt said = encode_prompt(sdxl(), encoders, "embedding:pair a", {&folders});
  EXPECT_TRUE(said.warnings.empty());
  EXPECT_FLOAT_EQ((said.context[0][3][0] - said.context[0][1][0]).item<float>(), 1 - 8);
  EXPECT_FLOAT_EQ((said.context[0][2][3] - said.context[0][1][3]).item<float>(), 1 - 9);
}

TEST_F(Embeddings, ALoneVectorAndALoneTensorAreEmbeddingsToo) {
  write("one.safetensors", {{"<cat>", at::full({3}, 4.0)}});
  EmbeddingFolder folders({folder});
  const EncoderRules& rules = encoder_rules("clip_l");
  const auto found = folders.find("one", rules);
  ASSERT_TRUE(found);
  EXPECT_EQ(found->vectors, 1);
  EXPECT_EQ(found->width, 3);
  EXPECT_TRUE(at::equal(folders.vectors(found->handle), at::full({1, 3}, 4.0)));
  EXPECT_EQ(folders.find("one", rules)->handle, found->handle);
  EXPECT_FALSE(folders.find("two", rules));
}

TEST_F(Embeddings, AreNamedAfterTheirEncoderInSeveralWays) {
  write("pivot.safetensors",
        {{"text_encoders_0", at::full({2, 3}, 1.0)}, {"text_encoders_1", at::full({2, 5}, 2.0)}});
  write("flux.safetensors", {{"clip_l", at::full({1, 3}, 3.0)}, {"t5", at::full({90, 7}, 4.0)}});
  EmbeddingFolder folders({folder});
  const auto first = [&](const char* file, const char* encoder) {
    const auto found = folders.find(file, encoder_rules(encoder));
    return folders.vectors(found.value().handle)[0][0].item<float>();
  };
  EXPECT_EQ(first("pivot", "clip_l"), 1);
  EXPECT_EQ(first("pivot", "clip_g"), 2);
  EXPECT_EQ(first("flux", "clip_l"), 3);
  EXPECT_EQ(first("flux", "t5xxl"), 4);
  EXPECT_EQ(folders.find("flux", encoder_rules("t5xxl"))->vectors, 90);
  try {
    folders.find("pivot", encoder_rules("t5xxl"));
    ADD_FAILURE();
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what())
                  .find("expected vectors for t5xxl, found text_encoders_0, "
                        "text_encoders_1 alone"),
              std::string::npos);
  }
}

TEST_F(Embeddings, SeveralTokensOfTheEncodersWidthAreTakenTogether) {
  write("tokens.safetensors", {{"<a>", at::full({3}, 1.0)},
                               {"<b>", at::full({2, 3}, 2.0)},
                               {"<wide>", at::full({1, 5}, 3.0)}});
  write("list.safetensors", {{"0.<a>", at::full({3}, 1.0)}, {"1.<b>", at::full({1, 5}, 3.0)}});
  EmbeddingFolder folders({folder});
  const auto vectors = [&](const char* name, int32_t width) {
    EncoderRules rules = encoder_rules("clip_l");
    rules.name = width == 3 ? "clip_l" : "clip_g";
    rules.width = width;
    return folders.vectors(folders.find(name, rules).value().handle);
  };
  EXPECT_TRUE(
      at::equal(vectors("tokens", 3), at::cat({at::full({1, 3}, 1.0), at::full({2, 3}, 2.0)})));
  EXPECT_TRUE(at::equal(vectors("tokens", 5), at::full({1, 5}, 3.0)));
  EXPECT_TRUE(at::equal(vectors("list", 3), at::full({1, 3}, 1.0)));
  EXPECT_TRUE(at::equal(vectors("list", 5), at::full({1, 5}, 3.0)));
}

TEST_F(Embeddings, AreReadFromTheFilesOfTorch) {
  const auto golden = std::filesystem::path(ATELIER_SOURCE_DIR) / "tests/golden/formats";
  EmbeddingFolder folders({golden});
  for (const char* name :
       {"embedding.pt", "parameters.pt", "parameters_first.pt", "bare_tensor.pt"}) {
    const auto found = folders.find(name, encoder_rules("clip_l"));
    ASSERT_TRUE(found) << name;
    EXPECT_EQ(folders.vectors(found->handle).sizes(), at::IntArrayRef({2, 8})) << name;
  }
}

TEST_F(Embeddings, WhatIsNoEmbeddingIsAWarningAndNothingElse) {
  write("two.safetensors", {{"x", at::zeros({1, 3})}, {"y", at::zeros({1, 3})}});
  write("cube.safetensors", {{"emb_params", at::zeros({1, 2, 3})}});
  write("wide.safetensors", {{"emb_params", at::zeros({1, 4})}});
  write("long.safetensors", {{"emb_params", at::zeros({76, 3})}});
  write("none.safetensors", {{"emb_params", at::zeros({0, 3})}});
  write("nan.safetensors", {{"emb_params", at::full({1, 3}, NAN)}});
  write("tokens.safetensors", {{"<a>", at::zeros({1, 4})}, {"<b>", at::zeros({1, 5})}});
  write("many.safetensors", {{"<a>", at::zeros({40, 3})}, {"<b>", at::zeros({40, 3})}});
  write("other.safetensors", {{"clip_g", at::zeros({1, 3})}});
  EmbeddingFolder folders({folder});
  const at::Tensor plain = encode("a b").context;
  for (const char* name : {"two", "cube", "wide", "long", "none", "nan", "tokens", "many", "other",
                           "absent", "../wide"}) {
    const EncodedPrompt said = encode(std::string("a embedding:") + name + " b", {&folders});
    EXPECT_EQ(said.warnings.size(), 1U) << name;
    EXPECT_TRUE(at::equal(said.context, plain)) << name;
  }
}

}  // namespace
}  // namespace atelier
