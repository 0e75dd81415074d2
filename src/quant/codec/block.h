// What a block encoding is made of. A block is a struct of static members:
//   kEncoding, kElements, kBytes
//   kGroup: elements that share a scale
//   kRun: elements whose codes one formula gives, so that a loop over them vectorises
//   scale(b, group): fp32
//   offset(b, group): optional; fp32, added to the product
//   code(b, run, j): the code of element run * kRun + j, an int8
//   or codes8(b, run): with kRun = 8, the codes of a run as the bytes of a word
//   or magnitudes8(b, run), signs8(b, run): the same apart, 1 to 127 each, sign i in bit i
//   lookup(): optional; code() gives 0 to 15 then, and these are the numbers meant
// An element is scale * code + offset in fp32, where only the sum may round for the types with
// offsets and only the product for those without: so contraction to one instruction changes
// nothing, and every processor gives the same bits. Layouts: ggml-common.h of ggml.
#pragma once

#include "formats/encoding.h"
#include "quant/codec/float_codes.h"

namespace atelier {

/// Sixteen int8 in two words.
struct Lookup16 {
  uint64_t low, high;
  ATELIER_HOST_DEVICE constexpr int operator[](int i) const {
    return static_cast<int8_t>((i < 8 ? low : high) >> (8 * (i & 7)) & 0xff);
  }
};

ATELIER_HOST_DEVICE inline int load16(const uint8_t* b) { return b[0] | b[1] << 8; }
ATELIER_HOST_DEVICE inline uint32_t load32(const uint8_t* b) {
  return static_cast<uint32_t>(load16(b)) | static_cast<uint32_t>(load16(b + 2)) << 16;
}
ATELIER_HOST_DEVICE inline uint64_t load64(const uint8_t* b) {
  return load32(b) | static_cast<uint64_t>(load32(b + 4)) << 32;
}
ATELIER_HOST_DEVICE inline float load_half(const uint8_t* b) {
  return half_to_float(static_cast<uint16_t>(load16(b)));
}
ATELIER_HOST_DEVICE inline int load_int8(const uint8_t* b) { return static_cast<int8_t>(*b); }

/// Eight bytes with the lowest bits of `word`, `kBits` (2 or 4) each: 8 or 4 numbers.
template <int kBits>
ATELIER_HOST_DEVICE constexpr uint64_t spread_bits(uint64_t word) {
  if constexpr (kBits == 2) {
    word = (word | word << 24) & 0x000000ff000000ffULL;
    word = (word | word << 12) & 0x000f000f000f000fULL;
    return (word | word << 6) & 0x0303030303030303ULL;
  } else {
    word = (word | word << 8) & 0x00ff00ffULL;
    return (word | word << 4) & 0x0f0f0f0fULL;
  }
}

/// Bit i of eight as byte i, 0 or 1.
ATELIER_HOST_DEVICE inline uint64_t bits_as_bytes(unsigned bits) {
  const uint64_t apart = (bits & 0xffu) * 0x0101010101010101ULL & 0x8040201008040201ULL;
  return (apart + 0x7f7f7f7f7f7f7f7fULL) >> 7 & 0x0101010101010101ULL;
}

/// The bytes of `magnitudes`, 1 to 127 each, with the sign of byte i in bit i of `signs`.
ATELIER_HOST_DEVICE inline uint64_t apply_signs(uint64_t magnitudes, unsigned signs) {
  const uint64_t ones = bits_as_bytes(signs);
  return (magnitudes ^ ones * 0xff) + ones;
}

}  // namespace atelier
