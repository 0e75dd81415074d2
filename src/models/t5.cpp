// T5 v1.1's text encoder: any number of tokens, places only as distances between them.
// Source: Raffel et al. 2019, arXiv:1910.10683; google-research/t5x t5x/examples/t5/network.py;
// names as in transformers' T5EncoderModel.
// Shapes: T tokens, C width, H heads, A all heads' channels.
#include <algorithm>
#include <bit>
#include <cstdlib>

#include "base/error.h"
#include "models/config_reading.h"
#include "models/text_checks.h"
#include "nn/attention.h"
#include "nn/layers.h"

namespace atelier {
namespace {

using at::Tensor;
using namespace nn;

constexpr int64_t kMostTokens = 4096;
constexpr int64_t kBuckets = 32;  // of distances, half of them for keys after the query
constexpr double kEps = 1e-6;

struct Config {
  int64_t vocabulary = 32128;
  int64_t width = 4096, inner = 4096, hidden = 10240, heads = 64;
  int64_t depth = 24;
};

// The bucket of a key `distance` tokens after its query: distances below 8 have their own, then two
// buckets to each doubling, up to 128 and beyond.
int64_t bucket_of(int64_t distance) {
  const int64_t far = std::min<int64_t>(std::abs(distance), 128);
  const int64_t doublings = std::bit_width(static_cast<uint64_t>(far * far / 64)) - 1;
  const int64_t bucket = far < 8 ? far : 8 + std::min<int64_t>(doublings, 7);
  return distance > 0 ? bucket + kBuckets / 2 : bucket;
}

struct RelativeBias : Block<Config> {
  using Block::Block;
  nn::Embedding table{w, kBuckets, c.heads};

  // -> [1, H, T, T], for keys in reversed order: then it depends on query + key alone and is a
  // view of 2T - 1 numbers per head.
  Tensor operator()(int64_t length) const {
    std::vector<int64_t> buckets;
    for (int64_t sum = 0; sum < 2 * length - 1; ++sum)
      buckets.push_back(bucket_of(length - 1 - sum));
    const at::Device device = w.compute().device.torch();
    const Tensor by_sum = table(at::tensor(buckets, at::kLong).to(device)).to(at::kFloat).t();
    const Tensor bias =
        by_sum.contiguous().as_strided({1, c.heads, length, length}, {0, 2 * length - 1, 1, 1});
    return device.is_cpu() ? bias : bias.contiguous();
  }
};

struct SelfAttention : Block<Config> {
  using Block::Block;
  Linear qkv{w, {"q", "k", "v"}, c.width, c.inner, Bias::none};
  Linear o{w / "o", c.inner, c.width, Bias::none};

  // [1, T, C] -> same
  Tensor operator()(const Tensor& x, const Tensor& bias) const {
    const auto parts = qkv(x).chunk(3, -1);
    return o(attention(parts[0], parts[1].flip(1), parts[2].flip(1), c.heads, bias, 1.0));
  }
};

struct FeedForward : Block<Config> {
  using Block::Block;
  Linear wi_0{w / "wi_0", c.width, c.hidden, Bias::none, Epilogue::gelu_tanh};
  Linear wi_1{w / "wi_1", c.width, c.hidden, Bias::none};
  Linear wo{w / "wo", c.hidden, c.width, Bias::none};
  // T5-XXL's sums pass the largest fp16, so its products are summed at a 64th of their size.
  double shrink = w.compute().dtype == at::kHalf ? 64 : 1;

  // y += feed_forward(x); x [1, T, C], y the same in fp32
  void add_to(Tensor& y, const Tensor& x) const {
    Tensor gated = wi_0(x).mul_(wi_1(x));
    if (shrink != 1) gated.div_(shrink);
    y.add_(wo(gated), shrink);
  }
};

struct Layer : Block<Config> {
  using Block::Block;
  RmsNorm attention_norm{w / "layer" / "0" / "layer_norm", c.width, kEps};
  SelfAttention self_attention{w / "layer" / "0" / "SelfAttention", c};
  RmsNorm feed_forward_norm{w / "layer" / "1" / "layer_norm", c.width, kEps};
  FeedForward feed_forward{w / "layer" / "1" / "DenseReluDense", c};

  // x [1, T, C] fp32, changed in place
  void operator()(Tensor& x, const Tensor& bias) const {
    x.add_(self_attention(attention_norm(x), bias));
    feed_forward.add_to(x, feed_forward_norm(x));
  }
};

struct T5 : Block<Config> {
  using Block::Block;
  nn::Embedding shared{w / "shared", c.vocabulary, c.width};
  RelativeBias bias{
      w / "encoder" / "block" / "0" / "layer" / "0" / "SelfAttention" / "relative_attention_bias",
      c};
  Stack<Layer> layers{w / "encoder" / "block", c.depth, c};
  RmsNorm final_layer_norm{w / "encoder" / "final_layer_norm", c.width, kEps};

  // -> [1, T, C] fp32: sums of blocks pass what 16 bits hold
  Tensor embed(const TokenChunk& chunk) const {
    const at::Device device = w.compute().device.torch();
    Tensor x = shared(at::tensor(chunk.ids, at::kLong).to(device)).to(at::kFloat);
    for (const TokenVector& vector : chunk.vectors) x[vector.position].copy_(vector.values);
    return x.unsqueeze(0);
  }

  // -> [1, T, C]
  Tensor operator()(const TokenChunk& chunk, const TextOptions& options) const {
    Tensor x = embed(chunk);
    const Tensor distances = bias(x.size(1));
    const size_t count = layer_count(options.layer);
    for (size_t i = 0; i < count; ++i) layers[i](x, distances);
    return options.final_norm ? final_layer_norm(x) : x;
  }

