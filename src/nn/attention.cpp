// Attention through ATen, and the sub-layers around it.
#include "nn/attention.h"

#include "base/error.h"
#include "nn/cpu.h"

namespace atelier::nn {
namespace {

// Of one prompt, for one layer: packed for the CPU's kernels, or as they are.
struct KeyValue {
  std::optional<cpu::PackedKeys> packed;
  Tensor key, value;  // [B, T, C]
};

std::optional<Tensor> optional(const Tensor& tensor) {
  return tensor.defined() ? std::optional(tensor) : std::nullopt;
}

Tensor split_heads(const Tensor& x, int64_t heads) {
  return x.unflatten(-1, {heads, x.size(-1) / heads}).transpose(1, 2);
}

Tensor attend(const Tensor& q, const Tensor& k, const Tensor& v, int64_t heads, const Tensor& mask,
              bool causal, std::optional<double> scale = {}) {
  if (cpu::takes(q)) return cpu::attend(q, cpu::pack_keys(k, v, heads, scale), mask, causal);
  const Tensor added = mask.defined() ? mask.to(q.scalar_type()) : mask;
  const Tensor out =
      at::scaled_dot_product_attention(split_heads(q, heads), split_heads(k, heads),
                                       split_heads(v, heads), optional(added), 0.0, causal, scale);
  return out.transpose(1, 2).reshape(q.sizes());
}

// Scores that overflow 16 bits are computed in fp32 where ATen would keep them in fp16; the CPU's
// kernels always sum them in fp32.
Tensor attend(const Tensor& q, const Tensor& k, const Tensor& v, const Heads& heads) {
  if (!heads.fp32 || q.scalar_type() != at::kHalf) return attention(q, k, v, heads.count);
  return attention(q.to(at::kFloat), k.to(at::kFloat), v.to(at::kFloat), heads.count)
      .to(q.scalar_type());
}

// Rows of a picture times 8 to 20 KB each: a hidden layer of so many stays in a big cache.
constexpr int64_t kRowsAtOnce = 2048;

}  // namespace

Tensor attention(const Tensor& q, const Tensor& k, const Tensor& v, int64_t heads,
                 const Tensor& mask, std::optional<double> scale) {
  return attend(q, k, v, heads, mask, false, scale);
}

void attention_to(Tensor& y, const Tensor& q, const Tensor& k, const Tensor& v, int64_t heads) {
  if (cpu::takes(q)) return cpu::attend_to(y, q, cpu::pack_keys(k, v, heads), {}, false);
  y.copy_(attention(q, k, v, heads));
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
    const Tensor kv = key_value_(context.embedding().to(x.options()));
    const auto halves = kv.chunk(2, -1);
    auto made = std::make_shared<KeyValue>();
    if (cpu::takes(kv))
      made->packed = cpu::pack_keys(halves[0], halves[1], heads_.count);
    else
      made->key = halves[0], made->value = halves[1];
    return made;
  });
  const auto& kv = *static_cast<const KeyValue*>(remembered.get());
  const Tensor q = query_(x);
  out_.add_to(
      y, kv.packed ? cpu::attend(q, *kv.packed, {}, false) : attend(q, kv.key, kv.value, heads_));
}

GegluFeedForward::GegluFeedForward(const Scope& w, int64_t width, int64_t hidden)
    : up_(w / "net" / "0" / "proj", width, 2 * hidden, Bias::with, Epilogue::geglu),
      down_(w / "net" / "2", hidden, width) {}

void GegluFeedForward::add_to(Tensor& y, const LayerNorm& norm) const {
  const Tensor rows = y.view({-1, y.size(-1)});
  for (Tensor some : rows.split(rows.is_cpu() ? kRowsAtOnce : rows.size(0)))
    down_.add_to(some, up_(norm(some)));
}

}  // namespace atelier::nn
