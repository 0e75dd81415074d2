// What lies behind a weight's parts.
#pragma once

#include <cstdint>

#include "memory/weight.h"

namespace atelier {

/// The part's tensor as its source lists it.
const TensorInfo& info_of(const WeightPart& part);

/// Number of elements of a shape.
int64_t elements_of(const Shape& shape);

}  // namespace atelier
