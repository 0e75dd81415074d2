// CLIP text encoders: a causal transformer over 77 tokens, in two layouts and two activations.
// Source: openai/CLIP clip/model.py, mlfoundations/open_clip src/open_clip/transformer.py; names as
// in transformers' CLIPTextModelWithProjection.
// Shapes: T tokens, C width, H heads of 64, P projection.
#include <algorithm>
#include <optional>

#include "base/error.h"
#include "models/config_reading.h"
#include "models/text_checks.h"
#include "models/text_encoder.h"
#include "nn/attention.h"
#include "nn/layers.h"

namespace atelier {
namespace {

using at::Tensor;
using namespace nn;

constexpr int64_t kHeadSize = 64;

struct Config {
  int64_t vocabulary = 49408, positions = 77;
  int64_t width = 768, hidden = 3072, heads = 12;
  int64_t depth = 12;
  int64_t full_depth = 12;  // of the model as published; a file may have left its last layer out
  int64_t projection = 0;  // P, or 0 without
  Epilogue activation = Epilogue::quick_gelu;
  int64_t end_token() const { return vocabulary - 1; }
};

struct SelfAttention : Block<Config> {
  using Block::Block;
  Linear qkv{w, {"q_proj", "k_proj", "v_proj"}, c.width, c.width};
  ResidualLinear out_proj{w / "out_proj", c.width, c.width};
  // y += attention(x); [1, T, C]
  void add_to(Tensor& y, const Tensor& x) const {
    const auto parts = qkv(x).chunk(3, -1);
    out_proj.add_to(y, causal_attention(parts[0], parts[1], parts[2], c.heads));
  }
};

struct Mlp : Block<Config> {
  using Block::Block;
  Linear fc1{w / "fc1", c.width, c.hidden, Bias::with, c.activation};
  ResidualLinear fc2{w / "fc2", c.hidden, c.width};
  // y += mlp(x); [1, T, C]
  void add_to(Tensor& y, const Tensor& x) const { fc2.add_to(y, fc1(x)); }
};

struct Layer : Block<Config> {
  using Block::Block;
  LayerNorm layer_norm1{w / "layer_norm1", c.width};
  SelfAttention self_attn{w / "self_attn", c};
  LayerNorm layer_norm2{w / "layer_norm2", c.width};
  Mlp mlp{w / "mlp", c};
  // [1, T, C], changed in place
  void operator()(Tensor& x) const {
    self_attn.add_to(x, layer_norm1(x));
    mlp.add_to(x, layer_norm2(x));
  }
};

struct Embeddings : Block<Config> {
  using Block::Block;
  nn::Embedding token_embedding{w / "token_embedding", c.vocabulary, c.width};
  nn::Embedding position_embedding{w / "position_embedding", c.positions, c.width};

  // -> [1, T, C]
  Tensor operator()(const TokenChunk& chunk) const {
    const auto length = static_cast<int64_t>(chunk.ids.size());
    const at::Device device = w.compute().device.torch();
    Tensor x = token_embedding(at::tensor(chunk.ids, at::kLong).to(device));
    for (const TokenVector& vector : chunk.vectors) x[vector.position].copy_(vector.values);
    return x.add_(position_embedding.rows(length)).unsqueeze(0);
  }
};

struct TextModel : Block<Config> {
  using Block::Block;
  Embeddings embeddings{w / "embeddings", c};
  Stack<Layer> layers{w / "encoder" / "layers", c.depth, c};
  LayerNorm final_layer_norm{w / "final_layer_norm", c.width};
};

struct Clip : Block<Config> {
  using Block::Block;
  TextModel text_model{w / "text_model", c};
  std::optional<Linear> text_projection =
      c.projection ? std::optional<Linear>(std::in_place, w / "text_projection", c.width,
                                           c.projection, Bias::none)
                   : std::nullopt;

  struct States {
    Tensor hidden, pooled;  // [1, T, C], [1, C or P]
  };
  States operator()(const TokenChunk& chunk, const TextOptions& options) const {
    const size_t wanted = layer_index(options.layer);
    Tensor x = text_model.embeddings(chunk), hidden;
    for (size_t i = 0; i < text_model.layers.size(); ++i) {
      text_model.layers[i](x);
      if (i == wanted) hidden = x.clone();
    }
    const Tensor normed = text_model.final_layer_norm(x);
    const bool last = wanted + 1 == text_model.layers.size();
    if (options.final_norm) hidden = last ? normed : text_model.final_layer_norm(hidden);
    Tensor pooled = normed.select(1, end_of(chunk));
    if (options.project && text_projection) pooled = (*text_projection)(pooled);
    return {hidden, pooled};
  }

