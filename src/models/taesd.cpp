// TAESD: convolutions, ReLU and nothing else; layers are numbered through as in its release.
// Source: madebyollin/taesd taesd.py; diffusers' AutoencoderTiny for its names.
// Shapes: B batch, C width, H x W pixels, Z latent channels.
#include "models/taesd.h"

#include <fmt/format.h>

#include <algorithm>
#include <optional>
#include <variant>
#include <vector>

#include "base/error.h"
#include "models/config_reading.h"
#include "nn/layers.h"

namespace atelier {
namespace {

using namespace nn;

constexpr int64_t kMostLayers = 64;

// relu(conv(x) + skip(x))
struct ResBlock {
  ResBlock(const Scope& w, int64_t in, int64_t out)
      : conv_0(w / "conv" / "0", in, out),
        conv_2(w / "conv" / "2", out, out),
        conv_4(w / "conv" / "4", out, out) {
    if (in != out) skip.emplace(w / "skip", in, out, k1x1, Bias::none);
  }
  Conv2d conv_0, conv_2, conv_4;
  std::optional<Conv2d> skip;
  // [B, in, H, W] -> [B, out, H, W]; may reuse x's memory
  Tensor operator()(Tensor x) const {
    Tensor h = conv_0(x).relu_();
    h = conv_2(h).relu_();
    if (skip) x = (*skip)(x);
    conv_4.add_to(x, h);
    return x.relu_();
  }
};

// Nearest-neighbour doubling before a convolution without bias.
struct UpConv {
  Conv2d conv;
  Tensor operator()(const Tensor& x) const {
    return conv(at::upsample_nearest2d(x, {2 * x.size(2), 2 * x.size(3)}));
  }
};

struct Relu {
  Tensor operator()(Tensor x) const { return x.relu_(); }
};

using Layer = std::variant<Conv2d, UpConv, ResBlock, Relu>;

// The layers of one half, read off the names: a number with `conv.0` is a block, one with `weight`
// a convolution, one with neither has no weights.
struct Half {
  std::vector<Layer> layers;
  int64_t inputs = 0, outputs = 0, width = 0;
  int doublings = 0;

  Tensor operator()(Tensor x) const {
    for (const Layer& layer : layers)
      x = std::visit([&](const auto& f) -> Tensor { return f(std::move(x)); }, layer);
    return x;
  }
};

class HalfReader {
 public:
  explicit HalfReader(const Scope& w) : w_(w) {}

  // The decoder begins with a clamp (0), a convolution (1) and a ReLU (2); before every other
  // convolution without bias the picture doubles.
  Half decoder() {
    add_conv(1, false);
    half_.layers.emplace_back(Relu{});
    return rest(3, true);
  }
  // The encoder begins with a convolution (0); a convolution without bias halves the picture.
  Half encoder() {
    add_conv(0, false);
    return rest(1, false);
  }

 private:
  std::string at(int64_t i, std::string_view leaf) const { return fmt::format("{}.{}", i, leaf); }

  Half rest(int64_t first, bool doubling) {
    for (int64_t i = first; i < kMostLayers; ++i) {
      if (w_.has(at(i, "conv.0.weight"))) {
        const Shape shape = checked_shape(w_, at(i, "conv.0.weight"), 4);
        half_.layers.emplace_back(ResBlock(w_ / i, shape[1], shape[0]));
        half_.outputs = shape[0];
      } else if (w_.has(at(i, "weight"))) {
        const bool resizing = !w_.has(at(i, "bias"));
        add_conv(i, resizing, doubling);
        half_.doublings += resizing;
      }
    }
    return std::move(half_);
  }

  void add_conv(int64_t i, bool resizing, bool doubling = false) {
    const Shape shape = checked_shape(w_, at(i, "weight"), 4);
    const Bias bias = resizing ? Bias::none : Bias::with;
    const ConvShape geometry = resizing && !doubling ? kHalving : k3x3;
    Conv2d conv(w_ / i, shape[1], shape[0], geometry, bias);
    if (resizing && doubling)
      half_.layers.emplace_back(UpConv{std::move(conv)});
    else
      half_.layers.emplace_back(std::move(conv));
    if (half_.inputs == 0) half_.inputs = shape[1];
    half_.outputs = shape[0];
    half_.width = std::max({half_.width, shape[0]});
  }

  const Scope& w_;
  Half half_;
};

class Taesd final : public Vae {
 public:
  Taesd(std::optional<Half> decoder, std::optional<Half> encoder, LatentScale scale,
        Compute compute)
      : decoder_(std::move(decoder)),
        encoder_(std::move(encoder)),
        scale_(scale),
        compute_(compute) {}

