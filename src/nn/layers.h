// Layers for model files: each binds its weights in its constructor and computes in operator().
//
// Pictures are [B, C, H, W] in channels-last memory, token rows [B, L, C] contiguous; `tokens` and
// `picture` turn one into the other without copying. Layers return values; `add_to` changes its
// first argument in place, which saves a pass over a residual. On the CPU weights are packed and
// operations fused, on any other device the same layers run plain ATen operators.
#pragma once

#include <ATen/core/Tensor.h>

#include <initializer_list>
#include <optional>
#include <string_view>
#include <utility>
#include <vector>

#include "device/cpu/conv.h"
#include "device/cpu/linear.h"
#include "nn/block.h"
#include "nn/rope.h"

namespace atelier::nn {

using at::Tensor;

enum class Bias : bool { none, with };

/// What a Linear does to its product: plain, gelu, gelu_tanh, quick_gelu, silu, or geglu, which
/// multiplies the first half of the outputs by gelu of the second.
using Epilogue = CpuEpilogue;

/// The name of the form of matrices that are multiplied as 8-bit integers (`Compute::int8`).
constexpr std::string_view kInt8Form = "linear int8";

/// Where the outputs of one layer lie among those of a Linear made of `LinearParts`.
struct LinearPart {
  int64_t first = 0, width = 0;
  /// [B, all outputs] -> [B, width]
  Tensor of(const Tensor& all) const { return all.narrow(1, first, width); }
};

/// Linear layers of one input that blocks declare far apart and that run as one product: blocks
/// `add` theirs, then a Linear is made of all.
class LinearParts {
 public:
  LinearPart add(const Scope& w, int64_t in, int64_t out);

 private:
  friend class Linear;
  std::vector<Weight> weights_, biases_;
  std::vector<std::string> names_;
  InputObserver* observer_ = nullptr;
  int64_t in_ = 0, out_ = 0;
};

/// y = epilogue(x W^T + b).
class Linear {
 public:
  Linear(const Scope& w, int64_t in, int64_t out, Bias bias = Bias::with,
         Epilogue epilogue = Epilogue::plain);
  /// Several matrices of the same input as one: `Linear qkv{w, {"to_q", "to_k", "to_v"}, c, c}`
  /// gives [..., 3 out].
  Linear(const Scope& w, std::initializer_list<std::string_view> names, int64_t in, int64_t out,
         Bias bias = Bias::with);
  explicit Linear(const LinearParts& parts);
  /// [..., in] -> [..., out], halved by geglu
  Tensor operator()(const Tensor& x) const;

 private:
  friend class VectorLinear;
  void prepare_on_demand();
  Linear(const std::vector<Weight>& weights, const std::vector<Weight>& biases, int64_t in,
         int64_t out, Epilogue epilogue, Watched watched);
  std::optional<CpuLinear> own_;
  Epilogue epilogue_;
  Weight weight_, bias_;
  Watched watched_;
};

/// A Linear for few rows, such as one vector a picture. On the CPU its matrix stays as stored and
/// is read at each call; a row comes out the same alone and among others.
class VectorLinear {
 public:
  VectorLinear(const Scope& w, int64_t in, int64_t out, Bias bias = Bias::with,
               Epilogue epilogue = Epilogue::plain);
  explicit VectorLinear(const LinearParts& parts);
  /// [..., in] -> [..., out], halved by geglu
  Tensor operator()(const Tensor& x) const;

 private:
  explicit VectorLinear(Linear whole) : whole_(std::move(whole)) { whole_.prepare_on_demand(); }
  Linear whole_;
};

/// A Linear at the end of a residual branch: y += x W^T + b.
class ResidualLinear {
 public:
  ResidualLinear(const Scope& w, int64_t in, int64_t out, Bias bias = Bias::with);
  /// x [..., in], y [..., out] contiguous, changed in place.
  void add_to(Tensor& y, const Tensor& x) const;

 private:
  ResidualLinear(const Scope& w, Weight weight, int64_t in, int64_t out, Bias bias);
  std::optional<CpuLinear> own_;
  Weight weight_, bias_;
  Watched watched_;
};

/// Kernel k x k, stride and padding equal in both directions.
struct ConvShape {
  int64_t kernel = 3, stride = 1, padding = 1;
};
constexpr ConvShape k3x3{};
constexpr ConvShape k1x1{.kernel = 1, .stride = 1, .padding = 0};
constexpr ConvShape kHalving{.kernel = 3, .stride = 2, .padding = 1};

class Conv2d {
 public:
  Conv2d(const Scope& w, int64_t in, int64_t out, ConvShape shape = k3x3, Bias bias = Bias::with);
  /// [B, in, H, W] -> [B, out, H', W']
  Tensor operator()(const Tensor& x) const;
  /// The same plus `shift` [B, out] fp32 at every pixel.
  Tensor operator()(const Tensor& x, const Tensor& shift) const;
  /// y += operator()(x)
  void add_to(Tensor& y, const Tensor& x) const;

