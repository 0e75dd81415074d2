// The UNet of Stable Diffusion 1.x, 2.x, XL and its refiner, with inpainting and editing variants.
// Source: CompVis/stable-diffusion ldm/modules/diffusionmodules/openaimodel.py and
//   ldm/modules/attention.py, Stability-AI/generative-models for XL; names as in those releases.
// Shapes: B batch, C channels, H W cells of a level, N = H W tokens, D prompt width, E embedding.
#include <ATen/ATen.h>

#include <algorithm>
#include <optional>
#include <vector>

#include "models/unet.h"
#include "nn/attention.h"
#include "nn/layers.h"

namespace atelier {
namespace {

using at::Tensor;
using namespace nn;

struct ResBlock : Block<UNetConfig> {
  ResBlock(Scope scope, const UNetConfig& config, int64_t in, int64_t out, LinearParts& shifts)
      : Block(std::move(scope), config),
        norm1(w / "in_layers" / "0", in),
        conv1(w / "in_layers" / "2", in, out),
        shift(shifts.add(w / "emb_layers" / "1", c.embedding, out)),
        norm2(w / "out_layers" / "0", out),
        conv2(w / "out_layers" / "3", out, out) {
    if (in != out) shortcut.emplace(w / "skip_connection", in, out, k1x1);
  }
  GroupNorm norm1;
  Conv2d conv1;
  LinearPart shift;
  GroupNorm norm2;
  Conv2d conv2;
  std::optional<Conv2d> shortcut;

  // x [B, C, H, W], perhaps with a skip to be joined -> [B, out, H, W], a tensor of its own
  Tensor operator()(const Tensor& x, const Tensor& skip, const Tensor& shifts) const {
    auto [h, joined] = norm1.silu_joined(x, skip);
    h = conv1(h, shift.of(shifts));
    h = norm2.silu(h);
    Tensor y = shortcut ? (*shortcut)(joined) : joined.clone();
    conv2.add_to(y, h);
    return y;
  }
};

struct TransformerBlock : Block<UNetConfig> {
  TransformerBlock(Scope scope, const UNetConfig& config, int64_t width)
      : Block(std::move(scope), config),
        norm1(w / "norm1", width),
        attn1(w / "attn1", width, c.heads(width)),
        norm2(w / "norm2", width),
        attn2(w / "attn2", width, c.traits.context_width, c.heads(width)),
        norm3(w / "norm3", width),
        ff(w / "ff", width, 4 * width) {}
  LayerNorm norm1;
  SelfAttention attn1;
  LayerNorm norm2;
  CrossAttention attn2;
  LayerNorm norm3;
  GegluFeedForward ff;

  // h [B, N, C], in place
  void operator()(Tensor& h, const Context& context) const {
    attn1.add_to(h, norm1(h));
    attn2.add_to(h, norm2(h), context);
    ff.add_to(h, norm3);
  }
};

struct SpatialTransformer : Block<UNetConfig> {
  SpatialTransformer(Scope scope, const UNetConfig& config, int64_t width, int64_t depth)
      : Block(std::move(scope), config),
        norm(w / "norm", width, 1e-6),
        proj_in(w / "proj_in", width, width),
        blocks(w / "transformer_blocks", depth, c, width),
        proj_out(w / "proj_out", width, width) {}
  GroupNorm norm;
  Linear proj_in;
  Stack<TransformerBlock> blocks;
  ResidualLinear proj_out;

  // x [B, C, H, W], in place and returned
  Tensor operator()(const Tensor& x, const Context& context) const {
    Tensor h = proj_in(tokens(norm(x)));
    for (const TransformerBlock& block : blocks) block(h, context);
    Tensor y = tokens(x);
    proj_out.add_to(y, h);
    return picture(y, x.size(2), x.size(3));
  }
};

// One numbered block of the way down or up.
struct Stage : Block<UNetConfig> {
  Stage(Scope scope, const UNetConfig& config, const UNetStage& s, LinearParts& shifts)
      : Block(std::move(scope), config) {
    if (s.kind == UNetStage::Kind::halving) {
      halve.emplace(w / "0" / "op", s.in, s.out, kHalving);
      return;
    }
    res.emplace(w / "0", c, s.in, s.out, shifts);
    if (s.depth) transformer.emplace(w / "1", c, s.out, s.depth);
    if (s.upsample) upsample.emplace(w / s.upsample / "conv", s.out, s.out);
  }
  std::optional<Conv2d> halve;
  std::optional<ResBlock> res;
  std::optional<SpatialTransformer> transformer;
  std::optional<UpsampleConv> upsample;

