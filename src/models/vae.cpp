// AutoencoderKL: the picture autoencoder of Stable Diffusion, SDXL and their descendants.
// Source: CompVis/latent-diffusion ldm/modules/diffusionmodules/model.py,
// ldm/models/autoencoder.py; diffusers' AutoencoderKL for its names. Shapes: B batch, C channels, H
// x W pixels of a level, Z latent channels; level 0 is the finest.
#include <fmt/format.h>

#include <algorithm>
#include <optional>
#include <vector>

#include "base/error.h"
#include "models/config_reading.h"
#include "models/vae.h"
#include "nn/attention.h"
#include "nn/layers.h"

namespace atelier {
namespace {

using namespace nn;

constexpr double kEps = 1e-6;

// One half, encoder or decoder.
struct HalfConfig {
  std::vector<int64_t> widths;  // by level
  int64_t blocks = 2;  // residual blocks of a level
  int64_t deepest() const { return widths.back(); }
  size_t levels() const { return widths.size(); }
};

struct Config {
  HalfConfig encoder, decoder;
  int64_t latent = 4;  // Z
  int64_t moments = 8;  // channels the encoder ends with: mean, and logarithm of the variance
  bool quant = true, post_quant = true;
};

struct ResBlock : Block<Config> {
  ResBlock(Scope scope, const Config& config, int64_t in, int64_t out)
      : Block(std::move(scope), config),
        norm1(w / "norm1", in, kEps),
        conv1(w / "conv1", in, out),
        norm2(w / "norm2", out, kEps),
        conv2(w / "conv2", out, out) {
    if (in != out) nin_shortcut.emplace(w / "nin_shortcut", in, out, k1x1);
  }
  GroupNorm norm1;
  Conv2d conv1;
  GroupNorm norm2;
  Conv2d conv2;
  std::optional<Conv2d> nin_shortcut;

  // [B, in, H, W] -> [B, out, H, W]; uses x's memory
  Tensor operator()(Tensor x) const {
    Tensor y = nin_shortcut ? (*nin_shortcut)(x) : x;
    Tensor h = std::move(x);
    if (nin_shortcut)
      norm1.silu_in_place(h);
    else
      h = norm1.silu(h);
    h = conv1(h);
    norm2.silu_in_place(h);
    conv2.add_to(y, h);
    return y;
  }
};

struct Attention : Block<Config> {
  Attention(Scope scope, const Config& config, int64_t width)
      : Block(std::move(scope), config),
        norm(w / "norm", width, kEps),
        qkv(w, {"q", "k", "v"}, width, width),
        proj_out(w / "proj_out", width, width) {}
  GroupNorm norm;
  Linear qkv;
  ResidualLinear proj_out;

  // [B, C, H, W] -> same, in x's memory
  Tensor operator()(const Tensor& x) const {
    const auto parts = qkv(tokens(norm(x))).chunk(3, -1);
    Tensor y = tokens(x);
    proj_out.add_to(y, attention(parts[0], parts[1], parts[2], 1));
    return picture(y, x.size(2), x.size(3));
  }
};

struct Middle : Block<Config> {
  Middle(Scope scope, const Config& config, int64_t width)
      : Block(std::move(scope), config),
        block_1(w / "block_1", c, width, width),
        attn_1(w / "attn_1", c, width),
        block_2(w / "block_2", c, width, width) {}
  ResBlock block_1;
  Attention attn_1;
  ResBlock block_2;
  Tensor operator()(Tensor x) const { return block_2(attn_1(block_1(std::move(x)))); }
};

std::vector<ResBlock> res_blocks(const Scope& w, const Config& c, int64_t count, int64_t in,
                                 int64_t out) {
  std::vector<ResBlock> blocks;
  for (int64_t i = 0; i < count; ++i) blocks.emplace_back(w / i, c, i == 0 ? in : out, out);
  return blocks;
}

// A 3x3 convolution of stride 2 whose only zeros are right and below.
struct Downsample : Block<Config> {
  Downsample(Scope scope, const Config& config, int64_t width)
      : Block(std::move(scope), config),
        conv(w / "conv", width, width, {.kernel = 3, .stride = 2, .padding = 0}) {}
  Conv2d conv;
  // [B, C, H, W] -> [B, C, H/2, W/2]
  Tensor operator()(const Tensor& x) const { return conv(at::constant_pad_nd(x, {0, 1, 0, 1})); }
};

struct DownLevel : Block<Config> {
  DownLevel(Scope scope, const Config& config, int64_t in, int64_t out, bool halve)
      : Block(std::move(scope), config),
        block(res_blocks(w / "block", c, c.encoder.blocks, in, out)) {
    if (halve) downsample.emplace(w / "downsample", c, out);
  }
  std::vector<ResBlock> block;
  std::optional<Downsample> downsample;
  Tensor operator()(Tensor x) const {
    for (const ResBlock& b : block) x = b(std::move(x));
    return downsample ? (*downsample)(x) : x;
  }
};

struct UpLevel : Block<Config> {
  UpLevel(Scope scope, const Config& config, int64_t in, int64_t out, bool twice)
      : Block(std::move(scope), config),
        block(res_blocks(w / "block", c, c.decoder.blocks, in, out)) {
    if (twice) upsample.emplace(w / "upsample" / "conv", out, out);
  }
  std::vector<ResBlock> block;
  std::optional<UpsampleConv> upsample;
  Tensor operator()(Tensor x) const {
    for (const ResBlock& b : block) x = b(std::move(x));
    return upsample ? (*upsample)(x) : x;
  }
};

struct Encoder : Block<Config> {
  using Block::Block;
  const HalfConfig& half = c.encoder;
  Conv2d conv_in{w / "conv_in", 3, half.widths[0]};
  std::vector<DownLevel> down = levels();
  Middle mid{w / "mid", c, half.deepest()};
  GroupNorm norm_out{w / "norm_out", half.deepest(), kEps};
  Conv2d conv_out{w / "conv_out", half.deepest(), c.moments};