  int64_t latent_channels() const override {
    return decoder_ ? decoder_->inputs : encoder_->outputs;
  }
  int64_t factor() const override {
    return int64_t{1} << (decoder_ ? decoder_->doublings : encoder_->doublings);
  }

  Tensor decode(const Tensor& latent) const override {
    check_latent(*this, latent);
    if (!decoder_) refuse("taesd_decoder");
    return by_element(latent, [&](const Tensor& z) {
      const Tensor scaled = (z - scale_.shift) * scale_.scale;
      return (*decoder_)(input(at::tanh(scaled / 3) * 3)).to(at::kCPU, at::kFloat) * 2 - 1;
    });
  }
  Tensor encode(const Tensor& picture) const override {
    check_picture(*this, picture);
    if (!encoder_) refuse("taesd_encoder");
    return by_element(picture, [&](const Tensor& x) {
      return (*encoder_)(input((x + 1) / 2)).to(at::kCPU, at::kFloat) / scale_.scale + scale_.shift;
    });
  }
  Bytes decode_bytes(int64_t height, int64_t width) const override { return peak(height, width); }
  Bytes encode_bytes(int64_t height, int64_t width) const override { return peak(height, width); }

 private:
  template <class F>
  static Tensor by_element(const Tensor& batch, const F& f) {
    std::vector<Tensor> results;
    for (int64_t i = 0; i < batch.size(0); ++i)
      results.push_back(f(batch.narrow(0, i, 1).to(at::kCPU, at::kFloat)).contiguous());
    return at::cat(results);
  }
  Tensor input(const Tensor& x) const {
    return x.to(compute_.device.torch(), compute_.dtype).contiguous(at::MemoryFormat::ChannelsLast);
  }
  // A block at full size holds its input and two states.
  Bytes peak(int64_t height, int64_t width) const {
    const Half& half = decoder_ ? *decoder_ : *encoder_;
    const auto size = static_cast<int64_t>(c10::elementSize(compute_.dtype));
    return Bytes(3 * half.width * height * width * size);
  }
  [[noreturn]] static void refuse(std::string_view half) {
    throw Error(ErrorCode::not_found,
                {.subject = "TAESD", .expected = fmt::format("{} is not among its files", half)});
  }

  std::optional<Half> decoder_, encoder_;
  LatentScale scale_;
  Compute compute_;
};

constexpr KeyRule kLoneDecoder[] = {{"taesd_decoder.{a}.*", {"{a}.*"}}};
constexpr KeyRule kLoneEncoder[] = {{"taesd_encoder.{a}.*", {"{a}.*"}}};
constexpr KeyRule kDiffusers[] = {
    {"taesd_decoder.{a+1}.*", {"decoder.layers.{a}.*"}},
    {"taesd_encoder.{a}.*", {"encoder.layers.{a}.*"}},
};
// In a file of its own the decoder starts at 1, the encoder at 0.
constexpr KeyLayout kLayouts[] = {
    {"taesd", "taesd_decoder.1.weight"},
    {"taesd, encoder only", "taesd_encoder.0.weight"},
    {"diffusers", "decoder.layers.0.weight", kDiffusers},
    {"encoder file", "0.weight", kLoneEncoder},
    {"decoder file", "1.weight", kLoneDecoder},
};
constexpr std::string_view kPrefixes[] = {""};

}  // namespace

bool has_taesd(const TensorSource& source) {
  return find_place(source, kPrefixes, kLayouts).has_value();
}

std::unique_ptr<Vae> load_taesd(const TaesdFiles& files, Residency& residency, BindReport& report,
                                const Compute& compute) {
  const auto half = [&](const std::shared_ptr<const TensorSource>& source, std::string_view name,
                        auto read) -> std::optional<Half> {
    if (!source) return {};
    const auto place = find_place(*source, kPrefixes, kLayouts);
    if (!place) return {};
    const Scope w = open_scope(source, *place, residency, report, compute) / name;
    if (!w.has("0.weight") && !w.has("1.weight")) return {};
    return read(HalfReader(w));
  };
  auto decoder = half(files.decoder, "taesd_decoder", [](HalfReader r) { return r.decoder(); });
  auto encoder = half(files.encoder, "taesd_encoder", [](HalfReader r) { return r.encoder(); });
  if (!decoder && !encoder)
    throw Error(ErrorCode::mismatch,
                {.subject = files.decoder   ? files.decoder->label()
                            : files.encoder ? files.encoder->label()
                                            : "TAESD",
                 .expected = "taesd_decoder.1.weight, decoder.layers.0.weight or 1.weight",
                 .found = "none of them"});
  return std::make_unique<Taesd>(std::move(decoder), std::move(encoder), files.scale, compute);
}

}  // namespace atelier
