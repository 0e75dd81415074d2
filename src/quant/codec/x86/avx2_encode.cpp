// The encoders for AVX2 with F16C.
#include "quant/codec/tables.h"

#include "quant/codec/encoders.inc"

namespace atelier {

const std::span<const EncoderRow> kAvx2Encoders = kEncoders;

}  // namespace atelier
