// The decoders for AVX2 with F16C.
#include "quant/codec/tables.h"
#include "quant/codec/x86/avx2_vector.h"

#include "quant/codec/decoders.inc"

namespace atelier {

const std::span<const EncodingTraits> kAvx2Decoders = kTraits;

}  // namespace atelier
