// A source seen without the tensors that only tell of scales.
#include "formats/scaled_source.h"

#include "base/error.h"
#include "formats/layout.h"
#include "formats/scale_finder.h"

namespace atelier {
namespace {

class ScaledSource final : public TensorSource {
 public:
  ScaledSource(std::shared_ptr<const TensorSource> source, FoundScales found)
      : source_(std::move(source)), found_(std::move(found)), metadata_(source_->metadata()) {
    metadata_.erase(std::string(kLayersKey));
  }

  const TensorTable& tensors() const override { return found_.tensors; }
  std::span<const std::byte> bytes(std::string_view name) const override {
    if (found_.tensors.contains(name)) return source_->bytes(name);
    throw Error(
        ErrorCode::not_found,
        {.subject = label(), .expected = tensor_subject(name), .found = "no tensor of this name"});
  }
  void will_need(std::string_view name) const override {
    source_->will_need(name);
    for (const std::string& companion : companions(name)) source_->will_need(companion);
  }
  void wont_need(std::string_view name) const override {
    source_->wont_need(name);
    for (const std::string& companion : companions(name)) source_->wont_need(companion);
  }
  std::string label() const override { return source_->label(); }
  const Metadata& metadata() const override { return metadata_; }
  std::string format() const override { return source_->format(); }

 private:
  std::span<const std::string> companions(std::string_view name) const {
    const auto found = found_.companions.find(name);
    return found == found_.companions.end() ? std::span<const std::string>() : found->second;
  }

  std::shared_ptr<const TensorSource> source_;
  FoundScales found_;
  Metadata metadata_;
};

}  // namespace

std::shared_ptr<const TensorSource> read_scales(std::shared_ptr<const TensorSource> source) {
  try {
    FoundScales found = ScaleFinder(*source).find();
    if (!found.any) return source;
    return std::make_shared<ScaledSource>(std::move(source), std::move(found));
  } catch (const Error& error) {
    throw error.within(source->label());
  }
}

}  // namespace atelier
