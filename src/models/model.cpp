// Checks round a denoiser's call, and the casts between callers and the compute device.
#include "models/model.h"

#include <ATen/ATen.h>
#include <c10/core/InferenceMode.h>
#include <fmt/format.h>

#include "base/error.h"

namespace atelier {
namespace {

[[noreturn]] void refuse(std::string_view what, const std::string& wanted,
                         const std::string& found) {
  throw Error(ErrorCode::mismatch,
              {.subject = std::string(what), .expected = wanted, .found = found});
}

std::string sizes_of(const at::Tensor& tensor) {
  return tensor.defined() ? to_string(tensor.sizes().vec()) : "nothing";
}

void check(const DiffusionInput& in, const ModelTraits& traits) {
  const int64_t batch = in.x.dim() == 4 ? in.x.size(0) : 0;
  const int64_t channels =
      (batch ? in.x.size(1) : 0) + (in.concat.defined() ? in.concat.size(1) : 0);
  if (!batch || channels != traits.in_channels)
    refuse("model input", fmt::format("{} channels", traits.in_channels),
           sizes_of(in.x) + (in.concat.defined() ? " and " + sizes_of(in.concat) : ""));
  if (in.timestep.sizes() != at::IntArrayRef({batch}))
    refuse("time step", fmt::format("[{}]", batch), sizes_of(in.timestep));
  const at::Tensor context = in.context.defined() ? in.context.embedding() : at::Tensor();
  if (!context.defined() || context.dim() != 3 || context.size(0) != batch ||
      context.size(2) != traits.context_width)
    refuse("prompt embedding", fmt::format("[{}, tokens, {}]", batch, traits.context_width),
           sizes_of(context));
  if (traits.vector_width &&
      (!in.vector.defined() || in.vector.sizes() != at::IntArrayRef({batch, traits.vector_width})))
    refuse("vector", fmt::format("[{}, {}]", batch, traits.vector_width), sizes_of(in.vector));
  if (traits.guidance != 0 && in.guidance.defined() &&
      in.guidance.sizes() != at::IntArrayRef({batch}))
    refuse("guidance", fmt::format("[{}]", batch), sizes_of(in.guidance));
  for (const at::Tensor& reference : in.references)
    if (!traits.references || reference.dim() != 4 || reference.size(0) != 1 ||
        reference.size(1) != traits.in_channels || reference.numel() == 0)
      refuse("reference picture",
             traits.references ? fmt::format("[1, {}, h, w]", traits.in_channels)
                               : "none, as this model takes",
             sizes_of(reference));
}

// The scale each batch element is told, on the device of the time step; undefined for models that
// are told none.
at::Tensor guidance(const DiffusionInput& in, const ModelTraits& traits) {
  if (traits.guidance == 0) return {};
  if (in.guidance.defined()) return in.guidance.to(in.timestep.options());
  return at::full_like(in.timestep, traits.guidance);
}

}  // namespace

at::Tensor DiffusionModel::forward(const DiffusionInput& input) const {
  check(input, traits());
  const Compute& on = compute();
  const auto options = at::device(on.device.torch());
  // Made outside inference mode, so that callers may go on computing with it in place.
  at::Tensor out =
      at::empty({input.x.size(0), traits().out_channels, input.x.size(2), input.x.size(3)},
                options.dtype(at::kFloat));
  const c10::InferenceMode guard;
  const auto cast = [&](const at::Tensor& t) { return t.to(on.device.torch(), on.dtype); };
  DiffusionInput in = input;
  in.x = cast(input.x);
  if (input.concat.defined()) in.x = at::cat({in.x, cast(input.concat)}, 1);
  in.x = in.x.contiguous(at::MemoryFormat::ChannelsLast);
  in.concat = at::Tensor();
  for (at::Tensor& reference : in.references)
    reference = cast(reference).contiguous(at::MemoryFormat::ChannelsLast);
  in.timestep = input.timestep.to(on.device.torch(), at::kFloat);
  in.guidance = guidance(in, traits());
  in.vector = traits().vector_width ? cast(input.vector) : at::Tensor();
  return out.copy_(run(in));
}

}  // namespace atelier
