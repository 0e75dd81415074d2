// Stored numbers to compute numbers without libtorch: read this header first.
#pragma once

#include <cstddef>
#include <span>
#include <string_view>

#include "device/cpu/parallel.h"
#include "formats/encoding.h"
#include "formats/tensor_source.h"

namespace atelier {

/// What weights are decoded to.
enum class Number : uint8_t { f32, bf16, f16 };
/// Bytes of one.
constexpr int64_t number_bytes(Number number) { return number == Number::f32 ? 4 : 2; }

/// Decodes whole blocks, `elements` numbers of them, from `from` to `to`. Neither needs alignment.
using DecodeRun = void (*)(const std::byte* from, int64_t elements, void* to);

/// The same for codes under scales: `scales[0]` is the scale of the first `group` elements, and so
/// on; the last group may be shorter. Of block encodings a group is whole blocks.
using ScaledRun = void (*)(const std::byte* from, int64_t elements, const float* scales,
                           int64_t group, void* to);

/// The row of one encoding: its decoders by Number; null where an encoding takes no scales.
struct EncodingTraits {
  Encoding encoding;
  DecodeRun decode[3];
  ScaledRun scaled[3] = {};
};

/// The row in use for `encoding`, or null if nothing here decodes it.
const EncodingTraits* encoding_traits(Encoding encoding);

/// Whether `decode` knows `encoding`.
bool decodable(Encoding encoding);

/// Decodes all of `bytes` into `out`, whose size they fill exactly, rounding once to the nearest
/// even from fp32 arithmetic. Throws `unsupported` for an encoding without decoder and `malformed`
/// for a wrong number of bytes, naming `tensor`. Any thread.
void decode(std::span<const std::byte> bytes, Encoding encoding, Number number,
            std::span<std::byte> out, const Parallel& parallel, std::string_view tensor);

/// Decodes the elements of a tensor from `first` on, as many as `out` holds, whether or not they
/// are whole blocks; `bytes` are all of the tensor's. With scales, an element is the fp32 product
/// of its code and its scale, rounded. Throws as above, `malformed` also for a scale that is not
/// finite. Any thread.
void decode_range(std::span<const std::byte> bytes, const TensorInfo& info, int64_t first,
                  Number number, std::span<std::byte> out, const Parallel& parallel,
                  std::string_view tensor);

}  // namespace atelier
