// The course of reading a GGUF file, and what concerns all of it; its fields are in
// gguf_fields.cpp.
#include "formats/gguf.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>

#include "base/error.h"
#include "formats/gguf_reader.h"
#include "formats/layout.h"

namespace atelier {
namespace {

constexpr std::string_view kMagic = "GGUF";
constexpr std::string_view kShapeKey = "comfy.gguf.orig_shape.";
constexpr uint64_t kMaxAlignment = 1 << 20;
constexpr uint64_t kSmallestPair = 8 + 4 + 1;  // empty key, type, one byte
constexpr uint64_t kSmallestTensor = 8 + 4 + 4 + 8;  // empty name, no dimension, type, offset

std::string shown(const GgufValue& value) { return value.text() ? "a text" : value.describe(); }

}  // namespace

void gguf_malformed(std::string subject, std::string expected, std::string found) {
  throw Error(ErrorCode::malformed, {.subject = std::move(subject),
                                     .expected = std::move(expected),
                                     .found = std::move(found),
                                     .hint = std::string(kDamaged)});
}

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
    gguf_malformed("header", "the magic number GGUF", "other bytes");
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
  if (version < 1 || version > 3)
    refuse(fmt::format("version {}", version), "Written by a newer program, or damaged");
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
    gguf_malformed("metadata 'general.alignment'",
                   fmt::format("a u32 power of two of at most {}", kMaxAlignment), shown(value));
  alignment_ = static_cast<uint64_t>(*number);
}

/// Turns offsets within the data into offsets within the file.
void GgufReader::place_tensors() {
  const uint64_t begin = (reader_.position() + alignment_ - 1) / alignment_ * alignment_;
  for (auto& [tensor, info] : contents_.tensors) {
    const auto offset = checked_sum(info.offset, begin);
    if (!offset || !checked_sum(*offset, info.size))
      gguf_malformed(tensor_subject(tensor), "an offset within the file",
                     fmt::format("{}", info.offset));
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
      gguf_malformed(subject, fmt::format("an array of 1 to {} integers", kMaxRank),
                     shown(pair->second));
    encoded_size(shape, Encoding::u8, subject);
    if (TensorInfo{.shape = shape}.elements() != info.elements())
      gguf_malformed(subject,
                     fmt::format("{} elements, as in {}", info.elements(), to_string(info.shape)),
                     to_string(shape));
    info.shape = shape;
  }
  for (auto pair = contents_.gguf.lower_bound(kGgufScalarKey);
       pair != contents_.gguf.end() && pair->first.starts_with(kGgufScalarKey); ++pair) {
    const auto tensor = contents_.tensors.find(pair->first.substr(kGgufScalarKey.size()));
    if (tensor != contents_.tensors.end() && tensor->second.shape == Shape{1})
      tensor->second.shape.clear();
  }
}

bool is_gguf(std::span<const std::byte> file) {
  return file.size() >= kMagic.size() &&
         std::equal(kMagic.begin(), kMagic.end(), file.begin(),
                    [](char a, std::byte b) { return static_cast<std::byte>(a) == b; });
}

FileContents read_gguf(std::span<const std::byte> file) { return GgufReader(file).read(); }

}  // namespace atelier
