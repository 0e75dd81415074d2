// Reads a safetensors header as its JSON arrives: no document is built, so that a hostile header
// costs no more memory than its own entries. Longer than most files: one parser and its state.
#include <fmt/format.h>

#include <array>
#include <limits>
#include <optional>

#include "base/error.h"
#include "base/json.h"
#include "formats/byte_reader.h"
#include "formats/contents.h"
#include "formats/layout.h"
#include "formats/safetensors.h"

namespace atelier {
namespace {

constexpr size_t kMaxDepth = 16;
constexpr std::string_view kMetadataKey = "__metadata__";

[[noreturn]] void fail(ErrorCode code, std::string subject, std::string expected,
                       std::string found) {
  throw Error(code, {.subject = std::move(subject),
                     .expected = std::move(expected),
                     .found = std::move(found),
                     .hint = std::string(kDamaged)});
}

/// Takes the events of the JSON parser; `data_begin` and `data_size` place the tensors.
class HeaderReader : public nlohmann::json_sax<Json> {
 public:
  HeaderReader(FileContents& contents, uint64_t data_begin, uint64_t data_size)
      : contents_(contents), data_begin_(data_begin), data_size_(data_size) {}

  bool start_object(size_t) override { return open(false); }
  bool start_array(size_t) override { return open(true); }
  bool end_object() override {
    --depth_;
    if (depth_ == 1 && place_ == Place::tensor) finish_tensor();
    return true;
  }
  bool end_array() override { return --depth_, true; }
  bool key(std::string& name) override;
  bool string(std::string& text) override;
  bool number_unsigned(uint64_t value) override;
  bool number_integer(int64_t value) override { return wrong(fmt::format("{}", value)); }
  bool number_float(double, const std::string& text) override { return wrong(text); }
  bool boolean(bool value) override { return wrong(value ? "true" : "false"); }
  bool null() override { return place_ == Place::metadata && depth_ == 1 ? true : wrong("null"); }
  bool binary(Json::binary_t&) override { return wrong("binary"); }
  bool parse_error(size_t position, const std::string&,
                   const nlohmann::detail::exception&) override {
    fail(ErrorCode::malformed, "header", "JSON", fmt::format("an error at its byte {}", position));
  }

 private:
  enum class Place : uint8_t { outside, tensor, metadata };
  enum class Field : uint8_t { dtype, shape, offsets, unknown };

  bool open(bool array);
  bool wrong(std::string found) const;
  void finish_tensor();
  std::string subject() const {
    if (place_ == Place::tensor) return tensor_subject(name_);
    if (place_ == Place::outside) return "header";
    return depth_ > 1 ? "metadata " + in_quotes(key_) : std::string(kMetadataKey);
  }

