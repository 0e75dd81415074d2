// Forms: packed by oneDNN where it packs, plain elsewhere.
#include "nn/forms.h"

#include "nn/cpu.h"

namespace atelier::nn {
namespace {

constexpr onednn::ConvGeometry kPhases{.stride = 1, .padding = 1};

at::Tensor plain(const Operands& operands, const Compute& compute) {
  return operands.joined(compute.dtype).to(compute.device.torch());
}

}  // namespace

Form linear_form() {
  return {"linear", [](const Operands& operands, const Compute& compute) {
            const at::Tensor weight = plain(operands, compute);
            return onednn::packs(compute) ? onednn::pack_linear(weight) : weight;
          }};
}

Form residual_form() {
  return {"residual", [](const Operands& operands, const Compute& compute) {
            const at::Tensor weight = plain(operands, compute);
            return onednn::packs(compute) ? onednn::pack_linear_add(weight) : weight;
          }};
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

at::Tensor pinned(const Weight& weight) { return weight ? *weight.pin() : at::Tensor(); }

}  // namespace atelier::nn
