// The transformer of FLUX.1 as a constructor; its variants are rows in flux_variants.cpp.
#pragma once

#include <memory>

#include "models/model.h"

namespace atelier {

/// Binds the transformer, with a config read from shapes. Throws `mismatch` if a tensor that tells
/// of the config is absent or has a shape no config gives.
std::unique_ptr<DiffusionModel> make_flux(const Scope& w);

}  // namespace atelier