 private:
  ConvShape shape_;
  std::optional<CpuLinear> int8_;  // of pixels, where they are multiplied as 8-bit integers
  std::optional<CpuConv> own_;
  Weight weight_, bias_;
  Watched watched_;
};

/// Nearest-neighbour doubling and a 3x3 convolution.
class UpsampleConv {
 public:
  UpsampleConv(const Scope& w, int64_t in, int64_t out);
  /// [B, in, H, W] -> [B, out, 2H, 2W]
  Tensor operator()(const Tensor& x) const;
  /// [B, in, H, W] -> [B, out, h, w]: resized to h x w instead of doubled, for odd pictures.
  Tensor operator()(const Tensor& x, int64_t h, int64_t w) const;

 private:
  std::optional<CpuConv> own_;
  Weight weight_, bias_;  // for doubling; empty where doubling is not special
  Weight resized_, resized_bias_;  // for any other size; prepared when first used
  Watched watched_;
};

/// Statistics in fp32 over each of `groups` runs of channels.
class GroupNorm {
 public:
  GroupNorm(const Scope& w, int64_t channels, double eps = 1e-5, int64_t groups = 32);
  /// [B, C, H, W] -> same
  Tensor operator()(const Tensor& x) const { return run(x, {}, false, nullptr); }
  /// silu(norm(x))
  Tensor silu(const Tensor& x) const { return run(x, {}, true, nullptr); }
  /// x = silu(norm(x)), in x's memory; x channels-last.
  void silu_in_place(Tensor& x) const;
  /// silu(norm(z)) and z itself, for z = x and y joined along the channels; z is x if y is
  /// undefined.
  std::pair<Tensor, Tensor> silu_joined(const Tensor& x, const Tensor& y) const {
    Tensor joined;
    Tensor normed = run(x, y, true, &joined);
    return {std::move(normed), std::move(joined)};
  }

 private:
  Tensor run(const Tensor& x, const Tensor& y, bool silu, Tensor* joined) const;
  Weight weight_, bias_;
  double eps_;
  int64_t groups_;
};

class LayerNorm {
 public:
  LayerNorm(const Scope& w, int64_t channels, double eps = 1e-5);
  /// [..., C] -> same
  Tensor operator()(const Tensor& x) const;

 private:
  Weight weight_, bias_;
  double eps_;
};

/// x / sqrt(mean(x^2) + eps) * weight, with statistics in fp32.
class RmsNorm {
 public:
  RmsNorm(const Scope& w, int64_t channels, double eps, std::string_view leaf = "weight");
  /// [..., C] of any float dtype and strides -> the same in the compute dtype, contiguous
  Tensor operator()(const Tensor& x) const;
  /// The same for each of the heads of C channels that lie side by side in x [B, L, H C], then
  /// turned, into y, which has x's sizes; both with contiguous channels and any other strides.
  void turned_to(Tensor& y, const Tensor& x, const Rope& rope) const;

 private:
  Weight weight_;
  double eps_;
  at::ScalarType dtype_;
};

/// A table of vectors. It stays as stored: only the rows asked for are decoded, unless patches
/// change the table.
class Embedding {
 public:
  Embedding(const Scope& w, int64_t entries, int64_t width);
  /// Indices of any shape -> [..., width] in the compute dtype.
  Tensor operator()(const Tensor& ids) const;
  /// The first n rows [n, width].
  Tensor rows(int64_t n) const;

 private:
  Weight weight_;
};

/// y = gelu(x), its tanh form, of [..., C] of one float dtype with contiguous channels; both may be
/// parts of wider rows.
void gelu_tanh_to(Tensor& y, const Tensor& x);

/// [B, C, H, W] -> [B, H*W, C] and back; both share memory with a channels-last x.
Tensor tokens(const Tensor& x);
Tensor picture(const Tensor& tokens, int64_t h, int64_t w);

/// [B, C, H, W] -> [B, ceil(H/n) * ceil(W/n), C * n * n]: squares of n x n cells as tokens, each
/// channel's cells together, by rows. Where n does not divide a side, it goes on with its start.
Tensor patches(const Tensor& x, int64_t n);
/// The way back: [B, rows * columns, C * n * n] -> [B, C, rows * n, columns * n].
Tensor from_patches(const Tensor& tokens, int64_t rows, int64_t columns, int64_t n);

/// Sinusoids of t [B]: [B, width] fp32, cosines first, periods from 2 pi to 2 pi * max_period.
Tensor timestep_embedding(const Tensor& t, int64_t width, double max_period = 10000);

}  // namespace atelier::nn
