// Attention in plain C++: one query at a time, softmax over all keys in fp32.
#include <algorithm>
#include <cmath>
#include <limits>

#include "device/cpu/portable/portable.h"
#include "device/cpu/scalar.h"
#include "device/cpu/scratch.h"

namespace atelier::portable {
namespace {

constexpr int64_t kLanes = 8;  // partial sums of a dot product, so that compilers can vectorise it

float dot(const float* a, const float* b, int64_t count) {
  float sums[kLanes] = {};
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    for (int64_t lane = 0; lane < kLanes; ++lane) sums[lane] += a[i + lane] * b[i + lane];
  }
  for (; i < count; ++i) sums[0] += a[i] * b[i];
  float total = 0;
  for (const float sum : sums) total += sum;
  return total;
}

template <class T>
void widen_row(const void* data, int64_t offset, int64_t count, float* out) {
  const T* row = static_cast<const T*>(data) + offset;
  for (int64_t i = 0; i < count; ++i) out[i] = widen(row[i]);
}

template <class T>
void pack(const CpuAttention& s, const CpuHeads& k, const CpuHeads& v, float* packed,
          const Parallel& parallel) {
  parallel_for(parallel, s.batch * s.heads * s.keys, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t plane = i / s.keys, row = i % s.keys;
      const int64_t batch = plane / s.heads, head = plane % s.heads;
      const auto at = [&](const CpuHeads& view) {
        return batch * view.batch_stride + row * view.row_stride + head * view.head_stride;
      };
      float* out = packed + (plane * 2 * s.keys + row) * s.head_size;
      widen_row<T>(k.data, at(k), s.head_size, out);
      widen_row<T>(v.data, at(v), s.head_size, out + s.keys * s.head_size);
    }
  });
}

// Softmax of `count` scores in place; returns false if every one is -infinity.
bool softmax(float* scores, int64_t count) {
  const float highest = *std::max_element(scores, scores + count);
  if (highest == -std::numeric_limits<float>::infinity()) return false;
  float sum = 0;
  for (int64_t i = 0; i < count; ++i) sum += scores[i] = std::exp(scores[i] - highest);
  for (int64_t i = 0; i < count; ++i) scores[i] /= sum;
  return true;
}

struct Row {
  float *query, *scores, *result;
};

void attend_row(const CpuAttention& s, const float* keys, const float* mask, int64_t visible,
                const Row& row) {
  const float* values = keys + s.keys * s.head_size;
  for (int64_t j = 0; j < visible; ++j) {
    row.scores[j] = s.scale * dot(row.query, keys + j * s.head_size, s.head_size);
    if (mask != nullptr) row.scores[j] += mask[j];
  }
  std::fill_n(row.result, s.head_size, 0.F);
  if (!softmax(row.scores, visible)) return;
  for (int64_t j = 0; j < visible; ++j) {
    const float* value = values + j * s.head_size;
    for (int64_t d = 0; d < s.head_size; ++d) row.result[d] += row.scores[j] * value[d];
  }
}

template <class T>
void attend_all(const CpuAttention& s, const CpuHeads& q, const float* packed, const CpuMask& mask,
                const CpuHeads& out, const Parallel& parallel) {
  parallel_for(parallel, s.batch * s.heads * s.queries, [&](int64_t begin, int64_t end) {
    const Scratch scratch((2 * s.head_size + s.keys) * int64_t{sizeof(float)});
    float* memory = static_cast<float*>(scratch.data());
    const Row row{memory, memory + 2 * s.head_size, memory + s.head_size};
    for (int64_t i = begin; i < end; ++i) {
      const int64_t plane = i / s.queries, n = i % s.queries;
      const int64_t batch = plane / s.heads, head = plane % s.heads;
      const auto at = [&](const CpuHeads& view) {
        return batch * view.batch_stride + n * view.row_stride + head * view.head_stride;
      };
      widen_row<T>(q.data, at(q), s.head_size, row.query);
      const float* mask_row = mask.data == nullptr
                                  ? nullptr
                                  : mask.data + batch * mask.batch_stride +
                                        head * mask.head_stride + n * mask.query_stride;
      const int64_t visible = s.causal ? std::min(n + 1, s.keys) : s.keys;
      attend_row(s, packed + plane * 2 * s.keys * s.head_size, mask_row, visible, row);
      T* result = static_cast<T*>(out.data) + at(out);
      for (int64_t d = 0; d < s.head_size; ++d) narrow(row.result[d], result[d]);
    }
  });
}

}  // namespace

int64_t packed_kv_bytes(const CpuAttention& s) {
  return 2 * s.batch * s.heads * s.keys * s.head_size * int64_t{sizeof(float)};
}

void pack_kv(const CpuAttention& s, const CpuHeads& k, const CpuHeads& v, void* packed,
             const Parallel& parallel) {
  float* out = static_cast<float*>(packed);
  s.type == CpuType::fp32 ? pack<float>(s, k, v, out, parallel)
                          : pack<Bf16>(s, k, v, out, parallel);
}

void attend(const CpuAttention& s, const CpuHeads& q, const void* packed, const CpuMask& mask,
            const CpuHeads& out, const Parallel& parallel) {
  const float* kv = static_cast<const float*>(packed);
  s.type == CpuType::fp32 ? attend_all<float>(s, q, kv, mask, out, parallel)
                          : attend_all<Bf16>(s, q, kv, mask, out, parallel);
}

}  // namespace atelier::portable
