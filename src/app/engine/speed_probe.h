// How fast this machine multiplies and reads, tried out in an instant.
#pragma once

#include "memory/weight.h"

namespace atelier {

/// Multiplications and additions per second of a linear layer on `compute`, with libtorch's
/// threads. Takes some hundredths of a second.
double operations_per_second(const Compute& compute);

/// Bytes of memory per second that libtorch's threads read together. Takes some hundredths of a
/// second.
double bytes_per_second();

}  // namespace atelier
