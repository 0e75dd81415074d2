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

namespace {

// Packed for an input of h x w: the layout oneDNN picks may depend on it.
Tensor pack_conv(const Tensor& weight, ConvGeometry geometry, at::IntArrayRef size) {
  static const auto op =
      find<Tensor(const Tensor&, Ints, Ints, Ints, int64_t, at::OptionalIntArrayRef)>(
          "mkldnn::_reorder_convolution_weight");
  const int64_t padding[] = {geometry.padding, geometry.padding};
  const int64_t stride[] = {geometry.stride, geometry.stride};
  const int64_t input[] = {1, weight.size(1), size[0], size[1]};
  return op.call(weight.contiguous(at::MemoryFormat::ChannelsLast), padding, stride, {1, 1}, 1,
                 at::OptionalIntArrayRef(Ints(input)));
}

// Rows of a linear layer as the pixels of a tall picture, without copying.
Tensor as_picture(const Tensor& x) {
  const Tensor rows = x.view({-1, x.size(-1)});
  return rows.view({1, rows.size(0), 1, rows.size(1)}).permute({0, 3, 1, 2});
}

constexpr int64_t kRows[] = {4096, 1}, kPixels[] = {64, 64};

}  // namespace

Tensor pack_conv(const Tensor& weight, ConvGeometry geometry) {
  return pack_conv(weight, geometry, kPixels);
}

Tensor pack_linear_add(const Tensor& weight) {
  return pack_conv(weight.view({weight.size(0), weight.size(1), 1, 1}), {}, kRows);
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

void linear_add(Tensor& y, const Tensor& x, const Tensor& packed, const Tensor& bias) {
  Tensor sum = as_picture(y);
  conv_add(sum, as_picture(x.contiguous()), packed, bias, {});
}

}  // namespace atelier::nn::onednn
