// How stored numbers become compute numbers: one row per encoding that has a decoder.
#pragma once

#include <c10/core/ScalarType.h>
#include <c10/util/BFloat16.h>
#include <c10/util/Half.h>

#include <cstddef>
#include <optional>
#include <span>

#include "formats/encoding.h"

namespace atelier {

/// Decodes `elements` values (whole blocks) from `from` to `to`; neither needs alignment beyond its
/// element's. One thread's share: the caller splits the work.
template <class T>
using DecodeFn = void (*)(const std::byte* from, int64_t elements, T* to);

/// The row of one encoding. A new encoding is one file with its three functions and one row in
/// its family's table.
struct EncodingTraits {
  Encoding encoding;
  /// The dtype whose memory equals the stored bytes, if there is one: no decoding is needed then.
  std::optional<at::ScalarType> same_as;
  DecodeFn<float> to_float;
  DecodeFn<c10::BFloat16> to_bfloat16;
  DecodeFn<c10::Half> to_half;
};

/// The row of `encoding`, or null if nothing here decodes it.
const EncodingTraits* encoding_traits(Encoding encoding);
}  // namespace atelier
