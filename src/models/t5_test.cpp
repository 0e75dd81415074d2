// The T5 encoder against transformers' outputs, in both namings and all dtypes; refusals.
#include <gtest/gtest.h>

#include <algorithm>

#include "base/error.h"
#include "models/golden_files.h"
#include "models/t5.cpp"  // reaches the blocks, which no header shows

namespace atelier {
namespace {

constexpr std::string_view kTop[] = {""};

struct T5Golden : ::testing::Test {
  std::unique_ptr<TextEncoder> load(const std::shared_ptr<const TensorSource>& from,
                                    at::ScalarType dtype = at::kFloat) {
    BindReport report;
    const auto place = recognise(t5xxl_encoder, from, kTop);
    if (!place) throw Error(ErrorCode::not_found, {.subject = "T5"});
    auto encoder =
        load_part(t5xxl_encoder, from, *place, residency, report, {.device = {}, .dtype = dtype});
    report.throw_if_bad(from->label());
    return encoder;
  }
  std::unique_ptr<TextEncoder> load() { return load(weights); }

  at::Tensor want(const std::string& what) const { return golden::tensor(*expected, what); }
  std::vector<TokenChunk> chunk(const std::string& name) const {
    const at::Tensor ids = want(name + ".tokens")[0];
    const auto* row = ids.const_data_ptr<int64_t>();
    return {{.ids = {row, row + ids.numel()}, .vectors = {}}};
  }
  /// The stored positions of a state.
  at::Tensor stored(const std::string& name, const at::Tensor& hidden) const {
    return name == "long" ? hidden.index_select(1, want("long.positions")) : hidden;
  }
  at::Tensor last(const std::string& name, const TextEncoder& encoder) const {
    return stored(name, encoder.encode(chunk(name), {}).hidden);
  }
  std::string refusal(const std::shared_ptr<const TensorSource>& from) {
    try {
      load(from);
    } catch (const Error& error) {
      return error.what();
    }
    return "";
  }

