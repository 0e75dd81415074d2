// Tables in double once; the rotation as ATen does it.
#include "nn/rope.h"

#include <ATen/ATen.h>

#include "base/error.h"

namespace atelier::nn {

Rope::Rope(const Tensor& ids, std::span<const int64_t> axes, double theta, at::Device device) {
  ATELIER_CHECK(ids.dim() == 2 && ids.size(1) == static_cast<int64_t>(axes.size()));
  const Tensor positions = ids.to(at::kCPU, at::kDouble);
  std::vector<Tensor> angles;
  for (size_t axis = 0; axis < axes.size(); ++axis) {
    ATELIER_CHECK(axes[axis] % 2 == 0);
    const Tensor exponents =
        at::arange(0, axes[axis], 2, at::dtype(at::kDouble)) / -static_cast<double>(axes[axis]);
    const Tensor position = positions.select(1, static_cast<int64_t>(axis));
    angles.push_back(at::outer(position, at::pow(theta, exponents)));
  }
  const Tensor all = at::cat(angles, 1);
  cosines_ = all.cos().to(device, at::kFloat);
  sines_ = all.sin().to(device, at::kFloat);
}

Rope Rope::part(int64_t first, int64_t count) const {
  Rope some;
  some.cosines_ = cosines_.narrow(0, first, count);
  some.sines_ = sines_.narrow(0, first, count);
  return some;
}

Tensor Rope::turn(const Tensor& x) const {
  ATELIER_CHECK(x.dim() == 4 && x.size(1) == length() && x.size(3) == width());
  const Tensor pairs = x.unflatten(-1, {-1, 2}).to(at::kFloat);
  const Tensor a = pairs.select(-1, 0), b = pairs.select(-1, 1);
  const Tensor c = cosines_.unsqueeze(1), s = sines_.unsqueeze(1);
  return at::stack({a * c - b * s, a * s + b * c}, -1).flatten(-2).to(x.scalar_type());
}

Rope RopeCache::get(const std::vector<int64_t>& key, const std::function<Rope()>& make) const {
  const std::lock_guard lock(mutex_);
  if (key_ != key) {
    rope_ = make();
    key_ = key;
  }
  return rope_;
}

}  // namespace atelier::nn