  std::vector<DownLevel> levels() const {
    std::vector<DownLevel> result;
    int64_t in = half.widths[0];
    for (size_t i = 0; i < half.levels(); in = half.widths[i++])
      result.emplace_back(w / "down" / static_cast<int64_t>(i), c, in, half.widths[i],
                          i + 1 < half.levels());
    return result;
  }
  // [B, 3, H, W] -> [B, moments, H/f, W/f]
  Tensor operator()(const Tensor& x) const {
    Tensor h = conv_in(x);
    for (const DownLevel& level : down) h = level(std::move(h));
    h = mid(std::move(h));
    norm_out.silu_in_place(h);
    return conv_out(h);
  }
};

struct Decoder : Block<Config> {
  using Block::Block;
  const HalfConfig& half = c.decoder;
  Conv2d conv_in{w / "conv_in", c.latent, half.deepest()};
  Middle mid{w / "mid", c, half.deepest()};
  std::vector<UpLevel> up = levels();  // the deepest first
  GroupNorm norm_out{w / "norm_out", half.widths[0], kEps};
  Conv2d conv_out{w / "conv_out", half.widths[0], 3};

  std::vector<UpLevel> levels() const {
    std::vector<UpLevel> result;
    int64_t in = half.deepest();
    for (size_t i = half.levels(); i-- > 0; in = half.widths[i])
      result.emplace_back(w / "up" / static_cast<int64_t>(i), c, in, half.widths[i], i > 0);
    return result;
  }
  // [B, Z, h, w] -> [B, 3, f h, f w]
  Tensor operator()(const Tensor& z) const {
    Tensor h = mid(conv_in(z));
    for (const UpLevel& level : up) h = level(std::move(h));
    norm_out.silu_in_place(h);
    return conv_out(h);
  }
};

struct Autoencoder : Block<Config> {
  using Block::Block;
  Encoder encoder{w / "encoder", c};
  Decoder decoder{w / "decoder", c};
  std::optional<Conv2d> quant_conv = pointwise("quant_conv", c.quant, c.moments);
  std::optional<Conv2d> post_quant_conv = pointwise("post_quant_conv", c.post_quant, c.latent);

  std::optional<Conv2d> pointwise(std::string_view name, bool present, int64_t width) const {
    if (!present) return {};
    return std::optional<Conv2d>(std::in_place, w / name, width, width, k1x1);
  }
  Tensor decode(const Tensor& z) const {
    return decoder(post_quant_conv ? (*post_quant_conv)(z) : z);
  }
  // The posterior's mean.
  Tensor encode(const Tensor& x) const {
    const Tensor moments = encoder(x);
    return (quant_conv ? (*quant_conv)(moments) : moments).narrow(1, 0, c.latent);
  }
};

class KlVae final : public Loaded<Vae, Config, Autoencoder> {
 public:
  KlVae(Config config, const Scope& w) : Loaded(std::move(config), w), compute_(w.compute()) {}
  int64_t latent_channels() const override { return config().latent; }
  int64_t factor() const override { return int64_t{1} << (config().decoder.levels() - 1); }

