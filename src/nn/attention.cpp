// Attention through ATen, and the sub-layers around it.
#include "nn/attention.h"

#include "base/error.h"
#include "nn/forms.h"

namespace atelier::nn {
namespace {

struct KeyValue {
  Tensor key, value;  // [B, T, C]
};

std::optional<Tensor> optional(const Tensor& tensor) {
  return tensor.defined() ? std::optional(tensor) : std::nullopt;
}

Tensor split_heads(const Tensor& x, int64_t heads) {
  return x.unflatten(-1, {heads, x.size(-1) / heads}).transpose(1, 2);
}

Tensor attend(const Tensor& q, const Tensor& k, const Tensor& v, int64_t heads, const Tensor& mask,
              bool causal) {
  const Tensor out =
      at::scaled_dot_product_attention(split_heads(q, heads), split_heads(k, heads),
                                       split_heads(v, heads), optional(mask), 0.0, causal);
  return out.transpose(1, 2).reshape(q.sizes());
}

// Heads whose scores overflow or lose too much in 16 bits compute in fp32 and return as they came.
Tensor attend(const Tensor& q, const Tensor& k, const Tensor& v, const Heads& heads) {
  if (!heads.fp32 || q.scalar_type() != at::kHalf) return attention(q, k, v, heads.count);
  return attention(q.to(at::kFloat), k.to(at::kFloat), v.to(at::kFloat), heads.count)
      .to(q.scalar_type());
}

}  // namespace

Tensor attention(const Tensor& q, const Tensor& k, const Tensor& v, int64_t heads,
                 const Tensor& mask) {
  return attend(q, k, v, heads, mask, false);
}

Tensor causal_attention(const Tensor& q, const Tensor& k, const Tensor& v, int64_t heads) {
  return attend(q, k, v, heads, {}, true);
}

Context::Context(Tensor embedding) : state_(std::make_shared<State>()) {
  state_->embedding = std::move(embedding);
}

const Tensor& Context::embedding() const {
  ATELIER_CHECK(state_);
  return state_->embedding;
}

std::shared_ptr<const void> Context::remember(
    const void* layer, const std::function<std::shared_ptr<const void>()>& make) const {
  ATELIER_CHECK(state_);
  const std::lock_guard lock(state_->mutex);
  auto& slot = state_->memory[layer];
  if (!slot) slot = make();
  return slot;
}

SelfAttention::SelfAttention(const Scope& w, int64_t width, Heads heads)
    : qkv_(w, {"to_q", "to_k", "to_v"}, width, width, Bias::none),
      out_(w / "to_out" / "0", width, width),
      heads_(heads) {}

void SelfAttention::add_to(Tensor& y, const Tensor& x) const {
  const auto qkv = qkv_(x).chunk(3, -1);
  out_.add_to(y, attend(qkv[0], qkv[1], qkv[2], heads_));
}

CrossAttention::CrossAttention(const Scope& w, int64_t width, int64_t context, Heads heads)
    : query_(w / "to_q", width, width, Bias::none),
      key_value_(w, {"to_k", "to_v"}, context, width, Bias::none),
      out_(w / "to_out" / "0", width, width),
      heads_(heads) {}

void CrossAttention::add_to(Tensor& y, const Tensor& x, const Context& context) const {
  const auto remembered = context.remember(this, [&] {
    const auto kv = key_value_(context.embedding().to(x.options())).chunk(2, -1);
    return std::make_shared<const KeyValue>(KeyValue{kv[0], kv[1]});
  });
  const auto& kv = *static_cast<const KeyValue*>(remembered.get());
  out_.add_to(y, attend(query_(x), kv.key, kv.value, heads_));
}

GegluFeedForward::GegluFeedForward(const Scope& w, int64_t width, int64_t hidden)
    : up_(w / "net" / "0" / "proj", width, 2 * hidden), down_(w / "net" / "2", hidden, width) {}

void GegluFeedForward::add_to(Tensor& y, const LayerNorm& norm) const {
  const auto parts = up_(norm(y)).chunk(2, -1);
  down_.add_to(y, parts[0] * at::gelu(parts[1]));
}

}  // namespace atelier::nn
