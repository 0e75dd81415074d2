// The table of decoders: the rows of every family, by encoding.
#include "quant/encoding_traits.h"

#include "quant/decode_plain.h"

namespace atelier {
namespace {

// A family is a file with rows; a new one is named here.
constexpr std::span<const EncodingTraits> (*kFamilies[])() = {plain_traits};

}  // namespace

const EncodingTraits* encoding_traits(Encoding encoding) {
  for (const auto family : kFamilies)
    for (const EncodingTraits& row : family())
      if (row.encoding == encoding) return &row;
  return nullptr;
}

}  // namespace atelier
