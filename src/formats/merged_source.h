// Several sources as one: the components of a model under their prefixes.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "formats/tensor_source.h"

namespace atelier {

/// One source whose tensors are to appear with `prefix` before their names.
struct SourcePart {
  std::string prefix;
  std::shared_ptr<const TensorSource> source;
};

/// Presents several sources as one. Each tensor keeps its bytes; `TensorInfo::shard` counts through
/// the parts' files in order. Metadata keys get the part's prefix, too; `extra` is added as it is.
class MergedSource final : public TensorSource {
 public:
  /// Throws `mismatch` if two parts give a tensor the same name.
  MergedSource(std::string label, std::string format, std::vector<SourcePart> parts,
               Metadata extra = {});
  const TensorTable& tensors() const override { return tensors_; }
  std::span<const std::byte> bytes(std::string_view name) const override;
  void will_need(std::string_view name) const override;
  void wont_need(std::string_view name) const override;
  std::string label() const override { return label_; }
  const Metadata& metadata() const override { return metadata_; }
  std::string format() const override { return format_; }
  const std::vector<SourcePart>& parts() const { return parts_; }

 private:
  /// The part a tensor comes from, by the shard numbers the parts were given.
  const SourcePart& part_of(const TensorInfo& info) const;

  std::string label_, format_;
  std::vector<SourcePart> parts_;
  std::vector<uint32_t> first_shard_;  // of each part
  TensorTable tensors_;
  Metadata metadata_;
};

/// One source under a prefix.
std::shared_ptr<const TensorSource> with_prefix(std::string prefix,
                                                std::shared_ptr<const TensorSource> source);

}  // namespace atelier
