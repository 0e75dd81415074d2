// The encoders in plain C++.
#include "quant/codec/tables.h"

#include "quant/codec/encoders.inc"

namespace atelier {

const std::span<const EncoderRow> kPortableEncoders = kEncoders;

}  // namespace atelier