  Tensor operator()(const Tensor& x, const Tensor& skip, const Tensor& shifts,
                    const Context& context) const {
    if (halve) return (*halve)(x);
    const Tensor h = (*res)(x, skip, shifts);
    return transformer ? (*transformer)(h, context) : h;
  }
};

struct Middle : Block<UNetConfig> {
  Middle(Scope scope, const UNetConfig& config, LinearParts& shifts)
      : Block(std::move(scope), config), first(w / "0", c, c.middle_width, c.middle_width, shifts) {
    if (!c.middle_depth) return;
    transformer.emplace(w / "1", c, c.middle_width, c.middle_depth);
    second.emplace(w / "2", c, c.middle_width, c.middle_width, shifts);
  }
  ResBlock first;
  std::optional<SpatialTransformer> transformer;
  std::optional<ResBlock> second;

  Tensor operator()(const Tensor& x, const Tensor& shifts, const Context& context) const {
    Tensor h = first(x, {}, shifts);
    if (transformer) h = (*transformer)(h, context);
    return second ? (*second)(h, {}, shifts) : h;
  }
};

// linear, silu, linear: of the time step, and of the vector.
struct Embed : Block<UNetConfig> {
  Embed(Scope scope, const UNetConfig& config, int64_t in)
      : Block(std::move(scope), config),
        first(w / "0", in, c.embedding, Bias::with, Epilogue::silu),
        second(w / "2", c.embedding, c.embedding) {}
  VectorLinear first, second;
  Tensor operator()(const Tensor& x) const { return second(first(x)); }
};

struct UNet : Block<UNetConfig> {
  UNet(Scope scope, const UNetConfig& config) : Block(std::move(scope), config) {
    if (c.traits.vector_width) label_embed.emplace(w / "label_emb" / "0", c, c.traits.vector_width);
    for (size_t i = 0; i < c.input.size(); ++i)
      down.emplace_back(w / "input_blocks" / static_cast<int64_t>(i + 1), c, c.input[i], parts);
    middle.emplace(w / "middle_block", c, parts);
    for (size_t i = 0; i < c.output.size(); ++i)
      up.emplace_back(w / "output_blocks" / static_cast<int64_t>(i), c, c.output[i], parts);
    shifts_of.emplace(parts);
  }
  Embed time_embed{w / "time_embed", c, c.base};
  std::optional<Embed> label_embed;
  Conv2d conv_in{w / "input_blocks" / "0" / "0", c.traits.in_channels, c.base};
  LinearParts parts;
  std::vector<Stage> down;
  std::optional<Middle> middle;
  std::vector<Stage> up;
  GroupNorm norm_out{w / "out" / "0", c.base};
  Conv2d conv_out{w / "out" / "2", c.base, c.traits.out_channels};
  std::optional<VectorLinear> shifts_of;  // the time projection of every residual block

  // What each residual block adds to its channels: [B, all blocks' channels], fp32
  Tensor shifts(const DiffusionInput& in) const {
    const auto dtype = in.x.scalar_type();
    Tensor embedding = time_embed(timestep_embedding(in.timestep, c.base).to(dtype));
    if (label_embed) embedding = embedding + (*label_embed)(in.vector);
    return (*shifts_of)(at::silu(embedding)).to(at::kFloat);
  }

