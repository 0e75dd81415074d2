// Pictures with numbers that are not finite: what to tell of them.
#pragma once

#include <ATen/core/Tensor.h>

#include <optional>
#include <string>

#include "pipeline/engine.h"

namespace atelier {

/// Names the part that first gave numbers that are not finite, and what may help; nothing if all
/// of `picture` are finite. `latent` is what it was decoded from; any shape, on any device.
std::optional<std::string> not_finite_warning(Engine& engine, const at::Tensor& latent,
                                              const at::Tensor& picture);

}  // namespace atelier
