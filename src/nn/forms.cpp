// Forms: packed by oneDNN where it packs, plain elsewhere.
#include "nn/forms.h"

#include "nn/cpu.h"

namespace atelier::nn {
namespace {

constexpr onednn::ConvGeometry kPhases{.stride = 1, .padding = 1};

at::Tensor plain(const Operands& operands, const Compute& compute) {
  return operands.joined(compute.dtype).to(compute.device.torch());
}

// A matrix, with the second half of its side branch as further columns.
at::Tensor widened(const Operands& operands, const Compute& compute) {
  const at::Tensor weight = plain(operands, compute);
  const std::optional<Side> side = operands.side();
  return side ? at::cat({weight, side->up.to(weight.options())}, 1) : weight;
}

at::Tensor plain_down(const at::Tensor& down, const Compute& compute) {
  return down.to(compute.device.torch(), compute.dtype);
}

}  // namespace

Form linear_form() {
  return {.name = "linear",
          .prepare =
              [](const Operands& operands, const Compute& compute) {
                const at::Tensor weight = widened(operands, compute);
                return onednn::packs(compute) ? onednn::pack_linear(weight) : weight;
              },
          .prepare_down = plain_down};
}

Form residual_form() {
  return {.name = "residual",
          .prepare =
              [](const Operands& operands, const Compute& compute) {
                const at::Tensor weight = widened(operands, compute);
                return onednn::packs(compute) ? onednn::pack_linear_add(weight) : weight;
              },
          .prepare_down = plain_down};
}

Form conv_form(onednn::ConvGeometry geometry, bool on_demand) {
  return {"conv",
          [geometry](const Operands& operands, const Compute& compute) {
            const at::Tensor weight = plain(operands, compute);
            return onednn::packs(compute) ? onednn::pack_conv(weight, geometry)
                                          : weight.contiguous(at::MemoryFormat::ChannelsLast);
          },
          on_demand};
}

Form phase_form() {
  return {"phases", [](const Operands& operands, const Compute& compute) {
            return onednn::pack_conv(cpu::phase_weights(operands).to(compute.dtype), kPhases);
          }};
}

Form phase_bias_form() {
  return {"phase bias", [](const Operands& operands, const Compute& compute) {
            return operands.joined(compute.dtype).repeat({4});
          }};
}

Form norm_form(const Compute& compute) {
  return compute.device.is_cpu() ? fp32_form() : plain_form();
}

at::Tensor with_side(const at::Tensor& x, const Pin& weight) {
  if (weight.rank() == 0) return x;
  return at::cat({x, at::linear(x, weight.down())}, -1);
}

at::Tensor pinned(const Weight& weight) { return weight ? *weight.pin() : at::Tensor(); }

}  // namespace atelier::nn
