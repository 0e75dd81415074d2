// FLUX.1: a rectified-flow transformer over text and image tokens.
// Source: black-forest-labs/flux src/flux/model.py and src/flux/modules/layers.py, names as in that
//   release; Esser et al. 2024, Scaling Rectified Flow Transformers.
// Shapes: B batch, L image tokens of 2x2 cells, those of pictures it looks at included, T text
// tokens, N = T + L, D hidden, M hidden of mlp.
#include <ATen/ATen.h>
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <optional>
#include <vector>

#include "base/error.h"
#include "models/config_reading.h"
#include "models/flux.h"
#include "nn/attention.h"
#include "nn/layers.h"
#include "nn/modulation.h"
#include "nn/rope.h"

namespace atelier {
namespace {

using at::Tensor;
using namespace nn;

constexpr int64_t kSinusoids = 256;
constexpr double kTimeUnit = 1000;  // of time step and guidance in their sinusoids
constexpr double kTheta = 10000;
constexpr double kDefaultGuidance = 3.5;
constexpr int64_t kPatch = 2, kPatchCells = kPatch * kPatch;

struct Config {
  ModelTraits traits;
  int64_t hidden = 3072, heads = 24, mlp = 12288;
  int64_t double_depth = 19, single_depth = 38;
  int64_t head_size() const { return hidden / heads; }
  // Channels of a head that turn by picture, row and column: 16, 56, 56 of 128.
  std::array<int64_t, 3> axes() const {
    const int64_t share = head_size() / 16;
    return {2 * share, 7 * share, 7 * share};
  }
};

struct MlpEmbedder : Block<Config> {
  MlpEmbedder(Scope scope, const Config& config, int64_t in)
      : Block(std::move(scope), config),
        in_layer(w / "in_layer", in, c.hidden, Bias::with, Epilogue::silu) {}
  VectorLinear in_layer;
  VectorLinear out_layer{w / "out_layer", c.hidden, c.hidden};
  Tensor operator()(const Tensor& x) const { return out_layer(in_layer(x)); }
};

template <size_t kParts>
struct Modulation : Block<Config> {
  using Block::Block;
  VectorLinear lin{w / "lin", c.hidden, static_cast<int64_t>(kParts) * c.hidden};
  // silu of the vector [B, D] -> kParts of [B, D]
  std::array<Tensor, kParts> operator()(const Tensor& vec) const {
    std::array<Tensor, kParts> parts;
    std::ranges::move(lin(vec).chunk(kParts, 1), parts.begin());
    return parts;
  }
};

struct Heads {
  Tensor q, k, v;  // [B, tokens, D]

  // Views of what lies side by side [B, tokens, 3D].
  static Heads of(const Tensor& qkv) {
    const auto parts = qkv.chunk(3, -1);
    return {parts[0], parts[1], parts[2]};
  }
  Heads part(int64_t first, int64_t count) const {
    return {q.narrow(1, first, count), k.narrow(1, first, count), v.narrow(1, first, count)};
  }
};

struct QkNorm : Block<Config> {
  using Block::Block;
  RmsNorm query{w / "query_norm", c.head_size(), 1e-6, "scale"};
  RmsNorm key{w / "key_norm", c.head_size(), 1e-6, "scale"};

  // q and k, each head normed and turned, into those of `to`
  void operator()(Heads& to, const Heads& from, const Rope& rope) const {
    query.turned_to(to.q, from.q, rope);
    key.turned_to(to.k, from.k, rope);
  }
};

struct StreamAttention : Block<Config> {
  using Block::Block;
  Linear qkv{w / "qkv", c.hidden, 3 * c.hidden};
  QkNorm norm{w / "norm", c};
  Linear proj{w / "proj", c.hidden, c.hidden};
  // x [B, tokens, D]
  void heads_to(Heads to, const Tensor& x, const Rope& rope) const {
    const Heads own = Heads::of(qkv(x));
    norm(to, own, rope);
    to.v.copy_(own.v);
  }
};

struct Mlp : Block<Config> {
  using Block::Block;
  Linear up{w / "0", c.hidden, c.mlp, Bias::with, Epilogue::gelu_tanh};
  Linear down{w / "2", c.mlp, c.hidden};
  Tensor operator()(const Tensor& x) const { return down(up(x)); }
};

// The last blocks' text states exceed fp16, which the reference bounds so.
void bound(Tensor& x) {
  if (x.scalar_type() == at::kHalf) x.clamp_(-65504, 65504);
}

// What a double block does to the tokens of one kind; picture and text differ in their names only.
struct Stream : Block<Config> {
  using Block::Block;
  Modulation<6> mod{w / "mod", c};
  StreamAttention attn{w / "attn", c};
  Mlp mlp{w / "mlp", c};
};

struct DoubleBlock : Block<Config> {
  using Block::Block;
  Stream img{w.prefixed("img_"), c};
  Stream txt{w.prefixed("txt_"), c};

