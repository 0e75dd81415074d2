// Attention over heads and blocks of queries; how one head is computed says attention_head.h.
#pragma once

#include "device/cpu/x86/simd/attention_head.h"

namespace atelier {
namespace {

/// One kernel object and the loops over heads and query blocks.
template <class T, int kSize>
struct AttentionDriver {
  static HeadAttention<T, kSize> kernel(const CpuAttention& s) {
    return HeadAttention<T, kSize>(s.head_size, s.scale);
  }
  static int64_t head_words(const CpuAttention& s) {
    const auto head = kernel(s);
    return head.key_words(s.keys) + head.value_words(s.keys);
  }
  static const T* at(const CpuHeads& view, const CpuAttention& s, int64_t plane, int64_t row) {
    return static_cast<const T*>(view.data) + plane / s.heads * view.batch_stride +
           plane % s.heads * view.head_stride + row * view.row_stride;
  }

  static void pack(const CpuAttention& s, const CpuHeads& k, const CpuHeads& v, uint32_t* packed,
                   const Parallel& parallel) {
    constexpr int64_t kKeys = kKeyBlock<T>;
    const int64_t blocks = divide_up(s.keys, kKeys), planes = s.batch * s.heads;
    parallel_for(parallel, planes * blocks, [&](int64_t begin, int64_t end) {
      const auto head = kernel(s);
      for (int64_t i = begin; i < end; ++i) {
        const int64_t plane = i / blocks;
        head.pack(at(k, s, plane, 0), k.row_stride, at(v, s, plane, 0), v.row_stride, s.keys,
                  i % blocks * kKeys, packed + plane * head_words(s));
      }
    });
  }

  static void attend(const CpuAttention& s, const CpuHeads& q, const uint32_t* packed,
                     const CpuMask& mask, const CpuHeads& out, const Parallel& parallel) {
    const int64_t blocks = divide_up(s.queries, kQueryBlock), planes = s.batch * s.heads;
    parallel_for(parallel, planes * blocks, [&](int64_t begin, int64_t end) {
      const auto head = kernel(s);
      const Scratch scratch(head.work_bytes());
      for (int64_t i = begin; i < end; ++i) {
        const int64_t plane = i / blocks, first = i % blocks * kQueryBlock;
        HeadMask head_mask{nullptr, mask.query_stride, s.causal};
        if (mask.data != nullptr) {
          head_mask.data =
              mask.data + plane / s.heads * mask.batch_stride + plane % s.heads * mask.head_stride;
        }
        head.attend(at(q, s, plane, first), q.row_stride, first,
                    min64(kQueryBlock, s.queries - first), packed + plane * head_words(s), s.keys,
                    head_mask, const_cast<T*>(at(out, s, plane, first)), out.row_stride,
                    scratch.data());
      }
    });
  }
};

/// Calls body(AttentionDriver<T, D>{}) for the shape's type and head size.
template <class F>
auto with_attention(const CpuAttention& s, const F& body) {
  const auto with_size = [&]<class T>(T) {
    switch (s.head_size) {
      case 40:
        return body(AttentionDriver<T, 40>{});
      case 64:
        return body(AttentionDriver<T, 64>{});
      case 80:
        return body(AttentionDriver<T, 80>{});
      case 128:
        return body(AttentionDriver<T, 128>{});
      case 160:
        return body(AttentionDriver<T, 160>{});
      case 512:
        return body(AttentionDriver<T, 512>{});
      default:
        return body(AttentionDriver<T, 0>{});
    }
  };
  return s.type == CpuType::fp32 ? with_size(float{}) : with_size(Bf16{});
}

int64_t packed_kv_bytes(const CpuAttention& s) {
  return with_attention(s, [&]<class Driver>(Driver) {
    return s.batch * s.heads * Driver::head_words(s) * int64_t{sizeof(uint32_t)};
  });
}
void pack_kv(const CpuAttention& s, const CpuHeads& k, const CpuHeads& v, void* packed,
             const Parallel& parallel) {
  with_attention(s, [&]<class Driver>(Driver) {
    Driver::pack(s, k, v, static_cast<uint32_t*>(packed), parallel);
  });
}
void attend(const CpuAttention& s, const CpuHeads& q, const void* packed, const CpuMask& mask,
            const CpuHeads& out, const Parallel& parallel) {
  with_attention(s, [&]<class Driver>(Driver) {
    Driver::attend(s, q, static_cast<const uint32_t*>(packed), mask, out, parallel);
  });
}

}  // namespace
}  // namespace atelier
