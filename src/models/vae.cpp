// AutoencoderKL: the picture autoencoder of Stable Diffusion, SDXL and their descendants.
// Source: CompVis/latent-diffusion ldm/modules/diffusionmodules/model.py,
// ldm/models/autoencoder.py; diffusers' AutoencoderKL for its names. Shapes: B batch, C channels, H
// x W pixels of a level, Z latent channels; level 0 is the finest.
#include <fmt/format.h>

#include <algorithm>
#include <optional>
#include <vector>

#include "base/error.h"
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

  // [B, in, H, W] -> [B, out, H, W]; may reuse x's memory
  Tensor operator()(Tensor x) const {
    Tensor h = conv1(norm1.silu(x));
    if (nin_shortcut) x = (*nin_shortcut)(x);
    h = norm2.silu(h);
    conv2.add_to(x, h);
    return x;
  }
};

struct Attention : Block<Config> {
  Attention(Scope scope, const Config& config, int64_t width)
      : Block(std::move(scope), config),
        norm(w / "norm", width, kEps),
        qkv(w, {"q", "k", "v"}, width, width),
        proj_out(w / "proj_out", width, width) {}
  GroupNorm norm;
  Linear qkv, proj_out;

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
    return conv_out(norm_out.silu(h));
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
    h = norm_out.silu(h);
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
    return peak_bytes(config().decoder, height, width);
  }
  Bytes encode_bytes(int64_t height, int64_t width) const override {
    return peak_bytes(config().encoder, height, width);
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

  // At a level's entrance a residual block holds its input, the normed input and the output; the
  // finest level but one, doubled, comes in at the width of the level below.
  Bytes peak_bytes(const HalfConfig& half, int64_t height, int64_t width) const {
    int64_t most = 0;
    for (size_t i = 0; i < half.levels(); ++i) {
      const int64_t in = half.widths[std::min(i + 1, half.levels() - 1)];
      const int64_t pixels = (height >> i) * (width >> i);
      most = std::max(most, pixels * (2 * std::max(in, half.widths[i]) + half.widths[i]));
    }
    const auto size = static_cast<int64_t>(c10::elementSize(compute_.dtype));
    return Bytes(most * size);
  }

  Compute compute_;
};

HalfConfig half_of(const Scope& w, std::string_view levels) {
  HalfConfig half;
  const int64_t count = w.count(levels, "block.0.norm1.weight");
  for (int64_t i = 0; i < count; ++i)
    half.widths.push_back(w.shape(fmt::format("{}.{}.block.0.conv1.weight", levels, i))[0]);
  half.blocks = w.count(fmt::format("{}.0.block", levels), "norm1.weight");
  return half;
}

Config config_of(const Scope& w) {
  Config c;
  c.encoder = half_of(w / "encoder", "down");
  c.decoder = half_of(w / "decoder", "up");
  c.latent = w.shape("decoder.conv_in.weight")[1];
  c.moments = w.shape("encoder.conv_out.weight")[0];
  c.quant = w.has("quant_conv.weight");
  c.post_quant = w.has("post_quant_conv.weight");
  return c;
}
