// On the CPU the norm's kernel scales and shifts as it goes, one batch element at a time.
#include "nn/modulation.h"

#include <ATen/ATen.h>

#include "nn/cpu.h"

namespace atelier::nn {

Tensor modulate(const Tensor& x, const Tensor& shift, const Tensor& scale, double eps) {
  if (!cpu::takes(x))
    return at::addcmul(shift.unsqueeze(1), at::layer_norm(x, {x.size(-1)}, {}, {}, eps),
                       1 + scale.unsqueeze(1));
  const Tensor weights = scale.to(at::kFloat) + 1;
  const Tensor biases = shift.to(at::kFloat).contiguous();
  std::vector<Tensor> parts;
  for (int64_t b = 0; b < x.size(0); ++b)
    parts.push_back(cpu::layer_norm(x.narrow(0, b, 1), weights[b], biases[b], eps));
  return parts.size() == 1 ? parts[0] : at::cat(parts);
}

void add_gated(Tensor& y, const Tensor& gate, const Tensor& x) { y.addcmul_(gate.unsqueeze(1), x); }

}  // namespace atelier::nn
