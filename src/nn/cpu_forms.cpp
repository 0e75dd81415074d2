// Weights in the forms that kernels take.
#include "nn/cpu_weights.h"
#include "nn/layers.h"

namespace atelier::nn::cpu {

const CpuKernels& kernels() {
  static const CpuKernels& best = cpu_kernels(detect_cpu_features());
  return best;
}

const CpuInt8Kernels* int8_kernels() {
  static const CpuInt8Kernels* const best = cpu_int8_kernels(detect_cpu_features());
  return best;
}

PackedFrom::PackedFrom(const Operands& operands, CpuType wanted) : operands_(operands) {
  const auto stored = operands.stored_dtype();
  dtype_ = stored.value_or(wanted == CpuType::bf16 ? at::kBFloat16 : at::kFloat);
  joined_ = operands.view(dtype_);
  if (!joined_.defined() && !operands.streams()) joined_ = operands.joined(dtype_);
}

CpuWeights PackedFrom::weights() const {
  const CpuType type = dtype_ == at::kHalf ? CpuType::fp16 : *compute_type(dtype_);
  return {type, joined_.defined() ? joined_.const_data_ptr() : nullptr, this};
}

void PackedFrom::read(int64_t first, int64_t count, void* to) const {
  operands_.read(first, count, dtype_, to);
}

namespace {

// Weights in a dtype the packing kernels read: as stored if they are, else fp32.
Tensor stored(const Operands& operands) {
  const at::ScalarType dtype = operands.stored_dtype().value_or(at::kFloat);
  return operands.joined(dtype);
}

// The product with the side branch's first matrix [rank, in].
CpuLinear down_layer(const CpuLinear& layer, int64_t rank) {
  return {.type = layer.type, .inputs = layer.inputs, .outputs = rank};
}

Form int8_form(const CpuLinear& layer) {
  return {.name = kInt8Form,
          .prepare =
              [layer](const Operands& operands, const Compute&) {
                const PackedFrom from(operands, CpuType::fp32);
                Tensor packed = operands.allocate(int8_kernels()->weight_bytes(layer));
                int8_kernels()->pack(layer, from.weights(), packed.mutable_data_ptr(), kParallel);
                return packed;
              },
          .size = [layer](const Operands&,
                          const Compute&) { return int8_kernels()->weight_bytes(layer); }};
}

}  // namespace

CpuLinear with_tail(CpuLinear layer, int64_t rank, std::span<const TailRange> ranges) {
  layer.tail = rank;
  layer.tail_ranges = ranges.data();
  layer.tail_range_count = static_cast<int64_t>(ranges.size());
  return layer;
}

CpuWeights weights_of(const Tensor& stored) {
  const CpuType type =
      stored.scalar_type() == at::kHalf ? CpuType::fp16 : *compute_type(stored.scalar_type());
  return {type, stored.const_data_ptr()};
}

Form linear_form(const CpuLinear& layer) {
  if (layer.int8) return int8_form(layer);
  return {
      .name = "linear",
      .prepare =
          [layer](const Operands& operands, const Compute&) {
            const std::optional<Side> side = operands.side();
            const CpuLinear whole = side ? with_tail(layer, side->up.size(1), side->ranges) : layer;
            const PackedFrom from(operands, layer.type);
            Tensor packed = operands.allocate(kernels().linear_weight_bytes(whole));
            void* const to = packed.mutable_data_ptr();
            kernels().pack_linear(whole, from.weights(), to, kParallel);
            if (side) kernels().pack_linear_tail(whole, weights_of(side->up), to, kParallel);
            return packed;
          },
      .prepare_down =
          [layer](const Tensor& down, const Compute&) {
            const CpuLinear first = down_layer(layer, down.size(0));
            Tensor packed = at::empty({kernels().linear_weight_bytes(first)}, at::dtype(at::kByte));
            kernels().pack_linear(first, weights_of(down), packed.mutable_data_ptr(), kParallel);
            return packed;
          },
      .size =
          [layer](const Operands& operands, const Compute&) {
            const std::vector<TailRange> ranges = operands.side_ranges();
            return kernels().linear_weight_bytes(with_tail(layer, operands.side_rank(), ranges));
          }};
}

Form conv_form(const CpuConv& layer) {
  return {.name = "conv",
          .prepare =
              [layer](const Operands& operands, const Compute&) {
                // Where weights are summed before they are rounded, they are not rounded twice.
                const bool sums =
                    layer.upsample || kernels().conv_method(layer) == CpuConvMethod::winograd;
                const PackedFrom from(operands, sums ? CpuType::fp32 : layer.type);
                Tensor packed = operands.allocate(kernels().conv_weight_bytes(layer));
                kernels().pack_conv(layer, from.weights(), packed.mutable_data_ptr(), kParallel);
                return packed;
              },
          .size = [layer](const Operands&,
                          const Compute&) { return kernels().conv_weight_bytes(layer); }};
}

Tensor phase_weights(const Operands& operands) {
  const Tensor plain = stored(operands);
  const int64_t out = plain.size(0), in = plain.size(1);
  Tensor phases = at::empty({4 * out, in, 2, 2}, at::dtype(at::kFloat));
  sum_phase_weights(weights_of(plain), out, in, phases.mutable_data_ptr<float>(), kParallel);
  return phases;
}

}  // namespace atelier::nn::cpu