  const std::vector<std::string> names{"short", "long"};
  std::shared_ptr<const TensorSource> weights = golden::source("t5", "model");
  std::shared_ptr<const TensorSource> expected = golden::source("t5", "expected");
  Residency residency;
};

TEST_F(T5Golden, EveryBlockEqualsTheReference) {
  BindReport report;
  const Scope w = open_scope(weights, *find_place(*weights, kTop, kLayouts), residency, report, {});
  const Config config = config_of(w);
  EXPECT_EQ(config.heads, 3);
  EXPECT_EQ(config.inner, 24);
  EXPECT_EQ(config.depth, 3);
  const T5 net(w, config);
  for (const std::string& name : names) {
    at::Tensor x = net.embed(chunk(name)[0]);
    EXPECT_TRUE(golden::close(stored(name, x), want(name + ".embedded"), 1e-6));
    const at::Tensor bias = net.bias(x.size(1));
    for (size_t i = 0; i < net.layers.size(); ++i) {
      net.layers[i](x, bias);
      EXPECT_TRUE(golden::close(stored(name, x), want(name + ".layer." + std::to_string(i)), 1e-4))
          << name << " layer " << i;
    }
  }
}

TEST_F(T5Golden, StatesEqualTheReference) {
  const auto encoder = load();
  EXPECT_EQ(encoder->width(), 32);
  for (const std::string& name : names) {
    EXPECT_TRUE(golden::close(last(name, *encoder), want(name + ".last"), 1e-4)) << name;
    const auto state = [&](const TextOptions& options) {
      return stored(name, encoder->encode(chunk(name), options).hidden);
    };
    EXPECT_TRUE(golden::close(state({.layer = -2}), want(name + ".penultimate.normed"), 1e-4));
    EXPECT_TRUE(
        golden::close(state({.layer = -2, .final_norm = false}), want(name + ".layer.1"), 1e-4));
    EXPECT_TRUE(at::equal(state({.layer = -4}), state({.layer = -1})));
  }
}

TEST_F(T5Golden, HasNoPooledState) {
  const TextEncoding said = load()->encode(chunk("short"), {.project = true});
  EXPECT_FALSE(said.pooled.defined());
  EXPECT_EQ(said.hidden.scalar_type(), at::kFloat);
}

TEST_F(T5Golden, SixteenBitsStayWithinTheirRounding) {
  const std::pair<at::ScalarType, double> bounds[] = {{at::kBFloat16, 4e-2}, {at::kHalf, 6e-3}};
  for (const auto& [dtype, most] : bounds) {
    const auto encoder = load(weights, dtype);
    for (const std::string& name : names)
      EXPECT_TRUE(golden::close(last(name, *encoder), want(name + ".last"), most)) << dtype;
  }
}

TEST_F(T5Golden, SumsBeyondFp16AreKept) {
  const auto strong = golden::editable(*weights);
  for (const std::string block : {"0", "2"}) {
    const std::string name = "encoder.block." + block + ".layer.1.DenseReluDense.wo.weight";
    strong->put(name, (strong->tensor(name) * 30000).clamp(-60000, 60000));
  }
  const at::Tensor plain = last("short", *load(strong));
  const auto encoder = load(strong, at::kHalf);
  const at::Tensor raw = encoder->encode(chunk("short"), {.final_norm = false}).hidden;
  EXPECT_GT(raw.abs().max().item<double>(), 65504);
  EXPECT_TRUE(golden::close(last("short", *encoder), plain, 1e-2));
}

TEST_F(T5Golden, ChunksAreEncodedAsIfAlone) {
  const auto encoder = load();
  std::vector<TokenChunk> both{chunk("short")[0], chunk("short")[0]};
  std::ranges::reverse(both[1].ids);
  const at::Tensor together = encoder->encode(both, {}).hidden;
  EXPECT_TRUE(at::equal(together[1], encoder->encode(std::span(both).last(1), {}).hidden[0]));
  EXPECT_FALSE(at::equal(together[0], together[1]));
}

TEST_F(T5Golden, AnyLengthIsTakenUpToItsLimit) {
  const auto encoder = load();
  EXPECT_EQ(encoder->positions(), 4096);
  for (const size_t length : {1u, 2u, 1000u}) {
    const std::vector<TokenChunk> one{{.ids = std::vector<int64_t>(length, 5), .vectors = {}}};
    EXPECT_EQ(encoder->encode(one, {}).hidden.size(1), static_cast<int64_t>(length));
  }
}

TEST(T5Distances, FallIntoTheBucketsOfTheReference) {
  // transformers, T5Attention._relative_position_bucket, bidirectional, 32 buckets, 128
  const std::pair<int64_t, int64_t> known[] = {
      {0, 0},   {1, 17},  {-1, 1},  {7, 23},   {-7, 7},   {8, 24},    {11, 24},    {12, 25},
      {15, 25}, {16, 26}, {22, 26}, {23, 27},  {31, 27},  {32, 28},   {45, 28},    {46, 29},
      {64, 30}, {90, 30}, {91, 31}, {127, 31}, {128, 31}, {-128, 15}, {-5000, 15}, {9999, 31}};
  for (const auto& [distance, bucket] : known) EXPECT_EQ(bucket_of(distance), bucket) << distance;
}

/// The golden under llama.cpp's names.
std::shared_ptr<MemorySource> as_llama(const TensorSource& from) {
  const std::pair<std::string, std::string> heads[] = {
      {"shared.", "token_embd."},
      {"encoder.final_layer_norm.", "enc.output_norm."},
      {"encoder.block.", "enc.blk."},
      {"layer.0.SelfAttention.relative_attention_bias.", "attn_rel_b."},
      {"layer.0.SelfAttention.", "attn_"},
      {"layer.0.layer_norm.", "attn_norm."},
      {"layer.1.layer_norm.", "ffn_norm."},
      {"layer.1.DenseReluDense.wi_0.", "ffn_gate."},
      {"layer.1.DenseReluDense.wi_1.", "ffn_up."},
      {"layer.1.DenseReluDense.wo.", "ffn_down."}};
  auto result = std::make_shared<MemorySource>("llama.cpp");
  for (const auto& [name, info] : from.tensors()) {
    std::string to = name;
    for (const auto& [old, replacement] : heads)
      if (const size_t at = to.find(old); at != to.npos) to.replace(at, old.size(), replacement);
    result->put(to, golden::tensor(from, name));
  }
  return result;
}

TEST_F(T5Golden, EveryNamingGivesEqualBytes) {
  const auto llama = as_llama(*weights);
  EXPECT_TRUE(llama->tensors().contains("enc.blk.0.attn_rel_b.weight"));
  EXPECT_TRUE(llama->tensors().contains("enc.blk.2.ffn_down.weight"));
  const auto embedded = golden::editable(*weights);  // without `shared`, as some save it
  embedded->put("encoder.embed_tokens.weight", embedded->tensor("shared.weight"));
  const auto both = golden::editable(*embedded);
  both->put("decoder.final_layer_norm.weight", at::ones({32}));
  both->put("lm_head.weight", at::ones({61, 32}));
  embedded->remove("shared.weight");
  for (const std::string& name : names) {
    const at::Tensor plain = last(name, *load());
    EXPECT_TRUE(at::equal(last(name, *load(llama)), plain));
    EXPECT_TRUE(at::equal(last(name, *load(embedded)), plain));
    EXPECT_TRUE(at::equal(last(name, *load(both)), plain));
  }
}

TEST_F(T5Golden, AVectorStandsInPlaceOfAToken) {
  const auto encoder = load();
  std::vector<TokenChunk> chunks = chunk("short");
  const at::Tensor plain = encoder->encode(chunks, {}).hidden;
  const at::Tensor row = golden::tensor(*weights, "shared.weight")[chunks[0].ids[3]];
  chunks[0].ids[3] = 0;
  EXPECT_FALSE(at::equal(encoder->encode(chunks, {}).hidden, plain));
  chunks[0].vectors = {{.position = 3, .values = row}};
  EXPECT_TRUE(at::equal(encoder->encode(chunks, {}).hidden, plain));
}

TEST_F(T5Golden, RefusesWhatItCannotEncode) {
  const auto encoder = load();
  const auto refused = [&](TokenChunk one) {
    const std::vector<TokenChunk> chunks{std::move(one)};
    EXPECT_THROW(encoder->encode(chunks, {}), Error);
  };
  refused({});
  refused({.ids = std::vector<int64_t>(4097, 1), .vectors = {}});
  refused({.ids = {1, 61}, .vectors = {}});
  refused({.ids = {1, -1}, .vectors = {}});
  refused({.ids = {1, 2}, .vectors = {{.position = 2, .values = at::zeros({32})}}});
  refused({.ids = {1, 2}, .vectors = {{.position = 0, .values = at::zeros({31})}}});
  EXPECT_THROW(encoder->encode({}, {}), Error);
}

TEST_F(T5Golden, ReportsEveryProblemOfAFileAtOnce) {
  const auto broken = golden::editable(*weights);
  broken->remove("encoder.block.1.layer.0.SelfAttention.v.weight");
  broken->put("encoder.block.2.layer.1.layer_norm.weight", at::ones({7}));
  broken->put("encoder.surplus", at::ones({2}));
  const std::string text = refusal(broken);
  EXPECT_NE(text.find("missing encoder.block.1.layer.0.SelfAttention.v.weight"), text.npos) << text;
  EXPECT_NE(text.find("[7]"), text.npos) << text;
  EXPECT_NE(text.find("unused encoder.surplus"), text.npos) << text;
}

TEST_F(T5Golden, RefusesShapesNoConfigCanBeReadFrom) {
  const std::string first = "encoder.block.0.layer.0.SelfAttention.";
  const std::pair<std::string, Shape> wrong[] = {
      {"shared.weight", {61}},
      {"shared.weight", {0, 32}},
      {first + "q.weight", {25, 32}},
      {first + "q.weight", {24}},
      {first + "relative_attention_bias.weight", {32, 0}},
      {first + "relative_attention_bias.weight", {64, 3}},
      {"encoder.block.0.layer.1.DenseReluDense.wi_0.weight", {48, 32, 1, 1, 1}}};
  for (const auto& [name, shape] : wrong) {
    const auto broken = golden::editable(*weights);
    broken->put(name, at::zeros(shape));
    EXPECT_NE(refusal(broken), "") << name << to_string(shape);
  }
  const auto broken = golden::editable(*weights);
  broken->put(first + "q.weight", at::zeros({25, 32}));
  EXPECT_NE(refusal(broken).find("3 equal heads"), std::string::npos);
  for (const std::string name : {"shared.weight",
                                 "encoder.block.0.layer.0.SelfAttention."
                                 "relative_attention_bias.weight"}) {
    const auto without = golden::editable(*weights);
    without->remove(name);
    EXPECT_NE(refusal(without).find(name), std::string::npos);
  }
}

TEST_F(T5Golden, IsToldFromItsRelativesAndFromClip) {
  const auto umt5 = golden::editable(*weights);
  umt5->put("encoder.block.1." + std::string(kBias), at::ones({32, 3}));
  EXPECT_FALSE(recognise(t5xxl_encoder, umt5, kTop));
  const auto first = golden::editable(*weights);  // the ungated T5
  first->remove("encoder.block.0.layer.1.DenseReluDense.wi_0.weight");
  EXPECT_FALSE(recognise(t5xxl_encoder, first, kTop));
  EXPECT_FALSE(recognise(t5xxl_encoder, golden::source("clip_l", "model"), kTop));
  for (const PartDef<TextEncoder>* def : text_encoders())
    EXPECT_EQ(recognise(*def, weights, kTop).has_value(), def->name == "t5xxl");
}

}  // namespace
}  // namespace atelier