  // How many layers to run: counted from the end; past the first or the last: all.
  size_t layer_count(int layer) const {
    const int64_t count = c.depth + 1 + layer;
    return static_cast<size_t>(count < 1 ? c.depth : std::min(count, c.depth));
  }
};

class T5Encoder final : public Loaded<TextEncoder, Config, T5> {
 public:
  using Loaded::Loaded;
  int64_t width() const override { return config().width; }
  int64_t positions() const override { return kMostTokens; }

  TextEncoding encode(std::span<const TokenChunk> chunks,
                      const TextOptions& options) const override {
    check_any(chunks);
    const ChunkLimits limits{config().vocabulary, width(), positions()};
    std::vector<Tensor> hidden;
    for (const TokenChunk& chunk : chunks) {
      check_chunk(chunk, chunks.front().ids.size(), limits);
      hidden.push_back(net()(chunk, options).to(at::kCPU, at::kFloat));
    }
    return {at::cat(hidden), {}};
  }
};

constexpr std::string_view kBias = "layer.0.SelfAttention.relative_attention_bias.weight";

Config config_of(const Scope& w) {
  const Scope first = w / "encoder" / "block" / "0";
  const Shape tokens = checked_shape(w, "shared.weight", 2);
  Config c;
  c.vocabulary = tokens[0];
  c.width = tokens[1];
  c.inner = checked_shape(first, "layer.0.SelfAttention.q.weight", 2)[0];
  c.hidden = checked_shape(first, "layer.1.DenseReluDense.wi_0.weight", 2)[0];
  c.heads = checked_shape(first, kBias, 2)[1];
  if (c.inner % c.heads != 0)
    throw Error(ErrorCode::mismatch, {.subject = first.name() + "layer.0.SelfAttention.q.weight",
                                      .expected = std::to_string(c.heads) + " equal heads",
                                      .found = std::to_string(c.inner) + " rows"});
  c.depth = w.count("encoder.block", "layer.0.SelfAttention.q.weight");
  return c;
}

constexpr KeyRule kTransformers[] = {
    {.canonical = "shared.weight",
     .sources = {"encoder.embed_tokens.weight"},
     .when = "encoder.embed_tokens.weight",
     .unless = "shared.weight"},
    // What writing equal tensors once may leave.
    {.canonical = "shared.weight",
     .sources = {"decoder.embed_tokens.weight"},
     .unless = "shared.weight"},
};

constexpr KeyRule kLlama[] = {
    {"shared", {"token_embd"}},
    {"encoder.final_layer_norm", {"enc.output_norm"}},
    {"encoder.block.{a}.layer.0.layer_norm", {"enc.blk.{a}.attn_norm"}},
    {"encoder.block.{a}.layer.0.SelfAttention.q", {"enc.blk.{a}.attn_q"}},
    {"encoder.block.{a}.layer.0.SelfAttention.k", {"enc.blk.{a}.attn_k"}},
    {"encoder.block.{a}.layer.0.SelfAttention.v", {"enc.blk.{a}.attn_v"}},
    {"encoder.block.{a}.layer.0.SelfAttention.o", {"enc.blk.{a}.attn_o"}},
    {"encoder.block.{a}.layer.0.SelfAttention.relative_attention_bias", {"enc.blk.{a}.attn_rel_b"}},
    {"encoder.block.{a}.layer.1.layer_norm", {"enc.blk.{a}.ffn_norm"}},
    {"encoder.block.{a}.layer.1.DenseReluDense.wi_0", {"enc.blk.{a}.ffn_gate"}},
    {"encoder.block.{a}.layer.1.DenseReluDense.wi_1", {"enc.blk.{a}.ffn_up"}},
    {"encoder.block.{a}.layer.1.DenseReluDense.wo", {"enc.blk.{a}.ffn_down"}},
};

constexpr KeyLayout kLayouts[] = {
    {"transformers", "encoder.block.0.layer.0.SelfAttention.q.weight", kTransformers},
    {"llama.cpp", "enc.blk.0.attn_q.weight", kLlama},
};

// The other half of a whole T5, copies of the embedding, and a tokenizer and a mark some files
// carry.
constexpr std::string_view kIgnore[] = {"encoder.embed_tokens.weight",
                                        "decoder.*",
                                        "lm_head.*",
                                        "dec.*",
                                        "output.weight",
                                        "spiece_model",
                                        "logit_scale"};

// Gated, and with one table of distances for all blocks: neither the first T5 nor UMT5.
bool fits_t5(const Scope& w) {
  const Scope blocks = w / "encoder" / "block";
  return (blocks / "0").has("layer.1.DenseReluDense.wi_0.weight") && !(blocks / "1").has(kBias);
}

constexpr QuantRule kQuantisation[] = {
    {"relative_attention_bias", QuantRole::keep},
    {"SelfAttention.v.", QuantRole::value},
    {"DenseReluDense.wo.", QuantRole::down},
};

}  // namespace

const PartDef<TextEncoder> t5xxl_encoder{
    .name = "t5xxl",
    .layouts = kLayouts,
    .ignore = kIgnore,
    .fits = fits_t5,
    .build = [](const Scope& w) -> std::unique_ptr<TextEncoder> {
      return std::make_unique<T5Encoder>(config_of(w), w);
    },
    .quantisation = kQuantisation,
    .gguf_architecture = "t5encoder",
};

}  // namespace atelier