  Tensor decode(const Tensor& latent) const override {
    check_latent(*this, latent);
    return by_element(latent, [&](const Tensor& z) { return net().decode(z); });
  }
  Tensor encode(const Tensor& picture) const override {
    check_picture(*this, picture);
    return by_element(picture, [&](const Tensor& x) { return net().encode(x); });
  }
  Bytes decode_bytes(int64_t height, int64_t width) const override {
    // Doubling holds a level's state, its phases and the doubled picture.
    const HalfConfig& half = config().decoder;
    int64_t most = 0, in = half.deepest();
    for (size_t i = half.levels(); i-- > 0; in = half.widths[i]) {
      const int64_t pixels = (height >> i) * (width >> i), out = half.widths[i];
      most = std::max({most, pixels * block_elements(in, out), i > 0 ? 9 * pixels * out : 0});
    }
    return in_bytes(most);
  }
  Bytes encode_bytes(int64_t height, int64_t width) const override {
    const HalfConfig& half = config().encoder;
    int64_t most = 0, in = half.widths[0];
    for (size_t i = 0; i < half.levels(); in = half.widths[i++])
      most = std::max(most, (height >> i) * (width >> i) * block_elements(in, half.widths[i]));
    return in_bytes(most);
  }

 private:
  template <class F>
  Tensor by_element(const Tensor& batch, const F& f) const {
    std::vector<Tensor> results;
    for (int64_t i = 0; i < batch.size(0); ++i) {
      const Tensor x = batch.narrow(0, i, 1)
                           .to(compute_.device.torch(), compute_.dtype)
                           .contiguous(at::MemoryFormat::ChannelsLast);
      results.push_back(f(x).to(at::kCPU, at::kFloat).contiguous());
    }
    return at::cat(results);
  }

  // A residual block holds the state it adds to, a normed state and its product.
  static int64_t block_elements(int64_t in, int64_t out) { return 2 * out + std::max(in, out); }
  Bytes in_bytes(int64_t elements) const {
    return Bytes(elements * static_cast<int64_t>(c10::elementSize(compute_.dtype)));
  }

