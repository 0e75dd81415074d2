// Calls of the mkldnn:: operators by name; their schemas are those of libtorch 2.13.
#include "nn/onednn.h"

#include <ATen/core/List.h>
#include <ATen/core/dispatch/Dispatcher.h>

namespace atelier::nn::onednn {
namespace {

using Scalars = c10::List<std::optional<at::Scalar>>;
using Text = c10::string_view;
using OptionalText = std::optional<Text>;
using OptionalTensor = std::optional<Tensor>;
using Ints = at::IntArrayRef;

template <class Signature>
c10::TypedOperatorHandle<Signature> find(const char* name, const char* overload = "") {
  return c10::Dispatcher::singleton().findSchemaOrThrow(name, overload).typed<Signature>();
}

OptionalTensor optional(const Tensor& tensor) {
  return tensor.defined() ? OptionalTensor(tensor) : std::nullopt;
}

}  // namespace

bool packs(const Compute& compute) {
  if (!compute.device.is_cpu() || !at::globalContext().hasMKLDNN()) return false;
  return computes_natively(compute.device, compute.dtype);
}

Tensor pack_linear(const Tensor& weight) {
  static const auto op =
      find<Tensor(const Tensor&, std::optional<int64_t>)>("mkldnn::_reorder_linear_weight");
  return op.call(weight.contiguous(), std::nullopt);
}

Tensor pack_conv(const Tensor& weight, ConvGeometry geometry) {
  static const auto op =
      find<Tensor(const Tensor&, Ints, Ints, Ints, int64_t, at::OptionalIntArrayRef)>(
          "mkldnn::_reorder_convolution_weight");
  const int64_t padding[] = {geometry.padding, geometry.padding};
  const int64_t stride[] = {geometry.stride, geometry.stride};
  const int64_t input[] = {1, weight.size(1), 64, 64};
  return op.call(weight.contiguous(at::MemoryFormat::ChannelsLast), padding, stride, {1, 1}, 1,
                 at::OptionalIntArrayRef(Ints(input)));
}

Tensor linear(const Tensor& x, const Tensor& packed, const Tensor& bias) {
  static const auto op = find<Tensor(const Tensor&, const Tensor&, const OptionalTensor&, Text,
                                     Scalars, OptionalText)>("mkldnn::_linear_pointwise");
  return op.call(x, packed, optional(bias), "none", Scalars(), "");
}

Tensor conv(const Tensor& x, const Tensor& packed, const Tensor& bias, ConvGeometry geometry) {
  static const auto op =
      find<Tensor(const Tensor&, const Tensor&, const OptionalTensor&, Ints, Ints, Ints, int64_t,
                  Text, Scalars, OptionalText)>("mkldnn::_convolution_pointwise");
  const int64_t padding[] = {geometry.padding, geometry.padding};
  const int64_t stride[] = {geometry.stride, geometry.stride};
  return op.call(x, packed, optional(bias), padding, stride, {1, 1}, 1, "none", Scalars(), "");
}

void conv_add(Tensor& y, const Tensor& x, const Tensor& packed, const Tensor& bias,
              ConvGeometry geometry) {
  static const auto op =
      find<Tensor&(Tensor&, const Tensor&, const Tensor&, const OptionalTensor&, Ints, Ints, Ints,
                   int64_t, Text, std::optional<at::Scalar>, OptionalText, Scalars, OptionalText)>(
          "mkldnn::_convolution_pointwise_", "binary");
  const int64_t padding[] = {geometry.padding, geometry.padding};
  const int64_t stride[] = {geometry.stride, geometry.stride};
  op.call(y, x, packed, optional(bias), padding, stride, {1, 1}, 1, "add", at::Scalar(1.0),
          std::nullopt, Scalars(), std::nullopt);
}

}  // namespace atelier::nn::onednn
