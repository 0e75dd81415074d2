// The table of types, and the names by which others know them.
#include "pipeline/quant_types.h"

#include <fmt/format.h>

#include <algorithm>
#include <cctype>
#include <vector>

#include "base/error.h"
#include "base/nearest.h"

namespace atelier {
namespace {

using E = Encoding;

constexpr QuantType row(std::string_view name, std::string_view about, E all, uint32_t file_type) {
  return {name, about, all, all, all, all, file_type};
}
constexpr QuantType whole(std::string_view name, std::string_view about, E all,
                          uint32_t file_type) {
  return {name, about, all, all, all, all, file_type, true};
}

// The mixes follow llama.cpp's: what hurts most gets a finer encoding.
constexpr QuantType kTypes[] = {
    whole("F32", "every tensor in fp32", E::f32, 0),
    whole("F16", "every tensor in fp16", E::f16, 1),
    whole("BF16", "every tensor in bf16", E::bf16, 32),
    row("Q8_0", "8.5 bits, as good as fp16", E::q8_0, 7),
    row("Q6_K", "6.6 bits, hardly to be told from fp16", E::q6_k, 18),
    {"Q5_K_M", "5.5 bits, values and ways down 6.6", E::q5_k, E::q6_k, E::q6_k, E::q6_k, 17},
    row("Q5_K_S", "5.5 bits", E::q5_k, 16),
    row("Q5_1", "6 bits, for rows that suit no K type", E::q5_1, 9),
    row("Q5_0", "5.5 bits, for rows that suit no K type", E::q5_0, 8),
    {"Q4_K_M", "4.5 bits, values and ways down 6.6", E::q4_k, E::q6_k, E::q5_k, E::q6_k, 15},
    {"Q4_K_S", "4.5 bits, ways down 5.5", E::q4_k, E::q5_k, E::q4_k, E::q5_k, 14},
    row("IQ4_NL", "4.5 bits, uneven steps", E::iq4_nl, 25),
    row("IQ4_XS", "4.25 bits, uneven steps", E::iq4_xs, 30),
    row("Q4_1", "5 bits", E::q4_1, 3),
    row("Q4_0", "4.5 bits, quick everywhere", E::q4_0, 2),
    {"Q3_K_L", "3.4 bits, values and ways down 5.5", E::q3_k, E::q5_k, E::q4_k, E::q5_k, 13},
    {"Q3_K_M", "3.4 bits, values and ways down 4.5", E::q3_k, E::q4_k, E::q4_k, E::q4_k, 12},
    row("Q3_K_S", "3.4 bits", E::q3_k, 11),
    {"Q2_K", "2.6 bits, values 3.4", E::q2_k, E::q3_k, E::q3_k, E::q3_k, 10},
    row("fp8", "E4M3, safetensors only", E::f8_e4m3, 0),
    row("fp8_e5m2", "E5M2, safetensors only", E::f8_e5m2, 0),
};

/// What llama.cpp and safetensors call them.
struct Alias {
  std::string_view name, of;
};
constexpr Alias kAliases[] = {
    {"Q3_K", "Q3_K_M"},  {"Q4_K", "Q4_K_M"},   {"Q5_K", "Q5_K_M"},    {"F8_E4M3", "fp8"},
    {"FP8_E4M3", "fp8"}, {"F8_E4M3FN", "fp8"}, {"FP8_E4M3FN", "fp8"}, {"F8_E5M2", "fp8_e5m2"},
    {"FP32", "F32"},     {"FP16", "F16"},
};

bool alike(std::string_view a, std::string_view b) {
  return std::ranges::equal(a, b,
                            [](char x, char y) { return std::tolower(x) == std::tolower(y); });
}

/// Whether a file may hold it, though nothing here writes it.
bool only_read(std::string_view name) {
  return std::ranges::any_of(encodings(), [&](const EncodingInfo& row) {
    return row.block_elements > 1 && row.ggml_type >= 0 && alike(row.name, name);
  });
}

}  // namespace

std::span<const QuantType> quant_types() { return kTypes; }

const QuantType& quant_type(std::string_view name) {
  const auto alias =
      std::ranges::find_if(kAliases, [&](const Alias& row) { return alike(row.name, name); });
  const std::string_view wanted = alias == std::end(kAliases) ? name : alias->of;
  std::vector<std::string_view> names;
  for (const QuantType& type : kTypes) {
    if (alike(type.name, wanted)) return type;
    names.push_back(type.name);
  }
  const std::string_view near = nearest(name, names);
  const bool read = only_read(name);
  throw Error(ErrorCode::invalid_argument,
              {.subject = "--type",
               .expected = "a type that 'atelier quantize --list' names",
               .found = fmt::format("'{}'{}", name, read ? ", which can be read, not written" : ""),
               .hint = near.empty() || read ? "" : fmt::format("Did you mean {}?", near)});
}

}  // namespace atelier
