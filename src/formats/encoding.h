// How the elements of a stored tensor are encoded: one row per type of safetensors and GGUF.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string_view>

namespace atelier {

/// Every element encoding a checkpoint file can hold. Block types store `block_elements` values
/// of one row in `block_bytes` bytes.
enum class Encoding : uint8_t {
  f64,
  f32,
  f16,
  bf16,
  f8_e4m3,
  f8_e5m2,
  i64,
  i32,
  i16,
  i8,
  u64,
  u32,
  u16,
  u8,
  boolean,
  q4_0,
  q4_1,
  q5_0,
  q5_1,
  q8_0,
  q8_1,
  q2_k,
  q3_k,
  q4_k,
  q5_k,
  q6_k,
  q8_k,
  iq2_xxs,
  iq2_xs,
  iq3_xxs,
  iq1_s,
  iq4_nl,
  iq3_s,
  iq2_s,
  iq4_xs,
  iq1_m,
  tq1_0,
  tq2_0,
  mxfp4,
  nvfp4,
  q1_0,
  q2_0,
  f8_e4m3fnuz,
  f8_e5m2fnuz,
  f8_e8m0,
  f6_e2m3,
  f6_e3m2,
  f4,
  c64,
  nf4,
  fp4,
  e2m1,
};

/// Whole numbers and truth values, which are no weights by themselves.
constexpr bool is_integer(Encoding encoding) {
  return encoding >= Encoding::i64 && encoding <= Encoding::boolean;
}

/// The row of one encoding.
struct EncodingInfo {
  Encoding encoding;
  std::string_view name;  // as people and GGUF tools write it: "Q4_K", "BF16", "F8_E4M3"
  int32_t block_elements;
  int32_t block_bytes;
  int32_t ggml_type;  // type number in GGUF, or -1
  std::string_view safetensors;  // dtype in safetensors, or ""
};

/// All rows, in the order of the enum.
std::span<const EncodingInfo> encodings();
/// The row of `encoding`. Never fails.
const EncodingInfo& encoding_info(Encoding encoding);
/// The encoding with this GGUF type number, safetensors dtype or name, if there is one.
std::optional<Encoding> encoding_from_ggml(uint32_t type);
std::optional<Encoding> encoding_from_safetensors(std::string_view dtype);
std::optional<Encoding> encoding_from_name(std::string_view name);

}  // namespace atelier
