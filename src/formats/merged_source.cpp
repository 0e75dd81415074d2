// Name tables of joined sources.
#include "formats/merged_source.h"

#include <algorithm>

#include "base/error.h"
#include "formats/layout.h"

namespace atelier {

MergedSource::MergedSource(std::string label, std::string format, std::vector<SourcePart> parts,
                           Metadata extra)
    : label_(std::move(label)),
      format_(std::move(format)),
      parts_(std::move(parts)),
      metadata_(std::move(extra)) {
  uint32_t shards = 0;
  for (const SourcePart& part : parts_) {
    first_shard_.push_back(shards);
    uint32_t last = 0;
    for (const auto& [name, info] : part.source->tensors()) {
      const auto [place, added] = tensors_.emplace(part.prefix + name, info);
      if (!added)
        throw Error(ErrorCode::mismatch, {.subject = label_,
                                          .expected = tensor_subject(place->first) + " once",
                                          .found = "it again in " + part.source->label()});
      last = std::max(last, info.shard);
      place->second.shard += shards;
    }
    for (const auto& [key, value] : part.source->metadata())
      metadata_.emplace(part.prefix + key, value);
    shards += last + 1;
  }
}

const SourcePart& MergedSource::part_of(const TensorInfo& info) const {
  const auto after = std::upper_bound(first_shard_.begin(), first_shard_.end(), info.shard);
  return parts_[static_cast<size_t>(after - first_shard_.begin()) - 1];
}

std::span<const std::byte> MergedSource::bytes(std::string_view name) const {
  const auto found = tensors_.find(name);
  if (found == tensors_.end())
    throw Error(
        ErrorCode::not_found,
        {.subject = label_, .expected = tensor_subject(name), .found = "no tensor of this name"});
  const SourcePart& part = part_of(found->second);
  return part.source->bytes(name.substr(part.prefix.size()));
}

void MergedSource::will_need(std::string_view name) const {
  const auto found = tensors_.find(name);
  if (found == tensors_.end()) return;
  const SourcePart& part = part_of(found->second);
  part.source->will_need(name.substr(part.prefix.size()));
}

void MergedSource::wont_need(std::string_view name) const {
  const auto found = tensors_.find(name);
  if (found == tensors_.end()) return;
  const SourcePart& part = part_of(found->second);
  part.source->wont_need(name.substr(part.prefix.size()));
}

std::shared_ptr<const TensorSource> with_prefix(std::string prefix,
                                                std::shared_ptr<const TensorSource> source) {
  std::string label = source->label(), format = source->format();
  return std::make_shared<MergedSource>(
      std::move(label), std::move(format),
      std::vector<SourcePart>{{std::move(prefix), std::move(source)}});
}

}  // namespace atelier
