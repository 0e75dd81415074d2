// Attention's kernels on tensors.
#include <fmt/format.h>

#include <cmath>

#include "base/error.h"
#include "nn/cpu_calls.h"
#include "nn/cpu_weights.h"

namespace atelier::nn::cpu {
namespace {

Tensor bytes(int64_t count) { return at::empty({count}, at::dtype(at::kByte)); }

CpuHeads heads_of(const Tensor& x, int64_t head_size) {
  ATELIER_CHECK(x.stride(2) == 1 || x.size(2) == 1);
  return {const_cast<void*>(x.const_data_ptr()), x.stride(0), x.stride(1), head_size};
}

CpuAttention shape_of(const PackedKeys& keys, CpuType type, int64_t queries, bool causal) {
  return {.type = type,
          .batch = keys.batch,
          .heads = keys.heads,
          .queries = queries,
          .keys = keys.keys,
          .head_size = keys.head_size,
          .scale = keys.scale,
          .causal = causal};
}

}  // namespace

PackedKeys pack_keys(const Tensor& k, const Tensor& v, int64_t heads, std::optional<double> scale) {
  const int64_t head_size = k.size(2) / heads;
  PackedKeys keys{
      {},
      k.size(0),
      k.size(1),
      heads,
      head_size,
      scale ? static_cast<float>(*scale) : 1.0f / std::sqrt(static_cast<float>(head_size))};
  const CpuAttention shape = shape_of(keys, type_of(k), 1, false);
  keys.bytes = bytes(kernels().packed_kv_bytes(shape));
  const Recorded record("pack_kv", 0, [&] { return to_string(k.sizes().vec()); });
  kernels().pack_kv(shape, heads_of(k, keys.head_size), heads_of(v, keys.head_size),
                    keys.bytes.mutable_data_ptr(), kParallel);
  return keys;
}

Tensor attend(const Tensor& q, const PackedKeys& keys, const Tensor& mask, bool causal) {
  Tensor out = at::empty(q.sizes(), q.options());
  attend_to(out, q, keys, mask, causal);
  return out;
}

void attend_to(Tensor& y, const Tensor& q, const PackedKeys& keys, const Tensor& mask,
               bool causal) {
  ATELIER_CHECK(y.sizes() == q.sizes() && y.scalar_type() == q.scalar_type());
  const CpuAttention shape = shape_of(keys, type_of(q), q.size(1), causal);
  Tensor added;
  CpuMask seen;
  if (mask.defined()) {
    added = mask.to(at::kFloat).expand({keys.batch, keys.heads, q.size(1), keys.keys});
    if (added.stride(3) != 1) added = added.contiguous();
    seen = {added.const_data_ptr<float>(), added.stride(0), added.stride(1), added.stride(2)};
  }
  const Recorded record("attention", 4 * q.numel() * keys.keys, [&] {
    return fmt::format("{}x{}x{} x{}", q.size(1), keys.keys, keys.head_size,
                       keys.batch * keys.heads);
  });
  kernels().attend(shape, heads_of(q, keys.head_size), keys.bytes.const_data_ptr(), seen,
                   heads_of(y, keys.head_size), kParallel);
}

}  // namespace atelier::nn::cpu
