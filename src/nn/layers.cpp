// Layers: which weights they bind, and the operators they call.
#include "nn/layers.h"

#include <cmath>

#include "nn/forms.h"
#include "nn/onednn.h"

namespace atelier::nn {
namespace {

std::optional<Tensor> optional(const Tensor& tensor) {
  return tensor.defined() ? std::optional(tensor) : std::nullopt;
}

Weight joined(const Scope& w, std::initializer_list<std::string_view> names, std::string_view leaf,
              const Shape& shape, Form form) {
  std::vector<Weight> parts;
  for (const std::string_view name : names) parts.push_back((w / name).weight(leaf, shape));
  return gather(parts, std::move(form));
}

Weight bound(const Scope& w, std::string_view leaf, const Shape& shape, Form form) {
  return gather({w.weight(leaf, shape)}, std::move(form));
}

Weight bound_bias(const Scope& w, int64_t out, Bias bias) {
  return bias == Bias::with ? w.weight("bias", {out}) : Weight();
}

onednn::ConvGeometry geometry(ConvShape shape) { return {shape.stride, shape.padding}; }

Tensor run_conv(const Tensor& x, const Tensor& weight, const Tensor& bias, ConvShape shape) {
  if (weight.is_mkldnn()) return onednn::conv(x, weight, bias, geometry(shape));
  return at::conv2d(x, weight, optional(bias), shape.stride, shape.padding);
}

}  // namespace

Linear::Linear(const Scope& w, int64_t in, int64_t out, Bias bias)
    : weight_(bound(w, "weight", {out, in}, linear_form())), bias_(bound_bias(w, out, bias)) {}

Linear::Linear(const Scope& w, std::initializer_list<std::string_view> names, int64_t in,
               int64_t out, Bias bias)
    : weight_(joined(w, names, "weight", {out, in}, linear_form())),
      bias_(bias == Bias::with ? joined(w, names, "bias", {out}, plain_form()) : Weight()) {}

LinearPart LinearParts::add(const Scope& w, int64_t in, int64_t out) {
  weights_.push_back(w.weight("weight", {out, in}));
  biases_.push_back(w.weight("bias", {out}));
  return {std::exchange(width_, width_ + out), out};
}

Linear::Linear(const LinearParts& parts)
    : weight_(gather(parts.weights_, linear_form())), bias_(gather(parts.biases_, plain_form())) {}

Tensor Linear::operator()(const Tensor& x) const {
  const Pin weight = weight_.pin();
  const Tensor bias = pinned(bias_);
  return weight->is_mkldnn() ? onednn::linear(x, *weight, bias)
                             : at::linear(x, *weight, optional(bias));
}

void Linear::add_to(Tensor& y, const Tensor& x) const { y.add_((*this)(x)); }

Conv2d::Conv2d(const Scope& w, int64_t in, int64_t out, ConvShape shape, Bias bias)
    : weight_(
          bound(w, "weight", {out, in, shape.kernel, shape.kernel}, conv_form(geometry(shape)))),
      bias_(bound_bias(w, out, bias)),
      shape_(shape) {}

Tensor Conv2d::operator()(const Tensor& x) const {
  return run_conv(x, *weight_.pin(), pinned(bias_), shape_);
}

Tensor Conv2d::operator()(const Tensor& x, const Tensor& shift) const {
  Tensor y = (*this)(x);
  return y.add_(shift.to(y.scalar_type()).view({y.size(0), -1, 1, 1}));
}

void Conv2d::add_to(Tensor& y, const Tensor& x) const {
  const Pin weight = weight_.pin();
  if (weight->is_mkldnn())
    onednn::conv_add(y, x, *weight, pinned(bias_), geometry(shape_));
  else
    y.add_(run_conv(x, *weight, pinned(bias_), shape_));
}

UpsampleConv::UpsampleConv(const Scope& w, int64_t in, int64_t out)
    : weight_(bound(w, "weight", {out, in, 3, 3}, conv_form(geometry(k3x3)))),
      bias_(w.weight("bias", {out})) {}

Tensor UpsampleConv::operator()(const Tensor& x) const {
  return (*this)(x, 2 * x.size(2), 2 * x.size(3));
}

Tensor UpsampleConv::operator()(const Tensor& x, int64_t h, int64_t w) const {
  return run_conv(at::upsample_nearest2d(x, {h, w}), *weight_.pin(), pinned(bias_), k3x3);
}

GroupNorm::GroupNorm(const Scope& w, int64_t channels, double eps, int64_t groups)
    : weight_(bound(w, "weight", {channels}, norm_form(w.compute()))),
      bias_(bound(w, "bias", {channels}, norm_form(w.compute()))),
      eps_(eps),
      groups_(groups) {}

std::pair<Tensor, Tensor> GroupNorm::run(const Tensor& x, const Tensor& y, bool silu) const {
  const Tensor z = y.defined() ? at::cat({x, y}, 1) : x;
  Tensor normed = at::group_norm(z, groups_, *weight_.pin(), *bias_.pin(), eps_);
  if (silu) at::silu_(normed);
  return {normed, z};
}

LayerNorm::LayerNorm(const Scope& w, int64_t channels, double eps)
    : weight_(bound(w, "weight", {channels}, norm_form(w.compute()))),
      bias_(bound(w, "bias", {channels}, norm_form(w.compute()))),
      eps_(eps) {}

Tensor LayerNorm::operator()(const Tensor& x) const {
  return at::layer_norm(x, {x.size(-1)}, *weight_.pin(), *bias_.pin(), eps_);
}

Embedding::Embedding(const Scope& w, int64_t entries, int64_t width)
    : weight_(w.weight("weight", {entries, width})) {}

Tensor Embedding::operator()(const Tensor& ids) const { return at::embedding(*weight_.pin(), ids); }

Tensor Embedding::rows(int64_t n) const { return weight_.pin()->narrow(0, 0, n); }

Tensor tokens(const Tensor& x) {
  const Tensor rows = x.permute({0, 2, 3, 1});
  return rows.reshape({x.size(0), x.size(2) * x.size(3), x.size(1)});
}

Tensor picture(const Tensor& tokens, int64_t h, int64_t w) {
  return tokens.view({tokens.size(0), h, w, tokens.size(2)}).permute({0, 3, 1, 2});
}

Tensor timestep_embedding(const Tensor& t, int64_t width, double max_period) {
  const int64_t half = width / 2;
  const Tensor steps = at::arange(half, at::dtype(at::kFloat).device(t.device()));
  const Tensor frequencies = at::exp(steps * (-std::log(max_period) / static_cast<double>(half)));
  const Tensor angles = t.to(at::kFloat).unsqueeze(1) * frequencies.unsqueeze(0);
  return at::cat({at::cos(angles), at::sin(angles)}, 1);
}

}  // namespace atelier::nn