  // xi [B, L, D] and xt [B, T, D], in place; vec [B, D]; rope of the text's tokens, then the
  // image's
  void operator()(Tensor& xi, Tensor& xt, const Tensor& vec, const Rope& rope) const {
    const auto [shift1i, scale1i, gate1i, shift2i, scale2i, gate2i] = img.mod(vec);
    const auto [shift1t, scale1t, gate1t, shift2t, scale2t, gate2t] = txt.mod(vec);
    const int64_t image = xi.size(1), text = xt.size(1);

    const auto all = [&] { return at::empty({xi.size(0), text + image, c.hidden}, xi.options()); };
    const Heads heads{all(), all(), all()};
    txt.attn.heads_to(heads.part(0, text), modulate(xt, shift1t, scale1t), rope.part(0, text));
    img.attn.heads_to(heads.part(text, image), modulate(xi, shift1i, scale1i),
                      rope.part(text, image));
    const Tensor a = attention(heads.q, heads.k, heads.v, c.heads);

    add_gated(xi, gate1i, img.attn.proj(a.narrow(1, text, image)));
    add_gated(xi, gate2i, img.mlp(modulate(xi, shift2i, scale2i)));
    add_gated(xt, gate1t, txt.attn.proj(a.narrow(1, 0, text)));
    add_gated(xt, gate2t, txt.mlp(modulate(xt, shift2t, scale2t)));
    bound(xt);
  }
};

struct SingleBlock : Block<Config> {
  using Block::Block;
  Modulation<3> modulation{w / "modulation", c};
  Linear linear1{w / "linear1", c.hidden, 3 * c.hidden + c.mlp};  // q, k, v and the mlp's way up
  QkNorm norm{w / "norm", c};
  Linear linear2{w / "linear2", c.hidden + c.mlp, c.hidden};  // proj and the mlp's way down

  // x [B, N, D], in place
  void operator()(Tensor& x, const Tensor& vec, const Rope& rope) const {
    const auto [shift, scale, gate] = modulation(vec);
    const Tensor h = linear1(modulate(x, shift, scale));
    const Heads own = Heads::of(h.narrow(2, 0, 3 * c.hidden));
    Heads heads{at::empty_like(x), at::empty_like(x), own.v};
    norm(heads, own, rope);
    Tensor both = at::empty({x.size(0), x.size(1), c.hidden + c.mlp}, x.options());
    Tensor attended = both.narrow(2, 0, c.hidden), widened = both.narrow(2, c.hidden, c.mlp);
    attention_to(attended, heads.q, heads.k, heads.v, c.heads);
    gelu_tanh_to(widened, h.narrow(2, 3 * c.hidden, c.mlp));
    add_gated(x, gate, linear2(both));
    bound(x);
  }
};

struct FinalLayer : Block<Config> {
  using Block::Block;
  VectorLinear modulation{w / "adaLN_modulation" / "1", c.hidden, 2 * c.hidden};
  Linear linear{w / "linear", c.hidden, c.traits.out_channels* kPatchCells};
  Tensor operator()(const Tensor& x, const Tensor& vec) const {
    const auto parts = modulation(vec).chunk(2, 1);  // shift, scale
    return linear(modulate(x, parts[0], parts[1]));
  }
};

// Half of `cells`, rounded up: tokens of that many cells.
int64_t tokens_of(int64_t cells) { return (cells + 1) / kPatch; }

// Where the tokens of one picture lie: its number, its first row and column, its rows and columns.
struct Grid {
  int64_t picture = 0, row = 0, column = 0, rows = 0, columns = 0;
  int64_t tokens() const { return rows * columns; }
};

// The picture drawn at the origin. Those it looks at are picture 1 together: each lies to the right
// of those before it or below them, whichever makes the whole less long.
// Source: facts of ComfyUI's Flux model, its "offset" placing; of one picture it is Kontext's own.
std::vector<Grid> grids(const DiffusionInput& in) {
  std::vector<Grid> all{{.rows = tokens_of(in.x.size(2)), .columns = tokens_of(in.x.size(3))}};
  int64_t height = 0, width = 0;  // of the whole, in cells
  for (const Tensor& picture : in.references) {
    const bool beside = picture.size(2) + height > picture.size(3) + width;
    const int64_t top = beside ? 0 : height, left = beside ? width : 0;
    height = std::max(height, top + picture.size(2));
    width = std::max(width, left + picture.size(3));
    all.push_back({.picture = 1,
                   .row = tokens_of(top),
                   .column = tokens_of(left),
                   .rows = tokens_of(picture.size(2)),
                   .columns = tokens_of(picture.size(3))});
  }
  return all;
}

// Text at the origin, image tokens at (picture, row, column): [T + L, 3]
Tensor positions(int64_t text, const std::vector<Grid>& grids) {
  std::vector<Tensor> all{at::zeros({text, 3})};
  for (const Grid& grid : grids) {
    const Tensor image = at::zeros({grid.rows, grid.columns, 3});
    image.select(2, 0).fill_(grid.picture);
    image.select(2, 1).copy_(at::arange(grid.row, grid.row + grid.rows).unsqueeze(1));
    image.select(2, 2).copy_(at::arange(grid.column, grid.column + grid.columns));
    all.push_back(image.flatten(0, 1));
  }
  return at::cat(all);
}

// Tells apart what `positions` would tell apart.
std::vector<int64_t> key_of(int64_t text, const std::vector<Grid>& grids) {
  std::vector<int64_t> key{text};
  for (const Grid& g : grids)
    key.insert(key.end(), {g.picture, g.row, g.column, g.rows, g.columns});
  return key;
}

struct Flux : Block<Config> {
  using Block::Block;
  Linear img_in{w / "img_in", c.traits.in_channels* kPatchCells, c.hidden};
  Linear txt_in{w / "txt_in", c.traits.context_width, c.hidden};
  MlpEmbedder time_in{w / "time_in", c, kSinusoids};
  MlpEmbedder vector_in{w / "vector_in", c, c.traits.vector_width};
  std::optional<MlpEmbedder> guidance_in =
      c.traits.guidance != 0
          ? std::optional<MlpEmbedder>(std::in_place, w / "guidance_in", c, kSinusoids)
          : std::nullopt;
  Stack<DoubleBlock> double_blocks{w / "double_blocks", c.double_depth, c};
  Stack<SingleBlock> single_blocks{w / "single_blocks", c.single_depth, c};
  FinalLayer final_layer{w / "final_layer", c};
  RopeCache ropes;

