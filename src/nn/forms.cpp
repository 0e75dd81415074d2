// Forms: packed by oneDNN where it packs, plain elsewhere.
#include "nn/forms.h"

namespace atelier::nn {

Form linear_form() {
  return {"linear", [](const Operands& operands, const Compute& compute) {
            const at::Tensor plain = operands.joined(compute.dtype);
            return onednn::packs(compute) ? onednn::pack_linear(plain)
                                          : plain.to(compute.device.torch());
          }};
}

Form conv_form(onednn::ConvGeometry geometry) {
  return {
      "conv", [geometry](const Operands& operands, const Compute& compute) {
        const at::Tensor plain = operands.joined(compute.dtype);
        return onednn::packs(compute)
                   ? onednn::pack_conv(plain, geometry)
                   : plain.to(compute.device.torch()).contiguous(at::MemoryFormat::ChannelsLast);
      }};
}

Form norm_form(const Compute& compute) {
  return compute.device.is_cpu() ? fp32_form() : plain_form();
}

at::Tensor pinned(const Weight& weight) { return weight ? *weight.pin() : at::Tensor(); }

}  // namespace atelier::nn
