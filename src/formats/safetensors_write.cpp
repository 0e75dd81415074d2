// Writes safetensors: header sorted by alignment, padded so that the data starts at 8 bytes.
#include <fmt/format.h>

#include <algorithm>
#include <numeric>
#include <set>

#include "base/error.h"
#include "base/json.h"
#include "base/mapped_file.h"
#include "formats/layout.h"
#include "formats/pieces.h"
#include "formats/safetensors.h"

namespace atelier {
namespace {

[[noreturn]] void refuse(std::string subject, std::string expected, std::string found) {
  throw Error(
      ErrorCode::invalid_argument,
      {.subject = std::move(subject), .expected = std::move(expected), .found = std::move(found)});
}

void check_specs(std::span<const TensorSpec> specs, const Metadata& metadata) {
  std::set<std::string_view> names;
  for (const TensorSpec& spec : specs) {
    const std::string subject = tensor_subject(spec.name);
    const EncodingInfo& info = encoding_info(spec.encoding);
    if (spec.name == "__metadata__" || !is_utf8(spec.name))
      refuse(subject, "a name in UTF-8 other than __metadata__", "this one");
    if (!names.insert(spec.name).second) refuse(subject, "every name once", "it twice");
    if (info.safetensors.empty())
      refuse(subject, "an encoding that safetensors knows", std::string(info.name));
  }
  for (const auto& [key, value] : metadata)
    if (!is_utf8(key) || !is_utf8(value))
      refuse("metadata " + in_quotes(key), "UTF-8", "other bytes");
}

uint64_t size_of(const TensorSpec& spec) {
  const std::string subject = tensor_subject(spec.name);
  try {
    return encoded_size(spec.shape, spec.encoding, subject);
  } catch (const Error& error) {
    refuse(subject, error.facts().expected, error.facts().found);
  }
}

/// Indices of `specs`, largest alignment first, then by name, so that every tensor is aligned.
std::vector<size_t> file_order(std::span<const TensorSpec> specs) {
  std::vector<size_t> order(specs.size());
  std::iota(order.begin(), order.end(), size_t{0});
  const auto alignment = [&](size_t i) {
    const EncodingInfo& info = encoding_info(specs[i].encoding);
    return info.block_elements == 1 ? info.block_bytes : 1;
  };
  std::sort(order.begin(), order.end(), [&](size_t a, size_t b) {
    return alignment(a) != alignment(b) ? alignment(a) > alignment(b)
                                        : specs[a].name < specs[b].name;
  });
  return order;
}

}  // namespace

void write_safetensors_in_pieces(const std::filesystem::path& path,
                                 std::span<const TensorSpec> specs, const TensorPieces& pieces,
                                 const Metadata& metadata, const std::function<void()>& finished) {
  check_specs(specs, metadata);
  const std::vector<size_t> order = file_order(specs);
  Json header = Json::object();
  if (!metadata.empty()) header["__metadata__"] = metadata;
  uint64_t position = 0;
  std::vector<uint64_t> sizes(specs.size());
  for (const size_t i : order) {
    const TensorSpec& spec = specs[i];
    sizes[i] = size_of(spec);
    // Pushed without looking for the key: names are known to differ, and the look-up is linear.
    header.get_ref<Json::object_t&>().emplace_back(
        spec.name, Json{{"dtype", encoding_info(spec.encoding).safetensors},
                        {"shape", spec.shape},
                        {"data_offsets", {position, position + sizes[i]}}});
    position += sizes[i];
  }
  std::string text = header.dump();
  text.append((8 - text.size() % 8) % 8, ' ');
  if (text.size() > kMaxSafetensorsHeader)
    refuse(path.string(), fmt::format("a header of at most {} bytes", kMaxSafetensorsHeader),
           fmt::format("{}", text.size()));
  AtomicFile file(path);
  const uint64_t length = text.size();
  file.write(std::as_bytes(std::span(&length, 1)));
  file.write(text);
  for (const size_t i : order) write_pieces(file, pieces, i, specs[i].name, sizes[i]);
  if (finished) finished();
  file.commit();
}

void write_safetensors(const std::filesystem::path& path, std::span<const TensorSpec> specs,
                       const std::function<std::span<const std::byte>(size_t)>& bytes_of,
                       const Metadata& metadata) {
  write_safetensors_in_pieces(path, specs, whole_tensors(bytes_of), metadata);
}

}  // namespace atelier