  // Counted from the published model's end; past the first layer, or left out of the file: the
  // last.
  size_t layer_index(int layer) const {
    const int64_t index = c.full_depth + layer;
    return static_cast<size_t>(index < 0 ? c.depth - 1 : std::min(index, c.depth - 1));
  }

  // The first end token that no vector covers, or the last position.
  int64_t end_of(const TokenChunk& chunk) const {
    const auto covered = [&](int64_t i) {
      return std::ranges::any_of(chunk.vectors, [&](const auto& v) { return v.position == i; });
    };
    const auto length = static_cast<int64_t>(chunk.ids.size());
    for (int64_t i = 0; i < length; ++i)
      if (chunk.ids[static_cast<size_t>(i)] == c.end_token() && !covered(i)) return i;
    return length - 1;
  }
};

class ClipEncoder final : public Loaded<TextEncoder, Config, Clip> {
 public:
  using Loaded::Loaded;
  int64_t width() const override { return config().width; }
  int64_t positions() const override { return config().positions; }

  TextEncoding encode(std::span<const TokenChunk> chunks,
                      const TextOptions& options) const override {
    check_any(chunks);
    const ChunkLimits limits{config().vocabulary, width(), positions()};
    std::vector<Tensor> hidden, pooled;
    for (const TokenChunk& chunk : chunks) {
      check_chunk(chunk, chunks.front().ids.size(), limits);
      const Clip::States states = net()(chunk, options);
      hidden.push_back(states.hidden.to(at::kCPU, at::kFloat));
      pooled.push_back(states.pooled.to(at::kCPU, at::kFloat));
    }
    return {at::cat(hidden), at::cat(pooled)};
  }
};

int64_t depth(const Scope& w) {
  return (w / "text_model").count("encoder.layers", "layer_norm1.weight");
}

// What shapes do not tell.
struct Kind {
  Epilogue activation;
  int64_t depth;  // as published
};

Config config_of(const Scope& w, const Kind& kind) {
  const Scope text = w / "text_model";
  const Shape tokens = checked_shape(text, "embeddings.token_embedding.weight", 2);
  Config c;
  c.activation = kind.activation;
  c.vocabulary = tokens[0];
  c.width = tokens[1];
  c.positions = checked_shape(text, "embeddings.position_embedding.weight", 2)[0];
  c.hidden = checked_shape(text, "encoder.layers.0.mlp.fc1.weight", 2)[0];
  c.heads = std::max<int64_t>(1, c.width / kHeadSize);
  if (c.width % c.heads != 0)
    throw Error(ErrorCode::mismatch, {.subject = "text_model.embeddings.token_embedding.weight",
                                      .expected = "a width that is a multiple of 64",
                                      .found = std::to_string(c.width)});
  c.depth = depth(w);
  c.full_depth = c.depth + 1 == kind.depth ? kind.depth : c.depth;
  if (w.has("text_projection.weight"))
    c.projection = checked_shape(w, "text_projection.weight", 2)[0];
  return c;
}

constexpr Kind kL{.activation = Epilogue::quick_gelu, .depth = 12};
constexpr Kind kH{.activation = Epilogue::gelu, .depth = 24};
constexpr Kind kG{.activation = Epilogue::gelu, .depth = 32};

template <const Kind& kind>
std::unique_ptr<TextEncoder> build(const Scope& w) {
  return std::make_unique<ClipEncoder>(config_of(w, kind), w);
}

constexpr KeyRule kOpenClip[] = {
    {"text_model.embeddings.token_embedding", {"token_embedding"}},
    {"text_model.embeddings.position_embedding.weight", {"positional_embedding"}},
    {"text_model.final_layer_norm", {"ln_final"}},
    {"text_projection.weight", {"text_projection"}, {.transposed = true}},
    {"text_model.encoder.layers.{a}.self_attn.q_proj.weight",
     {"transformer.resblocks.{a}.attn.in_proj_weight"},
     {.part = 0, .of = 3}},
    {"text_model.encoder.layers.{a}.self_attn.k_proj.weight",
     {"transformer.resblocks.{a}.attn.in_proj_weight"},
     {.part = 1, .of = 3}},
    {"text_model.encoder.layers.{a}.self_attn.v_proj.weight",
     {"transformer.resblocks.{a}.attn.in_proj_weight"},
     {.part = 2, .of = 3}},
    {"text_model.encoder.layers.{a}.self_attn.q_proj.bias",
     {"transformer.resblocks.{a}.attn.in_proj_bias"},
     {.part = 0, .of = 3}},
    {"text_model.encoder.layers.{a}.self_attn.k_proj.bias",
     {"transformer.resblocks.{a}.attn.in_proj_bias"},
     {.part = 1, .of = 3}},
    {"text_model.encoder.layers.{a}.self_attn.v_proj.bias",
     {"transformer.resblocks.{a}.attn.in_proj_bias"},
     {.part = 2, .of = 3}},
    {"text_model.encoder.layers.{a}.self_attn.out_proj",
     {"transformer.resblocks.{a}.attn.out_proj"}},
    {"text_model.encoder.layers.{a}.layer_norm1", {"transformer.resblocks.{a}.ln_1"}},
    {"text_model.encoder.layers.{a}.layer_norm2", {"transformer.resblocks.{a}.ln_2"}},
    {"text_model.encoder.layers.{a}.mlp.fc1", {"transformer.resblocks.{a}.mlp.c_fc"}},
    {"text_model.encoder.layers.{a}.mlp.fc2", {"transformer.resblocks.{a}.mlp.c_proj"}},
};

// As transformers 5 names a lone CLIPTextModel.
constexpr KeyRule kBare[] = {
    {"text_model.embeddings.*", {"embeddings.*"}},
    {"text_model.encoder.*", {"encoder.*"}},
    {"text_model.final_layer_norm", {"final_layer_norm"}},
};

// stable-diffusion.cpp turns open_clip's names, but not its projection.
constexpr KeyRule kTurned[] = {
    {"text_projection.weight", {"text_model.text_projection"}, {.transposed = true}},
};

constexpr KeyLayout kLayouts[] = {
    {"stable-diffusion.cpp", "text_model.text_projection", kTurned},
    {"transformers", "text_model.encoder.layers.0.layer_norm1.weight"},
    {"open_clip", "transformer.resblocks.0.ln_1.weight", kOpenClip},
    {"transformers, bare", "encoder.layers.0.layer_norm1.weight", kBare},
};

// Of whole CLIP models the half that sees pictures, too.
constexpr std::string_view kIgnore[] = {"text_model.embeddings.position_ids",
                                        "logit_scale",
                                        "attn_mask",
                                        "vision_model.*",
                                        "visual_projection.*",
                                        "visual.*"};

// The tables are read by the row and small beside other encoders. What sees pictures is no part of
// the encoder and keeps its names.
constexpr QuantRule kQuantisation[] = {
    {"embed", QuantRole::keep},    {"text_projection", QuantRole::keep},
    {"v_proj.", QuantRole::value}, {"in_proj", QuantRole::fused},
    {"fc2.", QuantRole::down},     {"c_proj.", QuantRole::down},
};

}  // namespace

const PartDef<TextEncoder> clip_l_encoder{
    .name = "clip_l",
    .layouts = kLayouts,
    .ignore = kIgnore,
    .fits = [](const Scope& w) { return depth(w) < kH.depth - 1; },
    .build = build<kL>,
    .quantisation = kQuantisation,
};

const PartDef<TextEncoder> clip_h_encoder{
    .name = "clip_h",
    .layouts = kLayouts,
    .ignore = kIgnore,
    .fits = [](const Scope& w) { return depth(w) >= kH.depth - 1 && depth(w) < kG.depth - 1; },
    .build = build<kH>,
    .quantisation = kQuantisation,
};

const PartDef<TextEncoder> clip_g_encoder{
    .name = "clip_g",
    .layouts = kLayouts,
    .ignore = kIgnore,
    .fits = [](const Scope& w) { return depth(w) >= kG.depth - 1; },
    .build = build<kG>,
    .quantisation = kQuantisation,
};

std::span<const PartDef<TextEncoder>* const> text_encoders() {
  static constexpr const PartDef<TextEncoder>* kAll[] = {&clip_g_encoder, &clip_h_encoder,
                                                         &clip_l_encoder, &t5xxl_encoder};
  return kAll;
}

}  // namespace atelier
