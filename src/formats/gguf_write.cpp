// Writes GGUF: metadata, tensor infos, then the tensors, each aligned to 32 bytes.
#include <fmt/format.h>

#include <algorithm>
#include <cstdint>
#include <set>

#include "base/error.h"
#include "base/mapped_file.h"
#include "formats/gguf.h"
#include "formats/gguf_value.h"
#include "formats/layout.h"
#include "formats/pieces.h"

namespace atelier {
namespace {

constexpr uint64_t kAlignment = 32;  // the default of the format

[[noreturn]] void refuse(std::string subject, std::string expected, std::string found) {
  throw Error(
      ErrorCode::invalid_argument,
      {.subject = std::move(subject), .expected = std::move(expected), .found = std::move(found)});
}

uint64_t aligned(uint64_t position) {
  return (position + kAlignment - 1) / kAlignment * kAlignment;
}

/// The head of a file as it grows.
class Head {
 public:
  template <class T>
  void number(T value) {
    raw(std::as_bytes(std::span(&value, 1)));
  }
  void raw(std::span<const std::byte> bytes) {
    bytes_.insert(bytes_.end(), bytes.begin(), bytes.end());
  }
  void text(std::string_view text) {
    if (!is_utf8(text)) refuse("text " + in_quotes(text), "UTF-8", "other bytes");
    number<uint64_t>(text.size());
    raw(std::as_bytes(std::span(text)));
  }
  void type(GgufType type) { number(static_cast<uint32_t>(type)); }
  void pad() { bytes_.resize(aligned(bytes_.size())); }
  std::span<const std::byte> bytes() const { return bytes_; }

 private:
  std::vector<std::byte> bytes_;
};

/// Writes a value behind its type.
struct ValueWriter {
  Head& head;
  void operator()(const std::string& text) const {
    head.type(GgufType::text);
    head.text(text);
  }
  void operator()(uint32_t number) const {
    head.type(GgufType::u32);
    head.number(number);
  }
  void operator()(const std::vector<int32_t>& numbers) const {
    head.type(GgufType::array);
    head.type(GgufType::i32);
    head.number<uint64_t>(numbers.size());
    for (const int32_t number : numbers) head.number(number);
  }
  void operator()(const GgufValue& value) const {
    head.type(value.type());
    head.raw(value.bytes());
  }
};

/// What the file says of one tensor.
struct Place {
  Shape shape;  // as GGUF holds it
  uint64_t size = 0, offset = 0;
};

Place place_of(const TensorSpec& spec) {
  const std::string subject = tensor_subject(spec.name);
  const EncodingInfo& info = encoding_info(spec.encoding);
  if (spec.name.size() > kMaxGgufName)
    refuse(subject, fmt::format("a name of at most {} bytes, as ggml reads", kMaxGgufName),
           fmt::format("{}", spec.name.size()));
  if (!is_utf8(spec.name)) refuse(subject, "a name in UTF-8", "other bytes");
  if (info.ggml_type < 0) refuse(subject, "an encoding that GGUF knows", std::string(info.name));
  const auto shape = gguf_shape(spec.shape, spec.encoding);
  if (!shape)
    refuse(subject,
           fmt::format("rows of whole blocks of {} {} elements", info.block_elements, info.name),
           to_string(spec.shape));
  if (std::ranges::any_of(spec.shape, [](int64_t extent) { return extent > INT32_MAX; }))
    refuse(subject, "extents of at most 31 bits", to_string(spec.shape));
  try {
    return {*shape, encoded_size(*shape, spec.encoding, subject)};
  } catch (const Error& error) {
    refuse(subject, error.facts().expected, error.facts().found);
  }
}

std::vector<Place> place_all(std::span<const TensorSpec> specs, GgufEntries& metadata) {
  std::vector<Place> places;
  std::set<std::string_view> names;
  uint64_t position = 0;
  for (const TensorSpec& spec : specs) {
    if (!names.insert(spec.name).second)
      refuse(tensor_subject(spec.name), "every name once", "it twice");
    Place place = place_of(spec);
    place.offset = position;
    position = aligned(position + place.size);
    if (spec.shape.empty())
      metadata[std::string(kGgufScalarKey) + spec.name] = uint32_t{1};
    else if (place.shape != spec.shape)
      metadata["comfy.gguf.orig_shape." + spec.name] =
          std::vector<int32_t>(spec.shape.begin(), spec.shape.end());
    places.push_back(std::move(place));
  }
  return places;
}

}  // namespace

std::optional<Shape> gguf_shape(const Shape& shape, Encoding encoding) {
  const int64_t block = encoding_info(encoding).block_elements;
  if (shape.empty()) return block == 1 ? std::optional(Shape{1}) : std::nullopt;
  if (shape.size() <= kMaxGgufRank && shape.back() % block == 0) return shape;
  // Rows of ever more of the inner extents: the shortest that are whole blocks.
  Shape folded = shape;
  while (folded.size() > 1) {
    const int64_t inner = folded.back();
    folded.pop_back();
    folded.back() *= inner;
    if (folded.size() <= kMaxGgufRank && folded.back() % block == 0) return folded;
  }
  return std::nullopt;
}

void write_gguf_in_pieces(const std::filesystem::path& path, std::span<const TensorSpec> specs,
                          const TensorPieces& pieces, GgufEntries metadata,
                          const std::function<void()>& finished) {
  const std::vector<Place> places = place_all(specs, metadata);
  Head head;
  head.raw(std::as_bytes(std::span("GGUF", 4)));
  head.number<uint32_t>(3);
  head.number<uint64_t>(specs.size());
  head.number<uint64_t>(metadata.size());
  for (const auto& [key, value] : metadata) {
    head.text(key);
    std::visit(ValueWriter{head}, value);
  }
  for (size_t i = 0; i < specs.size(); ++i) {
    head.text(specs[i].name);
    const Shape& shape = places[i].shape;
    head.number(static_cast<uint32_t>(shape.size()));
    for (size_t d = shape.size(); d-- > 0;) head.number(static_cast<uint64_t>(shape[d]));
    head.number(static_cast<uint32_t>(encoding_info(specs[i].encoding).ggml_type));
    head.number(places[i].offset);
  }
  head.pad();
  AtomicFile file(path);
  file.write(head.bytes());
  constexpr std::byte kZeros[kAlignment] = {};
  for (size_t i = 0; i < specs.size(); ++i) {
    const uint64_t size = places[i].size;
    write_pieces(file, pieces, i, specs[i].name, size);
    file.write(std::span(kZeros).first(aligned(size) - size));
  }
  if (finished) finished();
  file.commit();
}

void write_gguf(const std::filesystem::path& path, std::span<const TensorSpec> specs,
                const std::function<std::span<const std::byte>(size_t)>& bytes_of,
                GgufEntries metadata) {
  write_gguf_in_pieces(path, specs, whole_tensors(bytes_of), std::move(metadata));
}

}  // namespace atelier
