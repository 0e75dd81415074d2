// Reads GGUF front to back: header, metadata, tensor infos; then places the tensors.
#include "formats/gguf.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <bit>
#include <utility>

#include "base/error.h"
#include "formats/byte_reader.h"
#include "formats/contents.h"
#include "formats/layout.h"

namespace atelier {
namespace {

constexpr std::string_view kMagic = "GGUF";
constexpr std::string_view kShapeKey = "comfy.gguf.orig_shape.";
constexpr uint64_t kMaxName = 65535;  // docs/gguf.md: keys are at most 2^16-1 bytes
constexpr uint64_t kMaxMetadata = 256 << 20;  // a 256 K vocabulary with merges takes 20 MB
constexpr uint64_t kMaxCopiedText = 64 << 10;  // longer texts stay views, in `gguf`
constexpr uint64_t kMaxAlignment = 1 << 20;
constexpr int kMaxArrayDepth = 4;
constexpr uint64_t kSmallestPair = 8 + 4 + 1;  // empty key, type, one byte
constexpr uint64_t kSmallestTensor = 8 + 4 + 4 + 8;  // empty name, no dimension, type, offset

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

[[noreturn]] void fail(std::string subject, std::string expected, std::string found) {
  throw Error(ErrorCode::malformed, {.subject = std::move(subject),
                                     .expected = std::move(expected),
                                     .found = std::move(found),
                                     .hint = std::string(kDamaged)});
}

std::string shown(const GgufValue& value) { return value.text() ? "a text" : value.describe(); }

class GgufReader {
 public:
  explicit GgufReader(std::span<const std::byte> file) : file_(file), reader_(file, "header") {}
  FileContents read();

 private:
  void read_header();
  void read_pair();
  void skip_value(GgufType type, const std::string& subject, int depth);
  void read_tensor();
  void check_whole() const;
  void set_alignment(const GgufValue& value);
  void place_tensors();
  void restore_shapes();
  std::string name(std::string_view what);
  GgufType value_type(const std::string& subject);

