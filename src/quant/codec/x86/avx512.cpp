// The decoders for AVX-512.
#include "quant/codec/tables.h"
#include "quant/codec/x86/avx512_vector.h"

#include "quant/codec/decoders.inc"

namespace atelier {

const std::span<const EncodingTraits> kAvx512Decoders = kTraits;

}  // namespace atelier