  FileContents& contents_;
  uint64_t data_begin_, data_size_;
  size_t depth_ = 0;
  Place place_ = Place::outside;
  bool has_metadata_ = false;
  std::string name_, key_;  // of the tensor, of the metadata
  Field field_ = Field::unknown;
  std::optional<std::string> dtype_;
  std::optional<Shape> shape_;
  std::optional<std::vector<uint64_t>> offsets_;
};

bool HeaderReader::open(bool array) {
  const bool list = place_ == Place::tensor && depth_ == 2 && array &&
                    (field_ == Field::shape || field_ == Field::offsets);
  if (!list && (array || depth_ > 1)) wrong(array ? "a list" : "an object");
  if (++depth_ > kMaxDepth)
    fail(ErrorCode::malformed, "header", fmt::format("nesting of at most {}", kMaxDepth), "deeper");
  return true;
}

bool HeaderReader::key(std::string& name) {
  if (depth_ == 1) {
    if (name == kMetadataKey) {
      if (std::exchange(has_metadata_, true))
        fail(ErrorCode::malformed, "header", "one __metadata__", "two");
      place_ = Place::metadata;
    } else {
      place_ = Place::tensor;
      name_ = name;
      dtype_.reset(), shape_.reset(), offsets_.reset();
      if (contents_.tensors.contains(name_))
        fail(ErrorCode::malformed, subject(), "every name once", "it twice");
    }
    return true;
  }
  if (place_ == Place::tensor && depth_ > 2) return true;  // within an unknown field
  if (place_ == Place::metadata) {
    key_ = name;
    return true;
  }
  field_ = name == "dtype"          ? Field::dtype
           : name == "shape"        ? Field::shape
           : name == "data_offsets" ? Field::offsets
                                    : Field::unknown;
  const bool twice = (field_ == Field::dtype && dtype_) || (field_ == Field::shape && shape_) ||
                     (field_ == Field::offsets && offsets_);
  if (twice) fail(ErrorCode::malformed, subject(), fmt::format("one {}", name), "two");
  if (field_ == Field::shape) shape_.emplace();
  if (field_ == Field::offsets) offsets_.emplace();
  return true;
}

bool HeaderReader::string(std::string& text) {
  if (place_ == Place::metadata && depth_ == 2) {
    if (!contents_.metadata.emplace(key_, std::move(text)).second)
      fail(ErrorCode::malformed, subject(), "every key once", "it twice");
    return true;
  }
  if (place_ == Place::tensor && depth_ == 2 && field_ == Field::dtype) {
    dtype_ = std::move(text);
    return true;
  }
  return wrong("text");
}

bool HeaderReader::number_unsigned(uint64_t value) {
  if (place_ == Place::tensor && depth_ == 3 && field_ == Field::shape) {
    if (value > static_cast<uint64_t>(std::numeric_limits<int64_t>::max()))
      return wrong(fmt::format("{}", value));
    if (shape_->size() > kMaxRank) return true;  // reported by encoded_size
    shape_->push_back(static_cast<int64_t>(value));
    return true;
  }
  if (place_ == Place::tensor && depth_ == 3 && field_ == Field::offsets) {
    if (offsets_->size() < 3) offsets_->push_back(value);
    return true;
  }
  return wrong(fmt::format("{}", value));
}

/// A value that does not belong where it stands; those of unknown fields are skipped.
bool HeaderReader::wrong(std::string found) const {
  if (place_ == Place::tensor && depth_ > 1 && field_ == Field::unknown) return true;
  std::string expected = "an object";
  if (place_ == Place::metadata && depth_ > 1) expected = "text";
  if (place_ == Place::tensor && depth_ > 1)
    expected = field_ == Field::dtype   ? "dtype as text"
               : field_ == Field::shape ? "shape as a list of whole numbers from 0 to 2^63 - 1"
                                        : "data_offsets as a list of two whole numbers";
  fail(ErrorCode::malformed, subject(), std::move(expected), std::move(found));
}

void HeaderReader::finish_tensor() {
  const auto require = [&](bool present, std::string_view field) {
    if (!present) fail(ErrorCode::malformed, subject(), std::string(field), "none");
  };
  require(dtype_.has_value(), "dtype");
  require(shape_.has_value(), "shape");
  require(offsets_.has_value(), "data_offsets");
  const auto encoding = encoding_from_safetensors(*dtype_);
  if (!encoding)
    throw Error(ErrorCode::unsupported,
                {.subject = subject(),
                 .expected = "a dtype of safetensors such as F16, BF16 or F8_E4M3",
                 .found = in_quotes(*dtype_),
                 .hint = "Written by a newer version of the format, or damaged"});
  TensorInfo info{.shape = std::move(*shape_), .encoding = *encoding};
  info.size = encoded_size(info.shape, info.encoding, subject());
  if (offsets_->size() != 2)
    fail(ErrorCode::malformed, subject(), "two data_offsets",
         offsets_->size() > 2 ? "more" : fmt::format("{}", offsets_->size()));
  const uint64_t begin = (*offsets_)[0], end = (*offsets_)[1];
  if (begin > end)
    fail(ErrorCode::malformed, subject(), "data_offsets in rising order",
         fmt::format("[{}, {}]", begin, end));
  if (end > data_size_)
    throw Error(ErrorCode::malformed,
                {.subject = subject(),
                 .expected = fmt::format("data within the {} bytes behind the header", data_size_),
                 .found = fmt::format("data_offsets [{}, {}]", begin, end),
                 .hint = std::string(kCutShort)});
  if (end - begin != info.size)
    fail(ErrorCode::malformed, subject(),
         fmt::format("{} bytes for {} {}", info.size, *dtype_, to_string(info.shape)),
         fmt::format("{} (data_offsets [{}, {}])", end - begin, begin, end));
  info.offset = data_begin_ + begin;
  contents_.tensors.emplace(std::move(name_), std::move(info));
}

}  // namespace

bool is_safetensors(std::span<const std::byte> file) {
  return file.size() > 8 && file[8] == std::byte{'{'};
}

FileContents read_safetensors(std::span<const std::byte> file) {
  ByteReader reader(file, "header");
  const auto length = reader.number<uint64_t>("its length");
  if (length > kMaxSafetensorsHeader)
    fail(ErrorCode::malformed, "header", fmt::format("at most {} bytes", kMaxSafetensorsHeader),
         fmt::format("{}", length));
  const std::string_view json = reader.text(length, "JSON");
  FileContents contents;
  HeaderReader header(contents, reader.position(), reader.remaining());
  Json::sax_parse(json, &header);
  check_places(contents.tensors, reader.position(), file.size(), Gaps::forbidden);
  return contents;
}

}  // namespace atelier
