// Decoders of the encodings without blocks: floats of every width, integers and booleans.
#pragma once

#include "quant/encoding_traits.h"

namespace atelier {

/// The rows of the plain encodings.
std::span<const EncodingTraits> plain_traits();

}  // namespace atelier
