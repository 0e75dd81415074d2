// The table of encodings. Block sizes are those of ggml's block structures (ggml-common.h) and of
// safetensors' Dtype; gguf-py lists Q8_1 with 40 bytes, the C structure has 36. NF4 and FP4 are
// those of bitsandbytes, E2M1 those of NVFP4 in safetensors: two to a byte, under scales of their
// own (scaling.h).
#include "formats/encoding.h"

#include <algorithm>
#include <array>

namespace atelier {
namespace {

using E = Encoding;
constexpr std::array kEncodings = {
    EncodingInfo{E::f64, "F64", 1, 8, 28, "F64"},
    EncodingInfo{E::f32, "F32", 1, 4, 0, "F32"},
    EncodingInfo{E::f16, "F16", 1, 2, 1, "F16"},
    EncodingInfo{E::bf16, "BF16", 1, 2, 30, "BF16"},
    EncodingInfo{E::f8_e4m3, "F8_E4M3", 1, 1, -1, "F8_E4M3"},
    EncodingInfo{E::f8_e5m2, "F8_E5M2", 1, 1, -1, "F8_E5M2"},
    EncodingInfo{E::i64, "I64", 1, 8, 27, "I64"},
    EncodingInfo{E::i32, "I32", 1, 4, 26, "I32"},
    EncodingInfo{E::i16, "I16", 1, 2, 25, "I16"},
    EncodingInfo{E::i8, "I8", 1, 1, 24, "I8"},
    EncodingInfo{E::u64, "U64", 1, 8, -1, "U64"},
    EncodingInfo{E::u32, "U32", 1, 4, -1, "U32"},
    EncodingInfo{E::u16, "U16", 1, 2, -1, "U16"},
    EncodingInfo{E::u8, "U8", 1, 1, -1, "U8"},
    EncodingInfo{E::boolean, "BOOL", 1, 1, -1, "BOOL"},
    EncodingInfo{E::q4_0, "Q4_0", 32, 18, 2, ""},
    EncodingInfo{E::q4_1, "Q4_1", 32, 20, 3, ""},
    EncodingInfo{E::q5_0, "Q5_0", 32, 22, 6, ""},
    EncodingInfo{E::q5_1, "Q5_1", 32, 24, 7, ""},
    EncodingInfo{E::q8_0, "Q8_0", 32, 34, 8, ""},
    EncodingInfo{E::q8_1, "Q8_1", 32, 36, 9, ""},
    EncodingInfo{E::q2_k, "Q2_K", 256, 84, 10, ""},
    EncodingInfo{E::q3_k, "Q3_K", 256, 110, 11, ""},
    EncodingInfo{E::q4_k, "Q4_K", 256, 144, 12, ""},
    EncodingInfo{E::q5_k, "Q5_K", 256, 176, 13, ""},
    EncodingInfo{E::q6_k, "Q6_K", 256, 210, 14, ""},
    EncodingInfo{E::q8_k, "Q8_K", 256, 292, 15, ""},
    EncodingInfo{E::iq2_xxs, "IQ2_XXS", 256, 66, 16, ""},
    EncodingInfo{E::iq2_xs, "IQ2_XS", 256, 74, 17, ""},
    EncodingInfo{E::iq3_xxs, "IQ3_XXS", 256, 98, 18, ""},
    EncodingInfo{E::iq1_s, "IQ1_S", 256, 50, 19, ""},
    EncodingInfo{E::iq4_nl, "IQ4_NL", 32, 18, 20, ""},
    EncodingInfo{E::iq3_s, "IQ3_S", 256, 110, 21, ""},
    EncodingInfo{E::iq2_s, "IQ2_S", 256, 82, 22, ""},
    EncodingInfo{E::iq4_xs, "IQ4_XS", 256, 136, 23, ""},
    EncodingInfo{E::iq1_m, "IQ1_M", 256, 56, 29, ""},
    EncodingInfo{E::tq1_0, "TQ1_0", 256, 54, 34, ""},
    EncodingInfo{E::tq2_0, "TQ2_0", 256, 66, 35, ""},
    EncodingInfo{E::mxfp4, "MXFP4", 32, 17, 39, ""},
    EncodingInfo{E::nvfp4, "NVFP4", 64, 36, 40, ""},
    EncodingInfo{E::q1_0, "Q1_0", 128, 18, 41, ""},
    EncodingInfo{E::q2_0, "Q2_0", 64, 18, 42, ""},
    EncodingInfo{E::f8_e4m3fnuz, "F8_E4M3FNUZ", 1, 1, -1, "F8_E4M3FNUZ"},
    EncodingInfo{E::f8_e5m2fnuz, "F8_E5M2FNUZ", 1, 1, -1, "F8_E5M2FNUZ"},
    EncodingInfo{E::f8_e8m0, "F8_E8M0", 1, 1, -1, "F8_E8M0"},
    EncodingInfo{E::f6_e2m3, "F6_E2M3", 4, 3, -1, "F6_E2M3"},
    EncodingInfo{E::f6_e3m2, "F6_E3M2", 4, 3, -1, "F6_E3M2"},
    EncodingInfo{E::f4, "F4", 2, 1, -1, "F4"},
    EncodingInfo{E::c64, "C64", 1, 8, -1, "C64"},
    EncodingInfo{E::nf4, "NF4", 2, 1, -1, ""},
    EncodingInfo{E::fp4, "FP4", 2, 1, -1, ""},
    EncodingInfo{E::e2m1, "E2M1", 2, 1, -1, ""},
};

constexpr bool in_order() {
  for (size_t i = 0; i < kEncodings.size(); ++i)
    if (static_cast<size_t>(kEncodings[i].encoding) != i) return false;
  return true;
}
static_assert(in_order(), "encoding rows stand in the order of the enum");
static_assert(kEncodings.back().encoding == E::e2m1, "every encoding has its row");

template <class Match>
std::optional<Encoding> find(Match match) {
  const auto row = std::find_if(kEncodings.begin(), kEncodings.end(), match);
  return row == kEncodings.end() ? std::nullopt : std::optional(row->encoding);
}

}  // namespace

std::span<const EncodingInfo> encodings() { return kEncodings; }

const EncodingInfo& encoding_info(Encoding encoding) {
  return kEncodings[static_cast<size_t>(encoding)];
}

std::optional<Encoding> encoding_from_ggml(uint32_t type) {
  return find([&](const EncodingInfo& row) { return row.ggml_type == static_cast<int64_t>(type); });
}

std::optional<Encoding> encoding_from_safetensors(std::string_view dtype) {
  if (dtype.empty()) return std::nullopt;
  return find([&](const EncodingInfo& row) { return row.safetensors == dtype; });
}

std::optional<Encoding> encoding_from_name(std::string_view name) {
  return find([&](const EncodingInfo& row) { return row.name == name; });
}

}  // namespace atelier
