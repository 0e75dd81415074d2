// Layers: which weights they bind in which form, and who computes.
#include "nn/layers.h"

#include <cmath>

#include "nn/cpu.h"
#include "nn/forms.h"
#include "nn/onednn.h"

namespace atelier::nn {
namespace {

std::optional<Tensor> optional(const Tensor& tensor) {
  return tensor.defined() ? std::optional(tensor) : std::nullopt;
}

std::vector<Weight> each(const Scope& w, std::initializer_list<std::string_view> names,
                         std::string_view leaf, const Shape& shape) {
  std::vector<Weight> weights;
  for (const std::string_view name : names) weights.push_back((w / name).weight(leaf, shape));
  return weights;
}

Watched watched(const Scope& w, std::initializer_list<std::string_view> names) {
  std::vector<std::string> weights;
  for (const std::string_view name : names) weights.push_back((w / name).name() + "weight");
  return {w.observer(), std::move(weights)};
}

Watched watched(const Scope& w) { return {w.observer(), {w.name() + "weight"}}; }

std::vector<Weight> bias_of(const Scope& w, int64_t out, Bias bias) {
  if (bias == Bias::none) return {};
  return {w.weight("bias", {out})};
}

Weight joined(const std::vector<Weight>& weights, Form form) {
  return weights.empty() ? Weight() : gather(weights, std::move(form));
}

Weight joined_bias(const std::vector<Weight>& biases, bool own) {
  return joined(biases, own ? fp32_form() : plain_form());
}

// The layer as our kernels run it.
std::optional<CpuLinear> own_layer(const std::vector<Weight>& weights, int64_t in, int64_t out,
                                   Epilogue epilogue) {
  auto own = cpu::linear_layer(weights[0].compute(), in, out, epilogue);
  if (own) own->int8 = cpu::multiplies_int8(*own, weights);
  return own;
}

onednn::ConvGeometry geometry(ConvShape shape) { return {shape.stride, shape.padding}; }

CpuConv cpu_conv(int64_t in, int64_t out, ConvShape shape, bool upsample = false) {
  return {.type = {},
          .inputs = in,
          .outputs = out,
          .kernel = static_cast<int>(shape.kernel),
          .stride = static_cast<int>(shape.stride),
          .pad_begin = static_cast<int>(shape.padding),
          .pad_end = static_cast<int>(shape.padding),
          .upsample = upsample};
}

struct EpilogueRow {
  Epilogue epilogue;
  CpuActivation kernel;
  Tensor (*plain)(const Tensor& x);
};
constexpr EpilogueRow kEpilogues[] = {
    {Epilogue::plain, CpuActivation::none, [](const Tensor& x) { return x; }},
    {Epilogue::gelu, CpuActivation::gelu, [](const Tensor& x) { return at::gelu(x); }},
    {Epilogue::gelu_tanh, CpuActivation::gelu_tanh,
     [](const Tensor& x) { return at::gelu(x, "tanh"); }},
    {Epilogue::quick_gelu, CpuActivation::quick_gelu,
     [](const Tensor& x) { return x * at::sigmoid(1.702 * x); }},
    {Epilogue::silu, CpuActivation::silu, [](const Tensor& x) { return at::silu(x); }},
};

// An epilogue after a product that did not include it; x may be overwritten.
Tensor finish(Tensor x, Epilogue epilogue) {
  if (epilogue == Epilogue::plain) return x;
  if (epilogue == Epilogue::geglu) {
    if (cpu::takes(x)) return cpu::geglu(x);
    const auto halves = x.chunk(2, -1);
    return halves[0] * at::gelu(halves[1]);
  }
  const EpilogueRow& row = kEpilogues[static_cast<size_t>(epilogue)];
  if (!cpu::takes(x) || !x.is_non_overlapping_and_dense()) return row.plain(x);
  cpu::activate(x, row.kernel);
  return x;
}

}  // namespace

void gelu_tanh_to(Tensor& y, const Tensor& x) {
  if (cpu::takes(x))
    cpu::activate_to(y, x, CpuActivation::gelu_tanh);
  else
    at::gelu_out(y, x, "tanh");
}

// ---- linear

LinearPart LinearParts::add(const Scope& w, int64_t in, int64_t out) {
  weights_.push_back(w.weight("weight", {out, in}));
  biases_.push_back(w.weight("bias", {out}));
  names_.push_back(w.name() + "weight");
  observer_ = w.observer();
  in_ = in;
  return {std::exchange(out_, out_ + out), out};
}

Linear::Linear(const std::vector<Weight>& weights, const std::vector<Weight>& biases, int64_t in,
               int64_t out, Epilogue epilogue, Watched watched)
    : epilogue_(epilogue), watched_(std::move(watched)) {
  if (!weights[0]) return;  // reported by the scope
  own_ = own_layer(weights, in, out, epilogue);
  weight_ = joined(weights, own_ ? cpu::linear_form(*own_) : linear_form());
  bias_ = joined_bias(biases, own_.has_value());
}

Linear::Linear(const Scope& w, int64_t in, int64_t out, Bias bias, Epilogue epilogue)
    : Linear({w.weight("weight", {out, in})}, bias_of(w, out, bias), in, out, epilogue,
             watched(w)) {}

Linear::Linear(const Scope& w, std::initializer_list<std::string_view> names, int64_t in,
               int64_t out, Bias bias)
    : Linear(each(w, names, "weight", {out, in}),
             bias == Bias::with ? each(w, names, "bias", {out}) : std::vector<Weight>(), in,
             static_cast<int64_t>(names.size()) * out, Epilogue::plain, watched(w, names)) {}

Linear::Linear(const LinearParts& parts)
    : Linear(parts.weights_, parts.biases_, parts.in_, parts.out_, Epilogue::plain,
             {parts.observer_, parts.names_}) {}

Tensor Linear::operator()(const Tensor& x) const {
  watched_(x);
  const Pin weight = weight_.pin();
  const Tensor bias = pinned(bias_);
  if (own_) return cpu::linear(*own_, x, weight, bias);
  const Tensor input = with_side(x, weight);
  return finish(weight->is_mkldnn() ? onednn::linear(input, *weight, bias)
                                    : at::linear(input, *weight, optional(bias)),
                epilogue_);
}

void Linear::prepare_on_demand() {
  if (!own_ || !weight_) return;
  own_->int8 = false;  // nothing is gained
  Form form = cpu::linear_form(*own_);
  form.on_demand = true;
  form.read_as_stored = true;
  weight_ = weight_.as(std::move(form));
}

// ---- a row or a few

VectorLinear::VectorLinear(const Scope& w, int64_t in, int64_t out, Bias bias, Epilogue epilogue)
    : VectorLinear(Linear(w, in, out, bias, epilogue)) {}

VectorLinear::VectorLinear(const LinearParts& parts) : VectorLinear(Linear(parts)) {}

Tensor VectorLinear::operator()(const Tensor& x) const {
  Tensor y;
  if (!whole_.own_) return whole_(x);
  whole_.weight_.with_stored([&](const Operands& matrix) {
    if (matrix.side_rank() > 0 && whole_.epilogue_ != Epilogue::plain) return;
    y = cpu::linear_unpacked(*whole_.own_, x, matrix, pinned(whole_.bias_));
    if (matrix.side_rank() == 0) return;
    const Tensor wide = x.to(at::kFloat);
    Tensor all = at::zeros(y.sizes(), wide.options());
    matrix.each_side([&](const LowRank& change, int64_t row, double strength) {
      const Tensor added = cpu::few_rows(cpu::few_rows(wide, change.down), change.up);
      all.narrow(-1, row, added.size(-1)).add_(added, strength);
    });
    y.add_(all);
  });
  if (!y.defined()) return whole_(x);
  whole_.watched_(x);
  return y;
}

ResidualLinear::ResidualLinear(const Scope& w, int64_t in, int64_t out, Bias bias)
    : ResidualLinear(w, w.weight("weight", {out, in}), in, out, bias) {}

ResidualLinear::ResidualLinear(const Scope& w, Weight weight, int64_t in, int64_t out, Bias bias)
    : own_(weight ? own_layer({weight}, in, out, Epilogue::plain) : std::nullopt),
      weight_(gather({weight}, own_ ? cpu::linear_form(*own_) : residual_form())),
      bias_(joined_bias(bias_of(w, out, bias), own_.has_value())),
      watched_(watched(w)) {}

void ResidualLinear::add_to(Tensor& y, const Tensor& x) const {
  watched_(x);
  const Pin weight = weight_.pin();
  const Tensor bias = pinned(bias_);
  if (own_) return cpu::linear_add(*own_, y, x, weight, bias);
  const Tensor input = with_side(x, weight);
  if (weight->is_mkldnn())
    onednn::linear_add(y, input, *weight, bias);
  else
    y.add_(at::linear(input, *weight, optional(bias)));
}

// ---- convolutions

Conv2d::Conv2d(const Scope& w, int64_t in, int64_t out, ConvShape shape, Bias bias)
    : shape_(shape),
      own_(cpu::conv_layer(w.compute(), cpu_conv(in, out, shape))),
      watched_(watched(w)) {
  const Weight weight = w.weight("weight", {out, in, shape.kernel, shape.kernel});
  if (weight && shape.kernel == 1 && shape.stride == 1)
    int8_ = own_layer({weight}, in, out, Epilogue::plain);
  if (int8_ && !int8_->int8) int8_.reset();
  weight_ = gather({weight}, int8_  ? cpu::linear_form(*int8_)
                             : own_ ? cpu::conv_form(*own_)
                                    : conv_form(geometry(shape)));
  bias_ = joined_bias(bias_of(w, out, bias), int8_ || own_);
}

Tensor Conv2d::operator()(const Tensor& x) const {
  watched_.picture(x);
  const Pin weight = weight_.pin();
  const Tensor bias = pinned(bias_);
  if (int8_) return picture(cpu::linear(*int8_, tokens(x), weight, bias), x.size(2), x.size(3));
  if (own_) return cpu::conv(*own_, x, *weight, bias);
  if (weight->is_mkldnn()) return onednn::conv(x, *weight, bias, geometry(shape_));
  return at::conv2d(x, *weight, optional(bias), shape_.stride, shape_.padding);
}

Tensor Conv2d::operator()(const Tensor& x, const Tensor& shift) const {
  if (own_ && !int8_) {
    watched_.picture(x);
    const Tensor bias = bias_ ? shift + *bias_.pin() : shift;
    return cpu::conv(*own_, x, *weight_.pin(), bias.contiguous());
  }
  Tensor y = (*this)(x);
  return y.add_(shift.to(y.scalar_type()).view({y.size(0), -1, 1, 1}));
}

void Conv2d::add_to(Tensor& y, const Tensor& x) const {
  const Pin weight = weight_.pin();
  if (!int8_ && !own_ && !weight->is_mkldnn()) {
    y.add_((*this)(x));
    return;
  }
  watched_.picture(x);
  if (int8_) {
    Tensor pixels = tokens(y);
    cpu::linear_add(*int8_, pixels, tokens(x), weight, pinned(bias_));
  } else if (own_)
    cpu::conv_add(*own_, y, x, *weight, pinned(bias_));
  else
    onednn::conv_add(y, x, *weight, pinned(bias_), geometry(shape_));
}

UpsampleConv::UpsampleConv(const Scope& w, int64_t in, int64_t out)
    : own_(cpu::conv_layer(w.compute(), cpu_conv(in, out, k3x3, true))), watched_(watched(w)) {
  const Weight weight = w.weight("weight", {out, in, 3, 3}), bias = w.weight("bias", {out});
  const bool phases = !own_ && cpu::takes(w.compute()) && onednn::packs(w.compute());
  if (own_ || phases) {
    weight_ = weight.as(own_ ? cpu::conv_form(*own_) : phase_form());
    bias_ = bias.as(own_ ? fp32_form() : phase_bias_form());
  }
  resized_ = weight.as(conv_form(geometry(k3x3), own_ || phases));
  resized_bias_ = bias;
}

Tensor UpsampleConv::operator()(const Tensor& x) const {
  if (!weight_) return (*this)(x, 2 * x.size(2), 2 * x.size(3));
  watched_.picture(x);  // doubling changes no mean
  const Pin weight = weight_.pin(), bias = bias_.pin();
  if (own_) return cpu::conv(*own_, x, *weight, *bias);
  return cpu::interleave_phases(onednn::conv(x, *weight, *bias, {.stride = 1, .padding = 1}));
}

Tensor UpsampleConv::operator()(const Tensor& x, int64_t h, int64_t w) const {
  if (weight_ && h == 2 * x.size(2) && w == 2 * x.size(3)) return (*this)(x);
  const Tensor resized = at::upsample_nearest2d(x, {h, w});
  watched_.picture(resized);
  const Pin weight = resized_.pin(), bias = resized_bias_.pin();
  if (weight->is_mkldnn()) return onednn::conv(resized, *weight, *bias, geometry(k3x3));
  return at::conv2d(resized, *weight, *bias, 1, 1);
}

// ---- norms

GroupNorm::GroupNorm(const Scope& w, int64_t channels, double eps, int64_t groups)
    : weight_(w.weight("weight", {channels}).as(norm_form(w.compute()))),
      bias_(w.weight("bias", {channels}).as(norm_form(w.compute()))),
      eps_(eps),
      groups_(groups) {}

Tensor GroupNorm::run(const Tensor& x, const Tensor& y, bool silu, Tensor* joined) const {
  const Pin weight = weight_.pin(), bias = bias_.pin();
  if (cpu::takes(x)) return cpu::group_norm({groups_, eps_, *weight, *bias, silu}, x, y, joined);
  const Tensor z = y.defined() ? at::cat({x, y}, 1) : x;
  if (joined) *joined = z;
  Tensor normed = at::group_norm(z, groups_, *weight, *bias, eps_);
  return silu ? at::silu_(normed) : normed;
}

void GroupNorm::silu_in_place(Tensor& x) const {
  const Pin weight = weight_.pin(), bias = bias_.pin();
  if (cpu::takes(x))
    cpu::group_norm_in_place({groups_, eps_, *weight, *bias, true}, x);
  else
    x = at::silu_(x.copy_(at::group_norm(x, groups_, *weight, *bias, eps_)));
}

LayerNorm::LayerNorm(const Scope& w, int64_t channels, double eps)
    : weight_(w.weight("weight", {channels}).as(norm_form(w.compute()))),
      bias_(w.weight("bias", {channels}).as(norm_form(w.compute()))),
      eps_(eps) {}

Tensor LayerNorm::operator()(const Tensor& x) const {
  const Pin weight = weight_.pin(), bias = bias_.pin();
  if (cpu::takes(x)) return cpu::layer_norm(x, *weight, *bias, eps_);
  return at::layer_norm(x, {x.size(-1)}, *weight, *bias, eps_);
}

RmsNorm::RmsNorm(const Scope& w, int64_t channels, double eps, std::string_view leaf)
    : weight_(w.weight(leaf, {channels}).as(fp32_form())), eps_(eps), dtype_(w.compute().dtype) {}

Tensor RmsNorm::operator()(const Tensor& x) const {
  const Pin weight = weight_.pin();
  if (cpu::takes(x) && cpu::compute_type(dtype_)) {
    Tensor y = at::empty(x.sizes(), x.options().dtype(dtype_));
    const at::DimVector rows{1, -1, x.size(-1)};
    Tensor out = y.view(rows);
    cpu::rms_norm_to(out, x.reshape(rows), *weight, eps_);
    return y;
  }
  const Tensor wide = x.to(at::kFloat);
  const Tensor scale = at::rsqrt(wide.square().mean(-1, true).add_(eps_));
  return (wide * scale).mul_(*weight).to(dtype_).contiguous();
}

void RmsNorm::turned_to(Tensor& y, const Tensor& x, const Rope& rope) const {
  if (cpu::takes(x) && cpu::takes(y)) {
    const Pin weight = weight_.pin();
    return cpu::rms_norm_to(y, x, *weight, eps_, &rope);
  }
  y.copy_(rope.turn((*this)(x.unflatten(-1, {-1, rope.width()}))).flatten(2));
}

// ---- the rest

Embedding::Embedding(const Scope& w, int64_t entries, int64_t width)
    : weight_(w.weight("weight", {entries, width})) {
  if (weight_ && !weight_.as_stored()) weight_ = weight_.as(rows_form());
}

Tensor Embedding::operator()(const Tensor& ids) const { return weight_.rows(ids); }

Tensor Embedding::rows(int64_t n) const {
  if (weight_.as_stored()) return weight_.pin()->narrow(0, 0, n);
  return weight_.rows(at::arange(n));
}

Tensor tokens(const Tensor& x) {
  const Tensor rows = x.permute({0, 2, 3, 1});
  return rows.reshape({x.size(0), x.size(2) * x.size(3), x.size(1)});
}

Tensor picture(const Tensor& tokens, int64_t h, int64_t w) {
  return tokens.view({tokens.size(0), h, w, tokens.size(2)}).permute({0, 3, 1, 2});
}

Tensor patches(const Tensor& x, int64_t n) {
  const int64_t down = (n - x.size(2) % n) % n, right = (n - x.size(3) % n) % n;
  const Tensor even = down || right ? at::pad(x, {0, right, 0, down}, "circular") : x;
  return even.unflatten(3, {-1, n})
      .unflatten(2, {-1, n})  // [B, C, H/n, n, W/n, n]
      .permute({0, 2, 4, 1, 3, 5})
      .flatten(3)
      .flatten(1, 2);
}

Tensor from_patches(const Tensor& tokens, int64_t rows, int64_t columns, int64_t n) {
  return tokens.unflatten(2, {-1, n, n})
      .unflatten(1, {rows, columns})  // [B, H/n, W/n, C, n, n]
      .permute({0, 3, 1, 4, 2, 5})
      .flatten(4)
      .flatten(2, 3);
}

Tensor timestep_embedding(const Tensor& t, int64_t width, double max_period) {
  const int64_t half = width / 2;
  const Tensor steps = at::arange(half, at::dtype(at::kFloat).device(t.device()));
  const Tensor frequencies = at::exp(steps * (-std::log(max_period) / static_cast<double>(half)));
  const Tensor angles = t.to(at::kFloat).unsqueeze(1) * frequencies.unsqueeze(0);
  return at::cat({at::cos(angles), at::sin(angles)}, 1);
}

}  // namespace atelier::nn
