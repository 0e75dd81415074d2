// Recognises an archive of torch.save by its data.pkl and looks storages up in it.
#include "formats/torch_archive.h"

#include <fmt/format.h>

#include <algorithm>
#include <optional>
#include <vector>

#include "base/error.h"
#include "formats/layout.h"

namespace atelier {
namespace {

constexpr std::string_view kPickleName = "/data.pkl";

[[noreturn]] void refuse(std::string_view subject, std::string_view expected, std::string found,
                         std::string_view hint) {
  throw Error(ErrorCode::unsupported, {.subject = std::string(subject),
                                       .expected = std::string(expected),
                                       .found = std::move(found),
                                       .hint = std::string(hint)});
}

[[noreturn]] void fail(std::string_view subject, std::string expected, std::string found) {
  throw Error(ErrorCode::malformed, {.subject = std::string(subject),
                                     .expected = std::move(expected),
                                     .found = std::move(found),
                                     .hint = std::string(kDamaged)});
}

}  // namespace

TorchArchive::TorchArchive(std::span<const std::byte> file)
    : file_(file), directory_(read_zip_directory(file)) {
  std::optional<std::string_view> pickle;
  for (const auto& [name, entry] : directory_) {
    const bool found =
        name.ends_with(kPickleName) && name.find('/') == name.size() - kPickleName.size();
    if (found && pickle)
      fail("zip archive", "one data.pkl", in_quotes(*pickle) + " and " + in_quotes(name));
    if (found) pickle = name;
  }
  if (!pickle)
    refuse("zip archive", "a file of torch.save, with data.pkl",
           fmt::format("{} entries without it", directory_.size()),
           "This is some other kind of archive");
  root_ = pickle->substr(0, pickle->size() - kPickleName.size() + 1);
  if (has("constants.pkl"))
    refuse("zip archive", "tensors", "a TorchScript program",
           "Save the model's state_dict with torch.save, or use a safetensors file");
  if (has("byteorder")) {
    const auto order = entry("byteorder");
    const std::string_view text(reinterpret_cast<const char*>(order.data()), order.size());
    if (text != "little")
      refuse("zip entry 'byteorder'", "little", in_quotes(text),
             "Save the file again on a little-endian machine");
  }
}

std::span<const std::byte> TorchArchive::entry(std::string_view name) const {
  const auto found = directory_.find(root_ + std::string(name));
  return zip_entry_bytes(file_, found->first, found->second);
}

std::span<const std::byte> TorchArchive::storage(std::string_view key, std::string_view subject) {
  if (const auto known = storages_.find(key); known != storages_.end()) return known->second;
  const std::string name = fmt::format("data/{}", key);
  if (!has(name))
    fail(subject, fmt::format("its data in zip entry {}", in_quotes(root_ + name)),
         "no such entry");
  return storages_.emplace(key, entry(name)).first->second;
}

uint64_t TorchArchive::offset_of(std::span<const std::byte> bytes) const {
  return static_cast<uint64_t>(bytes.data() - file_.data());
}

void TorchArchive::check_overlap() const {
  std::vector<std::pair<std::span<const std::byte>, std::string_view>> places;
  for (const auto& [key, bytes] : storages_)
    if (!bytes.empty()) places.emplace_back(bytes, key);
  std::sort(places.begin(), places.end(),
            [](const auto& a, const auto& b) { return a.first.data() < b.first.data(); });
  for (size_t i = 1; i < places.size(); ++i)
    if (places[i - 1].first.data() + places[i - 1].first.size() > places[i].first.data())
      fail("storage " + in_quotes(places[i].second), "bytes of its own",
           "bytes of storage " + in_quotes(places[i - 1].second));
}

}  // namespace atelier
