// One pass over each row, rows shared out to libtorch's threads.
#include "nn/row_kernels.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <algorithm>
#include <cmath>

#include "base/error.h"

namespace atelier::nn::cpu {
namespace {

// Elements that are worth a thread's start.
constexpr int64_t kGrain = 1 << 15;

template <class In, class Out>
void norm_row(const In* x, const float* weight, Out* y, int64_t channels, float eps) {
  constexpr int64_t kLanes = 16;  // partial sums, so that the compiler may keep them in registers
  float sums[kLanes] = {};
  int64_t i = 0;
  for (; i + kLanes <= channels; i += kLanes)
    for (int64_t lane = 0; lane < kLanes; ++lane) {
      const auto value = static_cast<float>(x[i + lane]);
      sums[lane] += value * value;
    }
  float sum = 0;
  for (const float part : sums) sum += part;
  for (; i < channels; ++i) sum += static_cast<float>(x[i]) * static_cast<float>(x[i]);
  const float scale = 1 / std::sqrt(sum / static_cast<float>(channels) + eps);
  for (i = 0; i < channels; ++i)
    y[i] = static_cast<Out>(static_cast<float>(x[i]) * scale * weight[i]);
}

template <class T>
void rotate_row(T* x, const float* cosines, const float* sines, int64_t pairs) {
  for (int64_t i = 0; i < pairs; ++i) {
    const auto a = static_cast<float>(x[2 * i]), b = static_cast<float>(x[2 * i + 1]);
    x[2 * i] = static_cast<T>(a * cosines[i] - b * sines[i]);
    x[2 * i + 1] = static_cast<T>(a * sines[i] + b * cosines[i]);
  }
}

// Calls `body` with a null pointer to a dtype.
template <class Body>
void with_type(at::ScalarType dtype, const Body& body) {
  if (dtype == at::kFloat)
    body(static_cast<float*>(nullptr));
  else
    body(static_cast<c10::BFloat16*>(nullptr));
}

template <class Body>
void for_rows(int64_t rows, int64_t width, const Body& body) {
  at::parallel_for(0, rows, std::max<int64_t>(1, kGrain / width), [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) body(row);
  });
}

}  // namespace

Tensor rms_norm(const Tensor& x, const Tensor& weight, double eps, at::ScalarType dtype) {
  const int64_t channels = x.size(-1), inner = x.dim() > 1 ? x.size(-2) : 1;
  const Tensor rows = x.reshape({-1, inner, channels});
  ATELIER_CHECK(rows.stride(2) == 1 || channels == 1);
  Tensor y = at::empty(x.sizes(), x.options().dtype(dtype));
  const float* scale = weight.const_data_ptr<float>();
  const int64_t outer_stride = rows.stride(0), inner_stride = rows.stride(1);
  with_type(x.scalar_type(), [&]<class In>(In*) {
    with_type(dtype, [&]<class Out>(Out*) {
      const In* from = rows.const_data_ptr<In>();
      Out* to = y.mutable_data_ptr<Out>();
      for_rows(rows.size(0) * inner, channels, [&](int64_t row) {
        norm_row(from + row / inner * outer_stride + row % inner * inner_stride, scale,
                 to + row * channels, channels, static_cast<float>(eps));
      });
    });
  });
  return y;
}

void rotate_pairs(Tensor& x, const Tensor& cosines, const Tensor& sines) {
  ATELIER_CHECK(x.is_contiguous() && cosines.is_contiguous() && sines.is_contiguous());
  const int64_t length = x.size(1), heads = x.size(2), width = x.size(3), pairs = width / 2;
  const float* c = cosines.const_data_ptr<float>();
  const float* s = sines.const_data_ptr<float>();
  with_type(x.scalar_type(), [&]<class T>(T*) {
    T* data = x.mutable_data_ptr<T>();
    for_rows(x.size(0) * length, heads * width, [&](int64_t row) {
      const int64_t place = row % length * pairs;
      for (int64_t head = 0; head < heads; ++head)
        rotate_row(data + (row * heads + head) * width, c + place, s + place, pairs);
    });
  });
}

}  // namespace atelier::nn::cpu
