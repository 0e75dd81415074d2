// The encoders for AVX-512.
#include "quant/codec/tables.h"

#include "quant/codec/encoders.inc"

namespace atelier {

const std::span<const EncoderRow> kAvx512Encoders = kEncoders;

}  // namespace atelier
