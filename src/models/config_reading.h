// Reading a config from shapes that a file may have wrong.
#pragma once

#include <string_view>

#include "nn/scope.h"

namespace atelier {

/// The shape of `name`. Throws `mismatch` if it is absent, has another rank, or an extent outside
/// 1 to 2^20, beyond which no published model lies.
Shape checked_shape(const Scope& w, std::string_view name, size_t rank);

}  // namespace atelier
