// Reads single metadata pairs and tensor infos of a GGUF file.
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <utility>

#include "base/error.h"
#include "formats/gguf_reader.h"
#include "formats/layout.h"

namespace atelier {
namespace {

constexpr uint64_t kMaxName = 65535;  // docs/gguf.md: keys are at most 2^16-1 bytes
constexpr uint64_t kMaxMetadata = 256 << 20;  // a 256 K vocabulary with merges takes 20 MB
constexpr uint64_t kMaxCopiedText = 64 << 10;  // longer texts stay views, in `gguf`
constexpr int kMaxArrayDepth = 4;

/// Types that files of 2023 and 2024 may still carry, and what became of them.
struct RetiredType {
  uint32_t number;
  std::string_view name, hint;
};
constexpr std::string_view kRepacked =
    "Quantise the model again as Q4_0; it is repacked on loading";
constexpr std::array kRetired = {
    RetiredType{4, "Q4_2", "Quantise the model again as Q4_0"},
    RetiredType{5, "Q4_3", "Quantise the model again as Q4_1"},
    RetiredType{31, "Q4_0_4_4", kRepacked},
    RetiredType{32, "Q4_0_4_8", kRepacked},
    RetiredType{33, "Q4_0_8_8", kRepacked},
    RetiredType{36, "IQ4_NL_4_4", "Quantise the model again as IQ4_NL"},
    RetiredType{37, "IQ4_NL_4_8", "Quantise the model again as IQ4_NL"},
    RetiredType{38, "IQ4_NL_8_8", "Quantise the model again as IQ4_NL"},
};

}  // namespace

std::string GgufReader::name(std::string_view what) {
  const uint64_t place = reader_.position();
  const auto size = reader_.number<uint64_t>("the length of a name");
  if (size > kMaxName)
    gguf_malformed(fmt::format("{} at byte {}", what, place),
                   fmt::format("at most {} bytes", kMaxName), fmt::format("{}", size));
  const std::string_view text = reader_.text(size, "a name");
  if (!is_utf8(text))
    gguf_malformed(fmt::format("{} at byte {}", what, place), "UTF-8", in_quotes(text));
  return std::string(text);
}

GgufType GgufReader::value_type(const std::string& subject) {
  const auto number = reader_.number<uint32_t>("a type");
  if (!gguf_type_name(number))
    gguf_malformed(subject, "a value type from 0 to 12", fmt::format("{}", number));
  return static_cast<GgufType>(number);
}

void GgufReader::check_length(const std::string& subject) const {
  if (reader_.position() > kMaxMetadata)
    gguf_malformed(subject, fmt::format("at most {} bytes of metadata", kMaxMetadata), "more");
}

void GgufReader::read_pair() {
  const std::string key = name("metadata key");
  const std::string subject = "metadata " + in_quotes(key);
  const GgufType type = value_type(subject);
  const uint64_t begin = reader_.position();
  skip_value(type, subject, 0);
  check_length(subject);
  const GgufValue value(type, file_.subspan(begin, reader_.position() - begin));
  if (!contents_.gguf.emplace(key, value).second)
    gguf_malformed(subject, "every key once", "it twice");
  const auto text = value.text();
  if (type == GgufType::array || (text && (text->size() > kMaxCopiedText || !is_utf8(*text))))
    return;
  contents_.metadata.emplace(key, value.describe());
}

void GgufReader::skip_value(GgufType type, const std::string& subject, int depth) {
  if (type == GgufType::text) {
    reader_.take(reader_.number<uint64_t>("the length of a text"), "a text");
  } else if (type == GgufType::boolean) {
    const auto value = reader_.number<uint8_t>("a boolean");
    if (value > 1) gguf_malformed(subject, "a boolean of 0 or 1", fmt::format("{}", value));
  } else if (type != GgufType::array) {
    reader_.take(gguf_type_size(type), "a value");
  } else {
    if (depth == kMaxArrayDepth)
      gguf_malformed(subject, fmt::format("arrays nested at most {} deep", kMaxArrayDepth),
                     "deeper");
    const GgufType element = value_type(subject);
    const auto count = reader_.number<uint64_t>("the length of an array");
    const size_t size = gguf_type_size(element);
    if (count > reader_.remaining() / std::max<size_t>(size, 1))
      gguf_malformed(subject, fmt::format("an array within the {} bytes left", reader_.remaining()),
                     fmt::format("{} elements", count));
    const bool each = size == 0 || element == GgufType::boolean;
    if (!each) reader_.take(count * size, "an array");
    for (uint64_t i = 0; each && i < count; ++i) {
      check_length(subject);
      skip_value(element, subject, depth + 1);
    }
  }
}

void GgufReader::read_tensor() {
  const std::string tensor = name("tensor name");
  const std::string subject = tensor_subject(tensor);
  const auto rank = reader_.number<uint32_t>("the number of dimensions");
  if (rank > kMaxRank)
    gguf_malformed(subject, fmt::format("at most {} dimensions", kMaxRank),
                   fmt::format("{}", rank));
  TensorInfo info;
  for (uint32_t i = 0; i < rank; ++i) {
    const auto extent = reader_.number<uint64_t>("an extent");
    if (!std::in_range<int64_t>(extent))
      gguf_malformed(subject, "extents below 2^63", fmt::format("{}", extent));
    info.shape.push_back(static_cast<int64_t>(extent));
  }
  const auto type = reader_.number<uint32_t>("the tensor's type");
  const auto encoding = encoding_from_ggml(type);
  if (!encoding) {
    const auto row =
        std::find_if(kRetired.begin(), kRetired.end(),
                     [&](const RetiredType& retired) { return retired.number == type; });
    const bool retired = row != kRetired.end();
    throw Error(
        ErrorCode::unsupported,
        {.subject = subject,
         .expected = "a tensor type of GGUF",
         .found = retired ? fmt::format("{}, which was withdrawn", row->name)
                          : fmt::format("number {}", type),
         .hint = std::string(retired ? row->hint : "Written by a newer or private version")});
  }
  info.encoding = *encoding;
  const int64_t block = encoding_info(info.encoding).block_elements;
  if (!info.shape.empty() && info.shape.front() % block != 0)
    gguf_malformed(subject, fmt::format("rows of whole {}-element blocks", block),
                   fmt::format("rows of {}", info.shape.front()));
  std::reverse(info.shape.begin(), info.shape.end());
  info.size = encoded_size(info.shape, info.encoding, subject);
  info.offset = reader_.number<uint64_t>("the tensor's offset");
  if (info.offset % alignment_ != 0)
    gguf_malformed(subject, fmt::format("an offset aligned to {}", alignment_),
                   fmt::format("{}", info.offset));
  if (!contents_.tensors.emplace(tensor, std::move(info)).second)
    gguf_malformed(subject, "every name once", "it twice");
}

}  // namespace atelier