  Compute compute_;
};

HalfConfig half_of(const Scope& w, std::string_view levels) {
  HalfConfig half;
  const int64_t count = w.count(levels, "block.0.norm1.weight");
  for (int64_t i = 0; i < count; ++i)
    half.widths.push_back(
        checked_shape(w, fmt::format("{}.{}.block.0.conv1.weight", levels, i), 4)[0]);
  half.blocks = w.count(fmt::format("{}.0.block", levels), "norm1.weight");
  const bool divides = std::ranges::all_of(half.widths, [](int64_t n) { return n % 32 == 0; });
  if (count < 1 || count > 8 || !divides)
    throw Error(ErrorCode::mismatch, {.subject = w.name() + std::string(levels),
                                      .expected = "1 to 8 levels whose widths are multiples of 32",
                                      .found = to_string(half.widths)});
  return half;
}

Config config_of(const Scope& w) {
  Config c;
  c.encoder = half_of(w / "encoder", "down");
  c.decoder = half_of(w / "decoder", "up");
  c.latent = checked_shape(w, "decoder.conv_in.weight", 4)[1];
  c.moments = checked_shape(w, "encoder.conv_out.weight", 4)[0];
  c.quant = w.has("quant_conv.weight");
  c.post_quant = w.has("post_quant_conv.weight");
  if (c.moments < c.latent)
    throw Error(ErrorCode::mismatch, {.subject = "encoder.conv_out.weight",
                                      .expected = fmt::format("at least {} rows", c.latent),
                                      .found = std::to_string(c.moments)});
  return c;
}

// Levels of the decoder count from the coarsest in diffusers' names: R is one more than their
// number.
constexpr KeyRule kDiffusers[] = {
    {"encoder.down.{a}.block.{b}.nin_shortcut",
     {"encoder.down_blocks.{a}.resnets.{b}.conv_shortcut"}},
    {"encoder.down.{a}.block.{b}.*", {"encoder.down_blocks.{a}.resnets.{b}.*"}},
    {"encoder.down.{a}.downsample.*", {"encoder.down_blocks.{a}.downsamplers.0.*"}},
    {"encoder.mid.block_{a+1}.*", {"encoder.mid_block.resnets.{a}.*"}},
    {"encoder.mid.attn_1.norm", {"encoder.mid_block.attentions.0.group_norm"}},
    {"encoder.mid.attn_1.q", {"encoder.mid_block.attentions.0.to_q"}},
    {"encoder.mid.attn_1.k", {"encoder.mid_block.attentions.0.to_k"}},
    {"encoder.mid.attn_1.v", {"encoder.mid_block.attentions.0.to_v"}},
    {"encoder.mid.attn_1.proj_out", {"encoder.mid_block.attentions.0.to_out.0"}},
    {"encoder.norm_out", {"encoder.conv_norm_out"}},
    {"decoder.up.{R-2-a}.block.{b}.nin_shortcut",
     {"decoder.up_blocks.{a}.resnets.{b}.conv_shortcut"}},
    {"decoder.up.{R-2-a}.block.{b}.*", {"decoder.up_blocks.{a}.resnets.{b}.*"}},
    {"decoder.up.{R-2-a}.upsample.*", {"decoder.up_blocks.{a}.upsamplers.0.*"}},
    {"decoder.mid.block_{a+1}.*", {"decoder.mid_block.resnets.{a}.*"}},
    {"decoder.mid.attn_1.norm", {"decoder.mid_block.attentions.0.group_norm"}},
    {"decoder.mid.attn_1.q", {"decoder.mid_block.attentions.0.to_q"}},
    {"decoder.mid.attn_1.k", {"decoder.mid_block.attentions.0.to_k"}},
    {"decoder.mid.attn_1.v", {"decoder.mid_block.attentions.0.to_v"}},
    {"decoder.mid.attn_1.proj_out", {"decoder.mid_block.attentions.0.to_out.0"}},
    {"decoder.norm_out", {"decoder.conv_norm_out"}},
    // Names of diffusers before 0.15, still in many folders.
    {"encoder.mid.attn_1.q", {"encoder.mid_block.attentions.0.query"}},
    {"encoder.mid.attn_1.k", {"encoder.mid_block.attentions.0.key"}},
    {"encoder.mid.attn_1.v", {"encoder.mid_block.attentions.0.value"}},
    {"encoder.mid.attn_1.proj_out", {"encoder.mid_block.attentions.0.proj_attn"}},
    {"decoder.mid.attn_1.q", {"decoder.mid_block.attentions.0.query"}},
    {"decoder.mid.attn_1.k", {"decoder.mid_block.attentions.0.key"}},
    {"decoder.mid.attn_1.v", {"decoder.mid_block.attentions.0.value"}},
    {"decoder.mid.attn_1.proj_out", {"decoder.mid_block.attentions.0.proj_attn"}},
};

constexpr KeyLayout kLayouts[] = {
    {"original", "decoder.up.0.block.0.norm1.weight"},
    {"diffusers", "decoder.up_blocks.0.resnets.0.norm1.weight", kDiffusers,
     "decoder.up_blocks.{n}.resnets.0.norm1.weight"},
};

// What training leaves behind in some files.
constexpr std::string_view kIgnore[] = {"loss.*", "model_ema.*"};

}  // namespace

const PartDef<Vae> kl_vae{
    .name = "kl",
    .layouts = kLayouts,
    .ignore = kIgnore,
    .fits = [](const Scope& w) { return w.has("encoder.conv_in.weight"); },
    .build = [](const Scope& w) -> std::unique_ptr<Vae> {
      return std::make_unique<KlVae>(config_of(w), w);
    },
};

void check_latent(const Vae& vae, const Tensor& latent) {
  if (latent.dim() == 4 && latent.size(0) > 0 && latent.size(1) == vae.latent_channels() &&
      latent.size(2) > 0 && latent.size(3) > 0)
    return;
  throw Error(ErrorCode::invalid_argument,
              {.subject = "latent",
               .expected = fmt::format("[B, {}, h, w]", vae.latent_channels()),
               .found = to_string(latent.sizes().vec())});
}

void check_picture(const Vae& vae, const Tensor& picture) {
  const int64_t f = vae.factor();
  if (picture.dim() == 4 && picture.size(0) > 0 && picture.size(1) == 3 && picture.size(2) > 0 &&
      picture.size(3) > 0 && picture.size(2) % f == 0 && picture.size(3) % f == 0)
    return;
  throw Error(ErrorCode::invalid_argument,
              {.subject = "picture",
               .expected = fmt::format("[B, 3, H, W], H and W multiples of {}", f),
               .found = to_string(picture.sizes().vec())});
}

}  // namespace atelier
