// Tensors to kernel arguments.
#include "nn/cpu.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/error.h"
#include "nn/cpu_calls.h"
#include "nn/cpu_weights.h"
#include "nn/layers.h"

namespace atelier::nn::cpu {
namespace {

const float* floats(const Tensor& tensor) {
  return tensor.defined() ? tensor.const_data_ptr<float>() : nullptr;
}

Tensor empty_picture(const Tensor& like, int64_t channels, int64_t h, int64_t w) {
  return at::empty({like.size(0), channels, h, w}, like.options(), at::MemoryFormat::ChannelsLast);
}

// [..., C] as [rows][C] without a copy.
Tensor rows_of(const Tensor& x) {
  ATELIER_CHECK(x.stride(-1) == 1 || x.size(-1) == 1);
  return x.view({-1, x.size(-1)});
}

Tensor channels_last(const Tensor& x) { return x.contiguous(at::MemoryFormat::ChannelsLast); }

void run_linear(CpuLinear layer, const Tensor& x, const Pin& packed, const Tensor& bias, Tensor& y,
                bool accumulate) {
  const Tensor rows = x.contiguous();
  const int64_t count = rows.numel() / layer.inputs;
  layer = with_tail(layer, packed.rank(), packed.ranges());
  const Recorded record(accumulate ? "linear+" : "linear", 2 * count * layer.inputs * layer.outputs,
                        [&] {
                          return fmt::format("{}>{} x{}{}", layer.inputs, layer.outputs, count,
                                             layer.int8 ? " int8" : "");
                        });
  const auto product = layer.int8 ? int8_kernels()->linear : kernels().linear;
  product(layer,
          {.rows = count,
           .x = rows.const_data_ptr(),
           .x_stride = layer.inputs,
           .packed = packed->const_data_ptr(),
           .bias = floats(bias),
           .y = y.mutable_data_ptr(),
           .y_stride = y.size(-1),
           .accumulate = accumulate,
           .down = layer.tail > 0 ? packed.down().const_data_ptr() : nullptr},
          kParallel);
}

void run_conv(const CpuConv& layer, const Tensor& x, const Tensor& packed, const Tensor& bias,
              Tensor& y, bool accumulate) {
  const Tensor picture = channels_last(x);
  const int64_t taps = layer.kernel * layer.kernel * layer.inputs;
  const Recorded record(accumulate ? "conv+" : "conv", 2 * taps * y.numel(), [&] {
    return fmt::format("{0}x{0} {1}>{2} @{3}x{4} x{5}", layer.kernel, layer.inputs, layer.outputs,
                       y.size(2), y.size(3), y.size(0));
  });
  kernels().conv(layer,
                 {.input = {x.size(0), x.size(2), x.size(3)},
                  .x = picture.const_data_ptr(),
                  .packed = packed.const_data_ptr(),
                  .bias = floats(bias),
                  .bias_batch_stride = bias.defined() && bias.dim() == 2 ? layer.outputs : 0,
                  .y = y.mutable_data_ptr(),
                  .accumulate = accumulate},
                 kParallel);
}

}  // namespace

std::optional<CpuType> compute_type(at::ScalarType dtype) {
  if (dtype == at::kFloat) return CpuType::fp32;
  if (dtype == at::kBFloat16) return CpuType::bf16;
  return {};
}

bool takes(const Tensor& x) { return x.is_cpu() && compute_type(x.scalar_type()); }
bool takes(const Compute& compute) {
  return compute.device.is_cpu() && compute_type(compute.dtype);
}

std::optional<CpuLinear> linear_layer(const Compute& compute, int64_t in, int64_t out,
                                      CpuEpilogue epilogue) {
  if (!takes(compute)) return {};
  const CpuLinear layer{*compute_type(compute.dtype), in, out, epilogue};
  return kernels().linear_supported(layer) ? std::optional(layer) : std::nullopt;
}

bool multiplies_int8(const CpuLinear& layer, const std::vector<Weight>& weights) {
  return weights[0].compute().int8 && int8_kernels() && int8_kernels()->supported(layer) &&
         std::ranges::all_of(weights,
                             [](const Weight& w) { return w && w.stored_in(Encoding::q8_0); });
}

std::optional<CpuConv> conv_layer(const Compute& compute, CpuConv layer) {
  if (!takes(compute)) return {};
  layer.type = *compute_type(compute.dtype);
  const bool ours = kernels().conv_method(layer) != CpuConvMethod::library;
  return ours ? std::optional(layer) : std::nullopt;
}

namespace {

Tensor empty_outputs(const CpuLinear& layer, const Tensor& x) {
  at::DimVector sizes(x.sizes());
  sizes.back() = layer.epilogue == CpuEpilogue::geglu ? layer.outputs / 2 : layer.outputs;
  return at::empty(sizes, x.options());
}

}  // namespace

Tensor linear(const CpuLinear& layer, const Tensor& x, const Pin& weight, const Tensor& bias) {
  Tensor y = empty_outputs(layer, x);
  run_linear(layer, x, weight, bias, y, false);
  return y;
}

namespace {

Tensor run_unpacked(const CpuLinear& layer, const Tensor& x, const CpuWeights& matrix,
                    const Tensor& bias) {
  const Tensor rows = x.contiguous();
  const int64_t count = rows.numel() / layer.inputs;
  Tensor y = empty_outputs(layer, x);
  const Recorded record("linear unpacked", 2 * count * layer.inputs * layer.outputs, [&] {
    return fmt::format("{}>{} x{}", layer.inputs, layer.outputs, count);
  });
  kernels().linear_unpacked(layer, matrix,
                            {.rows = count,
                             .x = rows.const_data_ptr(),
                             .x_stride = layer.inputs,
                             .packed = nullptr,
                             .bias = floats(bias),
                             .y = y.mutable_data_ptr(),
                             .y_stride = y.size(-1)},
                            kParallel);
  return y;
}

}  // namespace

Tensor linear_unpacked(const CpuLinear& layer, const Tensor& x, const Operands& matrix,
                       const Tensor& bias) {
  return run_unpacked(layer, x, PackedFrom(matrix, layer.type).weights(), bias);
}

Tensor few_rows(const Tensor& x, const Tensor& matrix) {
  ATELIER_CHECK(x.scalar_type() == at::kFloat && matrix.is_contiguous());
  const CpuLinear layer{.type = CpuType::fp32, .inputs = matrix.size(1), .outputs = matrix.size(0)};
  return run_unpacked(layer, x, weights_of(matrix), {});
}

void linear_add(const CpuLinear& layer, Tensor& y, const Tensor& x, const Pin& weight,
                const Tensor& bias) {
  ATELIER_CHECK(y.is_contiguous());
  run_linear(layer, x, weight, bias, y, true);
}

Tensor conv(const CpuConv& layer, const Tensor& x, const Tensor& packed, const Tensor& bias) {
  Tensor y = empty_picture(x, layer.outputs, conv_output_size(layer, x.size(2)),
                           conv_output_size(layer, x.size(3)));
  run_conv(layer, x, packed, bias, y, false);
  return y;
}

void conv_add(const CpuConv& layer, Tensor& y, const Tensor& x, const Tensor& packed,
              const Tensor& bias) {
  ATELIER_CHECK(y.is_contiguous(at::MemoryFormat::ChannelsLast));
  run_conv(layer, x, packed, bias, y, true);
}

namespace {

// `skip` and `joined` may be undefined.
void run_group_norm(const GroupNormArguments& norm, const Tensor& x, const Tensor& skip, Tensor& y,
                    const Tensor& joined) {
  const Recorded record("group_norm", 0, [&] { return to_string(y.sizes().vec()); });
  kernels().group_norm({.type = type_of(x),
                        .batch = x.size(0),
                        .pixels = x.size(2) * x.size(3),
                        .channels = x.size(1),
                        .skip_channels = skip.defined() ? skip.size(1) : 0,
                        .x = x.const_data_ptr(),
                        .skip = skip.defined() ? skip.const_data_ptr() : nullptr,
                        .groups = norm.groups,
                        .epsilon = static_cast<float>(norm.eps),
                        .weight = floats(norm.weight),
                        .bias = floats(norm.bias),
                        .silu = norm.silu,
                        .y = y.mutable_data_ptr(),
                        .joined = joined.defined() ? joined.mutable_data_ptr() : nullptr},
                       kParallel);
}

}  // namespace

Tensor group_norm(const GroupNormArguments& norm, const Tensor& x, const Tensor& skip,
                  Tensor* joined) {
  const Tensor first = channels_last(x);
  const Tensor second = skip.defined() ? channels_last(skip) : Tensor();
  const int64_t channels = x.size(1) + (second.defined() ? second.size(1) : 0);
  Tensor y = empty_picture(x, channels, x.size(2), x.size(3));
  if (joined) *joined = second.defined() ? at::empty_like(y) : first;
  run_group_norm(norm, first, second, y, joined && second.defined() ? *joined : Tensor());
  return y;
}

void group_norm_in_place(const GroupNormArguments& norm, Tensor& x) {
  ATELIER_CHECK(x.is_contiguous(at::MemoryFormat::ChannelsLast));
  run_group_norm(norm, x, {}, x, {});
}

Tensor layer_norm(const Tensor& x, const Tensor& weight, const Tensor& bias, double eps) {
  const Tensor rows = x.contiguous();
  Tensor y = at::empty_like(rows);
  const int64_t channels = x.size(-1);
  const Recorded record("layer_norm", 0, [&] { return to_string(y.sizes().vec()); });
  kernels().layer_norm({.type = type_of(x),
                        .rows = rows.numel() / channels,
                        .channels = channels,
                        .x = rows.const_data_ptr(),
                        .x_stride = channels,
                        .epsilon = static_cast<float>(eps),
                        .weight = floats(weight),
                        .bias = floats(bias),
                        .y = y.mutable_data_ptr(),
                        .y_stride = channels},
                       kParallel);
  return y;
}

void rms_norm_to(Tensor& y, const Tensor& x, const Tensor& weight, double eps, const Rope* rope) {
  const int64_t channels = weight.numel();
  ATELIER_CHECK(x.dim() == 3 && x.sizes() == y.sizes() && x.size(2) % channels == 0);
  ATELIER_CHECK(x.size(2) == 1 || (x.stride(2) == 1 && y.stride(2) == 1));
  ATELIER_CHECK(!rope || (rope->length() == x.size(1) && rope->width() == channels));
  const Recorded record("rms_norm", 0, [&] { return to_string(y.sizes().vec()); });
  for (int64_t b = 0; b < x.size(0); ++b)
    kernels().rms_norm({.type = type_of(x),
                        .out = type_of(y),
                        .rows = x.size(1),
                        .heads = x.size(2) / channels,
                        .channels = channels,
                        .x = x[b].const_data_ptr(),
                        .x_stride = x.stride(1),
                        .epsilon = static_cast<float>(eps),
                        .weight = floats(weight),
                        .y = y[b].mutable_data_ptr(),
                        .y_stride = y.stride(1),
                        .cosines = rope ? floats(rope->cosines()) : nullptr,
                        .sines = rope ? floats(rope->sines()) : nullptr},
                       kParallel);
}

Tensor geglu(const Tensor& x) {
  const Tensor rows = x.contiguous();
  at::DimVector sizes(x.sizes());
  sizes.back() /= 2;
  Tensor y = at::empty(sizes, x.options());
  const Recorded record("geglu", 0, [&] { return to_string(y.sizes().vec()); });
  kernels().geglu({.type = type_of(x),
                   .rows = y.numel() / y.size(-1),
                   .channels = y.size(-1),
                   .x = rows.const_data_ptr(),
                   .y = y.mutable_data_ptr()},
                  kParallel);
  return y;
}

void activate(Tensor& x, CpuActivation activation) {
  ATELIER_CHECK(x.is_non_overlapping_and_dense());
  const Recorded record("activation", 0, [&] { return to_string(x.sizes().vec()); });
  kernels().activate({.type = type_of(x),
                      .activation = activation,
                      .count = x.numel(),
                      .x = x.const_data_ptr(),
                      .y = x.mutable_data_ptr()},
                     kParallel);
}

void activate_to(Tensor& y, const Tensor& x, CpuActivation activation) {
  const Tensor from = rows_of(x), to = rows_of(y);
  const Recorded record("activation", 0, [&] { return to_string(x.sizes().vec()); });
  kernels().activate({.type = type_of(x),
                      .activation = activation,
                      .count = x.size(-1),
                      .x = from.const_data_ptr(),
                      .y = to.mutable_data_ptr(),
                      .rows = from.size(0),
                      .x_stride = from.stride(0),
                      .y_stride = to.stride(0)},
                     kParallel);
}

namespace {

CpuUpsample doubling(const Tensor& small, int64_t h, int64_t w, Tensor& y) {
  return {.type = type_of(small),
          .batch = y.size(0),
          .height = h,
          .width = w,
          .channels = y.size(1),
          .x = small.const_data_ptr(),
          .y = y.mutable_data_ptr()};
}

}  // namespace

Tensor upsample2(const Tensor& x) {
  const Tensor small = channels_last(x);
  Tensor y = empty_picture(x, x.size(1), 2 * x.size(2), 2 * x.size(3));
  kernels().upsample2(doubling(small, x.size(2), x.size(3), y), kParallel);
  return y;
}

Tensor interleave_phases(const Tensor& x) {
  const Tensor phases = channels_last(x);
  const int64_t h = x.size(2) - 1, w = x.size(3) - 1;
  const Recorded record("interleave", 0, [&] { return to_string(x.sizes().vec()); });
  Tensor y = empty_picture(x, x.size(1) / 4, 2 * h, 2 * w);
  kernels().interleave_phases(doubling(phases, h, w, y), kParallel);
  return y;
}

}  // namespace atelier::nn::cpu
