// The text encoders against transformers' outputs; layer and pooling rules; refusals.
#include <gtest/gtest.h>

#include "base/error.h"
#include "models/clip.cpp"  // reaches the blocks, which no header shows
#include "models/golden_files.h"

namespace atelier {
namespace {

const PartDef<TextEncoder>& def_of(const std::string& name) {
  for (const PartDef<TextEncoder>* def : text_encoders())
    if (def->name == name) return *def;
  throw Error(ErrorCode::not_found, {.subject = name});
}

/// One golden encoder and what it should say.
struct Case {
  explicit Case(const std::string& encoder)
      : name(encoder),
        weights(golden::source(encoder, "model")),
        expected(golden::source(encoder, "expected")) {}

  std::unique_ptr<TextEncoder> load(const std::shared_ptr<const TensorSource>& from,
                                    at::ScalarType dtype = at::kFloat) {
    BindReport report;
    const auto place = find_place(*from, kPrefixes, def_of(name).layouts);
    if (!place) throw Error(ErrorCode::not_found, {.subject = "layout"});
    auto encoder =
        load_part(def_of(name), from, *place, residency, report, {.device = {}, .dtype = dtype});
    report.throw_if_bad(from->label());
    return encoder;
  }
  std::unique_ptr<TextEncoder> load() { return load(weights); }

  at::Tensor want(const std::string& what) const { return golden::tensor(*expected, what); }
  /// The stored positions of a state.
  at::Tensor at_positions(const at::Tensor& hidden) const {
    return hidden.index_select(1, want("positions"));
  }
  std::vector<TokenChunk> chunks() const {
    std::vector<TokenChunk> result;
    const at::Tensor ids = want("tokens");
    for (int64_t i = 0; i < ids.size(0); ++i) {
      const auto* row = ids[i].const_data_ptr<int64_t>();
      result.push_back({.ids = {row, row + ids.size(1)}, .vectors = {}});
    }
    return result;
  }

