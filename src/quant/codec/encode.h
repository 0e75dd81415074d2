// Floats to stored numbers, without libtorch.
#pragma once

#include <cstddef>
#include <span>

#include "device/cpu/parallel.h"
#include "formats/encoding.h"

namespace atelier {

/// Encodes whole blocks. `importance`, if not null, weighs the squared error of each element.
using EncodeRun = void (*)(const float* from, int64_t elements, const float* importance,
                           std::byte* to);

struct EncoderRow {
  Encoding encoding;
  EncodeRun encode;
};

/// Whether `encode` knows `encoding`.
bool encodable(Encoding encoding);
/// The encodings `encode` knows.
std::span<const EncoderRow> encoders();

/// Encodes rows of `row` floats, a multiple of the encoding's block, into `out`, which they fill
/// exactly. The floats are finite and in fp16's range (65504). `importance` is empty or one weight,
/// not negative, per column. The same input gives the same bytes on every processor and for any
/// number of threads. Any thread.
void encode(std::span<const float> from, int64_t row, Encoding encoding,
            std::span<const float> importance, std::span<std::byte> out, const Parallel& parallel);

}  // namespace atelier