  // silu of what all modulations come from: [B, D]
  Tensor vector(const DiffusionInput& in) const {
    const auto sinusoids = [&](const Tensor& t) {
      return timestep_embedding(t * kTimeUnit, kSinusoids).to(in.x.scalar_type());
    };
    Tensor vec = time_in(sinusoids(in.timestep)) + vector_in(in.vector);
    if (guidance_in) vec = vec + (*guidance_in)(sinusoids(in.guidance));
    return at::silu(vec);
  }

  // The prompt [B, T, D], computed once and copied
  Tensor text(const Context& context, const at::TensorOptions& options) const {
    const auto known = context.remember(
        this, [&] { return std::make_shared<Tensor>(txt_in(context.embedding().to(options))); });
    return static_cast<const Tensor*>(known.get())->clone();
  }

  // The picture's tokens, then those of the pictures it looks at: [B, L, D]
  Tensor image(const DiffusionInput& in) const {
    Tensor drawn = img_in(patches(in.x, kPatch));
    if (in.references.empty()) return drawn;
    std::vector<Tensor> all{drawn};
    for (const Tensor& picture : in.references)
      all.push_back(img_in(patches(picture, kPatch)).expand({in.x.size(0), -1, -1}));
    return at::cat(all, 1);
  }

  // -> [B, C, H, W]
  Tensor operator()(const DiffusionInput& in) const {
    const auto observe = [&](const Scope& place, const Tensor& h) {
      if (in.observe) in.observe(place.name().substr(0, place.name().size() - 1), h);
    };
    const std::vector<Grid> places = grids(in);
    const Grid& drawn = places.front();
    const Tensor vec = vector(in);
    Tensor img = image(in), txt = text(in.context, in.x.options());
    const int64_t words = txt.size(1);
    const Rope rope = ropes.get(key_of(words, places), [&] {
      return Rope(positions(words, places), c.axes(), kTheta, in.x.device());
    });

    for (const DoubleBlock& block : double_blocks) {
      block(img, txt, vec, rope);
      observe(block.img.w, img);
      observe(block.txt.w, txt);
    }
    Tensor x = at::cat({txt, img}, 1);
    for (const SingleBlock& block : single_blocks) {
      block(x, vec, rope);
      observe(block.w, x);
    }
    const Tensor out = final_layer(x.narrow(1, words, drawn.tokens()), vec);
    return from_patches(out, drawn.rows, drawn.columns, kPatch)
        .narrow(2, 0, in.x.size(2))
        .narrow(3, 0, in.x.size(3));
  }
};

class FluxModel final : public Loaded<DiffusionModel, Config, Flux> {
 public:
  using Loaded::Loaded;
  const ModelTraits& traits() const override { return config().traits; }
  // A single block's: its input, q, k and v three times over, the mlp's rows twice, and five more.
  Bytes activation_bytes(int64_t batch, int64_t height, int64_t width) const override {
    const int64_t tokens = batch * (tokens_of(height) * tokens_of(width) + kTextTokens);
    return Bytes(tokens * bytes_per_token()) + 64_MiB;
  }
  Bytes prompt_bytes(int64_t batch, int64_t tokens) const override {
    const auto element = static_cast<int64_t>(c10::elementSize(compute().dtype));
    return Bytes(batch * (tokens * (4 + element) * config().traits.context_width +
                          std::max<int64_t>(0, tokens - kTextTokens) * bytes_per_token()));
  }
  double operations(int64_t batch, int64_t height, int64_t width) const override {
    return operations_with(batch, height, width, kTextTokens);
  }
  double prompt_operations(int64_t batch, int64_t height, int64_t width,
                           int64_t tokens) const override {
    return operations_with(batch, height, width, std::max(tokens, kTextTokens)) -
           operations_with(batch, height, width, kTextTokens);
  }