  static constexpr std::string_view kPrefixes[] = {""};
  std::string name;
  std::shared_ptr<const TensorSource> weights, expected;
  Residency residency;
};

struct ClipGolden : ::testing::TestWithParam<const char*> {};

TEST_P(ClipGolden, EveryLayerEqualsTheReference) {
  Case c(GetParam());
  const auto encoder = c.load();
  const at::Tensor embedded = c.want("embedded");
  for (int64_t element = 0; element < 2; ++element) {
    BindReport report;
    const auto place = find_place(*c.weights, Case::kPrefixes, kLayouts);
    const Scope w = open_scope(c.weights, *place, c.residency, report, {});
    const Config config = config_of(w, std::string(GetParam()) == "clip_l" ? kL : kH);
    const Clip net(w, config);
    at::Tensor x = net.text_model.embeddings(c.chunks()[static_cast<size_t>(element)]);
    EXPECT_TRUE(golden::close(c.at_positions(x)[0], embedded[element], 1e-6));
    for (size_t i = 0; i < net.text_model.layers.size(); ++i) {
      net.text_model.layers[i](x);
      const at::Tensor want = c.want("layer." + std::to_string(i));
      EXPECT_TRUE(golden::close(c.at_positions(x)[0], want[element], 1e-4)) << "layer " << i;
    }
  }
}

TEST_P(ClipGolden, LastStateAndPooledEqualTheReference) {
  Case c(GetParam());
  const TextEncoding said = c.load()->encode(c.chunks(), {});
  EXPECT_EQ(said.hidden.size(1), 77);
  EXPECT_TRUE(golden::close(c.at_positions(said.hidden), c.want("last.normed"), 1e-4));
  EXPECT_TRUE(golden::close(said.pooled, c.want("pooled"), 1e-4));
}

TEST_P(ClipGolden, PenultimateStateWithAndWithoutNorm) {
  Case c(GetParam());
  const auto encoder = c.load();
  const at::Tensor normed = encoder->encode(c.chunks(), {.layer = -2}).hidden;
  EXPECT_TRUE(golden::close(c.at_positions(normed), c.want("penultimate.normed"), 1e-4));
  const TextEncoding plain = encoder->encode(c.chunks(), {.layer = -2, .final_norm = false});
  EXPECT_TRUE(golden::close(c.at_positions(plain.hidden), c.want("layer.0"), 1e-4));
  EXPECT_TRUE(golden::close(plain.pooled, c.want("pooled"), 1e-4));
}

TEST_P(ClipGolden, ALayerBeforeTheFirstMeansTheLast) {
  Case c(GetParam());
  const auto encoder = c.load();
  EXPECT_TRUE(at::equal(encoder->encode(c.chunks(), {.layer = -3}).hidden,
                        encoder->encode(c.chunks(), {}).hidden));
}

TEST_P(ClipGolden, AChunkIsEncodedAsIfAlone) {
  Case c(GetParam());
  const auto encoder = c.load();
  const TextEncoding both = encoder->encode(c.chunks(), {.project = true});
  const std::vector<TokenChunk> second{c.chunks()[1]};
  const TextEncoding alone = encoder->encode(second, {.project = true});
  EXPECT_TRUE(at::equal(both.hidden[1], alone.hidden[0]));
  EXPECT_TRUE(at::equal(both.pooled[1], alone.pooled[0]));
}

TEST_P(ClipGolden, Bf16StaysWithinItsRounding) {
  Case c(GetParam());
  const auto encoder = c.load(c.weights, at::kBFloat16);
  const TextEncoding said = encoder->encode(c.chunks(), {});
  EXPECT_EQ(said.hidden.scalar_type(), at::kFloat);
  EXPECT_TRUE(golden::close(c.at_positions(said.hidden), c.want("last.normed"), 4e-2));
}

INSTANTIATE_TEST_SUITE_P(Encoders, ClipGolden, ::testing::Values("clip_l", "clip_h", "clip_g"),
                         [](const auto& test) { return std::string(test.param); });

TEST(Clip, ProjectsThePooledStateWhereAsked) {
  for (const char* name : {"clip_h", "clip_g"}) {
    Case c(name);
    const TextEncoding said = c.load()->encode(c.chunks(), {.project = true});
    EXPECT_TRUE(golden::close(said.pooled, c.want("projected"), 1e-4)) << name;
  }
  Case l("clip_l");  // has no projection
  EXPECT_TRUE(golden::close(l.load()->encode(l.chunks(), {.project = true}).pooled,
                            l.want("pooled"), 1e-4));
}

/// The OpenCLIP golden under transformers' names.
std::shared_ptr<MemorySource> as_transformers(const TensorSource& open_clip) {
  auto result = std::make_shared<MemorySource>("transformers");
  const auto put = [&](const std::string& to, const std::string& from) {
    result->put(to, golden::tensor(open_clip, from));
  };
  put("text_model.embeddings.token_embedding.weight", "token_embedding.weight");
  put("text_model.embeddings.position_embedding.weight", "positional_embedding");
  result->put("text_projection.weight", golden::tensor(open_clip, "text_projection").t());
  for (const std::string leaf : {"weight", "bias"}) {
    put("text_model.final_layer_norm." + leaf, "ln_final." + leaf);
    for (int i = 0; i < 2; ++i) {
      const std::string from = "transformer.resblocks." + std::to_string(i) + ".";
      const std::string to = "text_model.encoder.layers." + std::to_string(i) + ".";
      const auto qkv = golden::tensor(open_clip, from + "attn.in_proj_" + leaf).chunk(3);
      for (size_t p = 0; p < 3; ++p)
        result->put(to + "self_attn." + "qkv"[p] + "_proj." + leaf, qkv[p]);
      put(to + "self_attn.out_proj." + leaf, from + "attn.out_proj." + leaf);
      put(to + "layer_norm1." + leaf, from + "ln_1." + leaf);
      put(to + "layer_norm2." + leaf, from + "ln_2." + leaf);
      put(to + "mlp.fc1." + leaf, from + "mlp.c_fc." + leaf);
      put(to + "mlp.fc2." + leaf, from + "mlp.c_proj." + leaf);
    }
  }
  return result;
}

TEST(Clip, BothLayoutsGiveEqualBytes) {
  for (const char* name : {"clip_h", "clip_g"}) {
    Case c(name);
    const TextEncoding original = c.load()->encode(c.chunks(), {.project = true});
    const TextEncoding other =
        c.load(as_transformers(*c.weights))->encode(c.chunks(), {.project = true});
    EXPECT_TRUE(at::equal(original.hidden, other.hidden)) << name;
    EXPECT_TRUE(at::equal(original.pooled, other.pooled)) << name;
  }
}

TEST(Clip, NamesWithoutTheirHeadAreKnown) {
  Case c("clip_l");
  auto bare = std::make_shared<MemorySource>("bare");
  for (const auto& [name, info] : c.weights->tensors())
    if (decodable(info.encoding))
      bare->put(name.substr(std::string("text_model.").size()), golden::tensor(*c.weights, name));
  EXPECT_TRUE(at::equal(c.load(bare)->encode(c.chunks(), {}).hidden,
                        c.load()->encode(c.chunks(), {}).hidden));
}

TEST(Clip, AVectorStandsInPlaceOfAToken) {
  Case c("clip_l");
  const auto encoder = c.load();
  std::vector<TokenChunk> chunks = c.chunks();
  const at::Tensor table =
      golden::tensor(*c.weights, "text_model.embeddings.token_embedding.weight");
  const int64_t token = chunks[0].ids[3];
  const TextEncoding plain = encoder->encode(chunks, {});
  chunks[0].ids[3] = 0;
  EXPECT_FALSE(at::equal(encoder->encode(chunks, {}).hidden, plain.hidden));
  chunks[0].vectors = {{.position = 3, .values = table[token]}};
  EXPECT_TRUE(at::equal(encoder->encode(chunks, {}).hidden, plain.hidden));
}

TEST(Clip, AVectorOverAnEndTokenDoesNotEndTheText) {
  Case c("clip_l");
  const auto encoder = c.load();
  std::vector<TokenChunk> chunks = c.chunks();
  const TextEncoding plain = encoder->encode(chunks, {});
  const at::Tensor table =
      golden::tensor(*c.weights, "text_model.embeddings.token_embedding.weight");
  chunks[0].vectors = {{.position = 2, .values = table[chunks[0].ids[2]]}};
  chunks[0].ids[2] = table.size(0) - 1;
  EXPECT_TRUE(at::equal(encoder->encode(chunks, {}).pooled, plain.pooled));
}

TEST(Clip, AFileWithoutItsLastLayerCountsFromThePublishedEnd) {
  const Config whole{.depth = 24, .full_depth = 24}, short_of_one{.depth = 23, .full_depth = 24};
  Case c("clip_l");
  BindReport report;
  const Scope w = open_scope(c.weights, *find_place(*c.weights, Case::kPrefixes, kLayouts),
                             c.residency, report, {});
  const Clip a(w, whole), b(w, short_of_one);  // layers without weights: only counted
  EXPECT_EQ(a.layer_index(-2), 22U);
  EXPECT_EQ(b.layer_index(-2), 22U);
  EXPECT_EQ(b.layer_index(-1), 22U);
  EXPECT_EQ(a.layer_index(-24), 0U);
  EXPECT_EQ(a.layer_index(-25), 23U);
}

TEST(Clip, RefusesWhatItCannotEncode) {
  Case c("clip_l");
  const auto encoder = c.load();
  const auto refused = [&](TokenChunk chunk) {
    const std::vector<TokenChunk> chunks{std::move(chunk)};
    EXPECT_THROW(encoder->encode(chunks, {}), Error);
  };
  const TokenChunk good = c.chunks()[0];
  refused({});
  refused({.ids = std::vector<int64_t>(78, 1), .vectors = {}});
  TokenChunk chunk = good;
  chunk.ids[5] = 61;
  refused(chunk);
  chunk.ids[5] = -1;
  refused(chunk);
  chunk = good;
  chunk.vectors = {{.position = 77, .values = at::zeros({32})}};
  refused(chunk);
  chunk.vectors = {{.position = 1, .values = at::zeros({33})}};
  refused(chunk);
  const std::vector<TokenChunk> uneven{good, {.ids = {1, 2}, .vectors = {}}};
  EXPECT_THROW(encoder->encode(uneven, {}), Error);
  EXPECT_THROW(encoder->encode({}, {}), Error);
}

TEST(Clip, ReportsEveryProblemOfAFileAtOnce) {
  Case c("clip_l");
  auto broken = golden::editable(*c.weights);
  broken->remove("text_model.encoder.layers.1.mlp.fc2.bias");
  broken->put("text_model.encoder.layers.0.layer_norm2.weight", at::ones({7}));
  broken->put("text_model.surplus", at::ones({2}));
  try {
    c.load(broken);
    FAIL();
  } catch (const Error& error) {
    const std::string text = error.what();
    EXPECT_NE(text.find("text_model.encoder.layers.1.mlp.fc2.bias"), text.npos) << text;
    EXPECT_NE(text.find("[7]"), text.npos) << text;
    EXPECT_NE(text.find("text_model.surplus"), text.npos) << text;
  }
}

TEST(Clip, RefusesShapesNoConfigCanBeReadFrom) {
  Case c("clip_l");
  for (const Shape& shape : {Shape{61}, Shape{61, 0}, Shape{0, 32}, Shape{61, 100}}) {
    auto broken = golden::editable(*c.weights);
    broken->put("text_model.embeddings.token_embedding.weight", at::zeros(shape));
    EXPECT_THROW(c.load(broken), Error) << to_string(shape);
  }
}

TEST(Clip, DepthTellsLoneFilesApart) {
  const auto depth_is = [](int64_t layers) {
    auto file = std::make_shared<MemorySource>("file");
    for (int64_t i = 0; i < layers; ++i)
      file->put("text_model.encoder.layers." + std::to_string(i) + ".layer_norm1.weight",
                at::ones({1}));
    for (const PartDef<TextEncoder>* def : text_encoders())
      if (recognise(*def, file, Case::kPrefixes)) return std::string(def->name);
    return std::string("none");
  };
  EXPECT_EQ(depth_is(12), "clip_l");
  EXPECT_EQ(depth_is(23), "clip_h");
  EXPECT_EQ(depth_is(24), "clip_h");
  EXPECT_EQ(depth_is(32), "clip_g");
  EXPECT_EQ(depth_is(0), "none");
}

}  // namespace
}  // namespace atelier
