// The tables of each instruction set, each defined in a translation unit compiled for it.
#pragma once

#include "quant/codec/codec.h"
#include "quant/codec/encode.h"

namespace atelier {

/// Decoders and encoders for one instruction set. All give the same bits.
struct CodecTable {
  std::string_view isa;
  std::span<const EncodingTraits> decoders;
  std::span<const EncoderRow> encoders;
};

/// The tables for this processor, slowest first, up to the one in use (cpu_kernels).
std::span<const CodecTable> codec_tables();

extern const std::span<const EncodingTraits> kPortableDecoders, kAvx2Decoders, kAvx512Decoders;
extern const std::span<const EncoderRow> kPortableEncoders, kAvx2Encoders, kAvx512Encoders;

}  // namespace atelier