 private:
  static constexpr int64_t kTextTokens = 512;  // of a usual prompt, at most
  int64_t bytes_per_token() const {
    const int64_t values = 15 * config().hidden + 2 * config().mlp;
    return values * static_cast<int64_t>(c10::elementSize(compute().dtype));
  }
  double operations_with(int64_t batch, int64_t height, int64_t width, int64_t text) const {
    const Config& c = config();
    const auto tokens = static_cast<double>((height + 1) / kPatch * ((width + 1) / kPatch) + text);
    const auto hidden = static_cast<double>(c.hidden), mlp = static_cast<double>(c.mlp);
    const auto pairs = static_cast<double>(c.double_depth);
    const auto singles = static_cast<double>(c.single_depth);
    // Every block: queries, keys, values and the way out of attention, two ways of the mlp.
    const double products = 2 * hidden * (4 * hidden + 2 * mlp), attention = 4 * tokens * hidden;
    return static_cast<double>(batch) * tokens * (pairs + singles) * (products + attention);
  }
  Tensor run(const DiffusionInput& in) const override { return net()(in); }
  const Compute& compute() const override { return net().w.compute(); }
};

[[noreturn]] void refuse(const Scope& w, std::string_view name, std::string expected,
                         int64_t found) {
  throw Error(ErrorCode::mismatch, {.subject = fmt::format("{}{}", w.name(), name),
                                    .expected = std::move(expected),
                                    .found = std::to_string(found)});
}

Config config_of(const Scope& w) {
  Config c;
  const Shape image = checked_shape(w, "img_in.weight", 2);
  c.hidden = image[0];
  const int64_t head = checked_shape(w, "double_blocks.0.img_attn.norm.query_norm.scale", 1)[0];
  if (head % 32 != 0 || c.hidden % head != 0)
    refuse(w, "double_blocks.0.img_attn.norm.query_norm.scale",
           fmt::format("a multiple of 32 that divides the width {}", c.hidden), head);
  c.heads = c.hidden / head;
  c.mlp = checked_shape(w, "double_blocks.0.img_mlp.0.weight", 2)[0];
  c.double_depth = w.count("double_blocks", "img_attn.qkv.weight");
  c.single_depth = w.count("single_blocks", "linear1.weight");
  const int64_t out = checked_shape(w, "final_layer.linear.weight", 2)[0];
  if (out % kPatchCells != 0) refuse(w, "final_layer.linear.weight", "a multiple of 4 rows", out);
  c.traits = {.in_channels = image[1] / kPatchCells,
              .out_channels = out / kPatchCells,
              .context_width = checked_shape(w, "txt_in.weight", 2)[1],
              .vector_width = checked_shape(w, "vector_in.in_layer.weight", 2)[1],
              .output = OutputKind::flow,
              .guidance = w.has("guidance_in.in_layer.weight") ? kDefaultGuidance : 0,
              .references = image[1] == out,
              .prompt_repeats = false,
              .native_size = 1024};
  return c;
}

}  // namespace

std::unique_ptr<DiffusionModel> make_flux(const Scope& w) {
  return std::make_unique<FluxModel>(config_of(w), w);
}

}  // namespace atelier