  std::span<const std::byte> file_;
  ByteReader reader_;
  FileContents contents_;
  uint64_t tensor_count_ = 0, pair_count_ = 0, alignment_ = 32;
};

FileContents GgufReader::read() {
  read_header();
  for (uint64_t i = 0; i < pair_count_; ++i) read_pair();
  if (const auto found = contents_.gguf.find("general.alignment"); found != contents_.gguf.end())
    set_alignment(found->second);
  check_whole();
  for (uint64_t i = 0; i < tensor_count_; ++i) read_tensor();
  place_tensors();
  restore_shapes();
  return std::move(contents_);
}

void GgufReader::read_header() {
  if (reader_.text(kMagic.size(), "the magic number") != kMagic)
    fail("header", "the magic number GGUF", "other bytes");
  const auto version = reader_.number<uint32_t>("the version");
  const auto refuse = [](std::string found, std::string hint) {
    throw Error(ErrorCode::unsupported, {.subject = "header",
                                         .expected = "GGUF version 2 or 3, little-endian",
                                         .found = std::move(found),
                                         .hint = std::move(hint)});
  };
  const bool swapped = (version & 0xFFFF) == 0 && version != 0;
  if (swapped) refuse("a big-endian file", "Convert it with gguf-py's gguf_convert_endian");
  if (version == 1) refuse("version 1", "Convert the model again with a current converter");
  if (version < 1 || version > 3) refuse(fmt::format("version {}", version), "");
  tensor_count_ = reader_.number<uint64_t>("the number of tensors");
  pair_count_ = reader_.number<uint64_t>("the number of metadata pairs");
  const auto bound = [&](uint64_t count, uint64_t smallest, std::string_view what) {
    if (count > reader_.remaining() / smallest)
      throw Error(ErrorCode::malformed,
                  {.subject = "header",
                   .expected = fmt::format("at most {} {}, as many as fit in the file",
                                           reader_.remaining() / smallest, what),
                   .found = fmt::format("{}", count),
                   .hint = std::string(kCutShort)});
  };
  bound(tensor_count_, kSmallestTensor, "tensors");
  bound(pair_count_, kSmallestPair, "metadata pairs");
}

std::string GgufReader::name(std::string_view what) {
  const uint64_t place = reader_.position();
  const auto size = reader_.number<uint64_t>("the length of a name");
  if (size > kMaxName)
    fail(fmt::format("{} at byte {}", what, place), fmt::format("at most {} bytes", kMaxName),
         fmt::format("{}", size));
  const std::string_view text = reader_.text(size, "a name");
  if (!is_utf8(text)) fail(fmt::format("{} at byte {}", what, place), "UTF-8", in_quotes(text));
  return std::string(text);
}

GgufType GgufReader::value_type(const std::string& subject) {
  const auto number = reader_.number<uint32_t>("a type");
  if (!gguf_type_name(number))
    fail(subject, "a value type from 0 to 12", fmt::format("{}", number));
  return static_cast<GgufType>(number);
}

void GgufReader::read_pair() {
  const std::string key = name("metadata key");
  const std::string subject = "metadata " + in_quotes(key);
  const GgufType type = value_type(subject);
  const uint64_t begin = reader_.position();
  skip_value(type, subject, 0);
  if (reader_.position() > kMaxMetadata)
    fail(subject, fmt::format("at most {} bytes of metadata", kMaxMetadata), "more");
  const GgufValue value(type, file_.subspan(begin, reader_.position() - begin));
  if (!contents_.gguf.emplace(key, value).second) fail(subject, "every key once", "it twice");
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
    if (value > 1) fail(subject, "a boolean of 0 or 1", fmt::format("{}", value));
  } else if (type != GgufType::array) {
    reader_.take(gguf_type_size(type), "a value");
  } else {
    if (depth == kMaxArrayDepth)
      fail(subject, fmt::format("arrays nested at most {} deep", kMaxArrayDepth), "deeper");
    const GgufType element = value_type(subject);
    const auto count = reader_.number<uint64_t>("the length of an array");
    const size_t size = gguf_type_size(element);
    if (count > reader_.remaining() / std::max<size_t>(size, 1))
      fail(subject, fmt::format("an array within the {} bytes left", reader_.remaining()),
           fmt::format("{} elements", count));
    const bool each = size == 0 || element == GgufType::boolean;
    if (!each) reader_.take(count * size, "an array");
    for (uint64_t i = 0; each && i < count; ++i) skip_value(element, subject, depth + 1);
  }
}

/// A part of a split model would load as if it were all of it.
void GgufReader::check_whole() const {
  const auto found = contents_.gguf.find("split.count");
  const auto parts = found == contents_.gguf.end() ? std::nullopt : found->second.integer();
  if (parts && *parts > 1)
    throw Error(ErrorCode::unsupported,
                {.subject = "metadata 'split.count'",
                 .expected = "a whole model",
                 .found = fmt::format("one of {} parts", *parts),
                 .hint = "Join the parts with llama.cpp's 'llama-gguf-split --merge'"});
}

void GgufReader::set_alignment(const GgufValue& value) {
  const auto number = value.integer();
  if (value.type() != GgufType::u32 || !number || *number <= 0 ||
      static_cast<uint64_t>(*number) > kMaxAlignment ||
      !std::has_single_bit(static_cast<uint64_t>(*number)))
    fail("metadata 'general.alignment'",
         fmt::format("a u32 power of two of at most {}", kMaxAlignment), shown(value));
  alignment_ = static_cast<uint64_t>(*number);
}

void GgufReader::read_tensor() {
  const std::string tensor = name("tensor name");
  const std::string subject = tensor_subject(tensor);
  const auto rank = reader_.number<uint32_t>("the number of dimensions");
  if (rank > kMaxRank)
    fail(subject, fmt::format("at most {} dimensions", kMaxRank), fmt::format("{}", rank));
  TensorInfo info;
  for (uint32_t i = 0; i < rank; ++i) {
    const auto extent = reader_.number<uint64_t>("an extent");
    if (!std::in_range<int64_t>(extent))
      fail(subject, "extents below 2^63", fmt::format("{}", extent));
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
    fail(subject, fmt::format("rows of whole {}-element blocks", block),
         fmt::format("rows of {}", info.shape.front()));
  std::reverse(info.shape.begin(), info.shape.end());
  info.size = encoded_size(info.shape, info.encoding, subject);
  info.offset = reader_.number<uint64_t>("the tensor's offset");
  if (info.offset % alignment_ != 0)
    fail(subject, fmt::format("an offset aligned to {}", alignment_),
         fmt::format("{}", info.offset));
  if (!contents_.tensors.emplace(tensor, std::move(info)).second)
    fail(subject, "every name once", "it twice");
}

/// Turns offsets within the data into offsets within the file.
void GgufReader::place_tensors() {
  const uint64_t begin = (reader_.position() + alignment_ - 1) / alignment_ * alignment_;
  for (auto& [tensor, info] : contents_.tensors) {
    const auto offset = checked_sum(info.offset, begin);
    if (!offset || !checked_sum(*offset, info.size))
      fail(tensor_subject(tensor), "an offset within the file", fmt::format("{}", info.offset));
    info.offset = *offset;
  }
  check_places(contents_.tensors, begin, std::max<uint64_t>(begin, file_.size()), Gaps::allowed);
  if (!contents_.tensors.empty() && begin > file_.size())
    throw Error(ErrorCode::malformed, {.subject = "tensor data",
                                       .expected = fmt::format("it to start at byte {}", begin),
                                       .found = fmt::format("a file of {} bytes", file_.size()),
                                       .hint = std::string(kCutShort)});
}

/// Applies the shapes that a converter has kept beside tensors it had to fold into rows.
void GgufReader::restore_shapes() {
  for (auto pair = contents_.gguf.lower_bound(kShapeKey);
       pair != contents_.gguf.end() && pair->first.starts_with(kShapeKey); ++pair) {
    const std::string subject = "metadata " + in_quotes(pair->first);
    const auto tensor = contents_.tensors.find(pair->first.substr(kShapeKey.size()));
    if (tensor == contents_.tensors.end()) continue;
    TensorInfo& info = tensor->second;
    const uint64_t rank = pair->second.count();
    const Shape shape = rank <= kMaxRank ? pair->second.integers() : Shape();
    if (shape.size() != rank || shape.empty())
      fail(subject, fmt::format("an array of 1 to {} integers", kMaxRank), shown(pair->second));
    encoded_size(shape, Encoding::u8, subject);
    if (TensorInfo{.shape = shape}.elements() != info.elements())
      fail(subject, fmt::format("{} elements, as in {}", info.elements(), to_string(info.shape)),
           to_string(shape));
    info.shape = shape;
  }
}

}  // namespace

bool is_gguf(std::span<const std::byte> file) {
  return file.size() >= kMagic.size() &&
         std::equal(kMagic.begin(), kMagic.end(), file.begin(),
                    [](char a, std::byte b) { return static_cast<std::byte>(a) == b; });
}

FileContents read_gguf(std::span<const std::byte> file) { return GgufReader(file).read(); }

}  // namespace atelier
