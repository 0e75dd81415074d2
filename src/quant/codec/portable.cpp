// The decoders in plain C++.
#include "quant/codec/portable_vector.h"
#include "quant/codec/tables.h"

#include "quant/codec/decoders.inc"

namespace atelier {

const std::span<const EncodingTraits> kPortableDecoders = kTraits;

}  // namespace atelier