  Tensor operator()(const DiffusionInput& in) const {
    const auto observed = [&](const Scope& block, Tensor h) {
      if (in.observe) in.observe(block.name().substr(0, block.name().size() - 1), h);
      return h;
    };
    const Tensor shift = shifts(in);
    Tensor h = observed(w / "input_blocks" / "0", conv_in(in.x));
    std::vector<Tensor> skips{h};
    for (const Stage& stage : down)
      skips.push_back(h = observed(stage.w, stage(h, {}, shift, in.context)));
    h = observed(middle->w, (*middle)(h, shift, in.context));
    for (const Stage& stage : up) {
      h = stage(h, std::exchange(skips.back(), {}), shift, in.context);
      skips.pop_back();
      if (stage.upsample) h = (*stage.upsample)(h, skips.back().size(2), skips.back().size(3));
      observed(stage.w, h);
    }
    return conv_out(norm_out.silu(h));
  }
};

class UNetModel final : public Loaded<DiffusionModel, UNetConfig, UNet> {
 public:
  using Loaded::Loaded;
  const ModelTraits& traits() const override { return config().traits; }
  // The skips held so far, and what the fullest stage needs beside them: a residual block its
  // input, normed and joined, and three results; a transformer six rows per token and the hidden
  // rows of a piece of its feed-forward layer.
  Bytes activation_bytes(int64_t batch, int64_t height, int64_t width) const override {
    const UNetConfig& c = config();
    int64_t cells = batch * height * width, skips = c.base * cells, peak = 0;
    std::vector<int64_t> held{skips};
    const auto stage = [&](const UNetStage& s) {
      const int64_t residual = (3 * s.in + 3 * s.out) * cells;
      const int64_t transformer = s.depth ? 8 * s.out * (cells + std::min(cells, kHiddenRows)) : 0;
      peak = std::max(peak, skips + std::max(residual, transformer));
    };
    for (const UNetStage& s : c.input) {
      if (s.kind == UNetStage::Kind::halving) cells = (cells + 3) / 4;
      stage(s);
      held.push_back(s.out * cells);
      skips += held.back();
    }
    for (const UNetStage& s : c.output) {
      stage(s);
      skips -= held.back();
      held.pop_back();
      if (s.upsample) cells *= 4;
    }
    return Bytes(peak * static_cast<int64_t>(c10::elementSize(compute().dtype))) + 64_MiB;
  }
  double operations(int64_t batch, int64_t height, int64_t width) const override {
    double sum = 0;
    for_each_stage(height * width,
                   [&](const UNetStage& s, int64_t cells) { sum += stage_operations(s, cells); });
    return static_cast<double>(batch) * sum;
  }
  // The prompt in fp32 and in the compute dtype, and every layer's keys and values, which kernels
  // of 16-bit types keep in tiles: whole ones of tokens and of each head's channels.
  Bytes prompt_bytes(int64_t batch, int64_t tokens) const override {
    const auto element = static_cast<int64_t>(c10::elementSize(compute().dtype));
    const int64_t tile = element == 2 ? 32 : 1;
    const auto tiled = [&](int64_t count) { return (count + tile - 1) / tile * tile; };
    int64_t each = (4 + element) * config().traits.context_width;
    for_each_stage(0, [&](const UNetStage& s, int64_t) {
      const int64_t heads = config().heads(s.out).count;
      each += 2 * element * s.depth * heads * tiled(s.out / heads);
    });
    return Bytes(batch * tiled(tokens) * each);
  }
  // Attention of the picture to the prompt.
  double prompt_operations(int64_t batch, int64_t height, int64_t width,
                           int64_t tokens) const override {
    double sum = 0;
    for_each_stage(height * width, [&](const UNetStage& s, int64_t cells) {
      sum += 4 * static_cast<double>(cells) * static_cast<double>(s.depth * s.out);
    });
    return static_cast<double>(batch * tokens) * sum;
  }

 private:
  // `call` with every stage, the middle's two included, and the cells it works on.
  template <class Call>
  void for_each_stage(int64_t cells, const Call& call) const {
    const UNetConfig& c = config();
    for (const UNetStage& s : c.input) {
      if (s.kind == UNetStage::Kind::halving) cells = (cells + 3) / 4;
      call(s, cells);
    }
    UNetStage middle{.in = c.middle_width, .out = c.middle_width, .depth = c.middle_depth};
    call(middle, cells);
    if (std::exchange(middle.depth, 0) > 0) call(middle, cells);
    for (const UNetStage& s : c.output) {
      call(s, cells);
      if (s.upsample) cells *= 4;
    }
  }
  // A residual block's two kernels and the step between widths, and of a transformer the ways in
  // and out, 18 squares of the width for each layer and token, and the attention of a picture to
  // itself.
  static double stage_operations(const UNetStage& s, int64_t cells) {
    const auto n = static_cast<double>(cells), in = static_cast<double>(s.in);
    const auto out = static_cast<double>(s.out), depth = static_cast<double>(s.depth);
    if (s.kind == UNetStage::Kind::halving) return n * 18 * in * out;
    const double residual = 18 * (in * out + out * out) + (s.in == s.out ? 0 : 2 * in * out);
    const double layers = depth * (36 * out * out + 4 * n * out);
    const double upsample = s.upsample ? 4 * 18 * out * out : 0;
    return n * (residual + layers + (s.depth ? 4 * out * out : 0) + upsample);
  }
  // Rows that a feed-forward layer widens at a time.
  static constexpr int64_t kHiddenRows = 2048;
  Tensor run(const DiffusionInput& in) const override { return net()(in); }
  const Compute& compute() const override { return net().w.compute(); }
};

}  // namespace

std::unique_ptr<DiffusionModel> make_unet(UNetConfig config, const Scope& w) {
  return std::make_unique<UNetModel>(std::move(config), w);
}

}  // namespace atelier
