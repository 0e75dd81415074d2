// Attention: the operation, and the three sub-layers of a transformer block of Stable Diffusion.
#pragma once

#include <memory>
#include <mutex>
#include <optional>
#include <unordered_map>

#include "nn/layers.h"

namespace atelier::nn {

/// softmax(scale q k^T + mask) v over `heads` heads of D = C / heads channels.
/// q [B, N, C], k and v [B, M, C], any strides with contiguous channels -> [B, N, C] contiguous.
/// mask: undefined or broadcastable to [B, heads, N, M], added to the scaled scores.
/// scale: 1 / sqrt(D) unless the model has its own.
Tensor attention(const Tensor& q, const Tensor& k, const Tensor& v, int64_t heads,
                 const Tensor& mask = {}, std::optional<double> scale = {});

/// The same without a mask into y [B, N, C], any strides with contiguous channels.
void attention_to(Tensor& y, const Tensor& q, const Tensor& k, const Tensor& v, int64_t heads);

/// The same where each query sees itself and the keys before it; N = M.
Tensor causal_attention(const Tensor& q, const Tensor& k, const Tensor& v, int64_t heads);

/// What a prompt became, [B, T, D] in any dtype on any device, and what layers have computed from
/// it alone. Copies share one memory, so that keys and values are computed once per prompt and not
/// once per step. Make a new one when weights change.
class Context {
 public:
  Context() = default;
  explicit Context(Tensor embedding);
  bool defined() const { return state_ != nullptr; }
  const Tensor& embedding() const;
  /// What `make` returned the first time `layer` asked. Thread-safe.
  std::shared_ptr<const void> remember(
      const void* layer, const std::function<std::shared_ptr<const void>()>& make) const;

 private:
  struct State {
    Tensor embedding;
    std::mutex mutex;
    std::unordered_map<const void*, std::shared_ptr<const void>> memory;
  };
  std::shared_ptr<State> state_;
};

/// How a width is split into heads, and the dtype of scores where a model insists on one.
struct Heads {
  int64_t count = 8;
  bool fp32 = false;
};

/// to_q, to_k, to_v without bias in one product; to_out.0 with bias.
class SelfAttention {
 public:
  SelfAttention(const Scope& w, int64_t width, Heads heads);
  /// y += attention(x); x, y [B, N, width].
  void add_to(Tensor& y, const Tensor& x) const;

 private:
  Linear qkv_;
  ResidualLinear out_;
  Heads heads_;
};

/// Queries from the picture, keys and values from the prompt.
class CrossAttention {
 public:
  CrossAttention(const Scope& w, int64_t width, int64_t context, Heads heads);
  /// y += attention(x, context); x, y [B, N, width], context [B, T, D].
  void add_to(Tensor& y, const Tensor& x, const Context& context) const;

 private:
  Linear query_, key_value_;
  ResidualLinear out_;
  Heads heads_;
};

/// net.0.proj to twice `hidden`, one half times gelu of the other, net.2 back.
class GegluFeedForward {
 public:
  GegluFeedForward(const Scope& w, int64_t width, int64_t hidden);
  /// y += feed_forward(norm(y)); y [B, N, width] contiguous.
  void add_to(Tensor& y, const LayerNorm& norm) const;

 private:
  Linear up_;
  ResidualLinear down_;
};

}  // namespace atelier::nn
