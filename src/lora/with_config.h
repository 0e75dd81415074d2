// A LoRA file with PEFT's config in its metadata; used by tests.
#pragma once

#include <memory>
#include <string>

#include "formats/tensor_source.h"

namespace atelier {

/// The tensors of `inner` beside `config`, JSON as diffusers writes it.
class WithConfig final : public TensorSource {
 public:
  WithConfig(std::shared_ptr<const TensorSource> inner, std::string config)
      : inner_(std::move(inner)) {
    metadata_["lora_adapter_metadata"] = std::move(config);
  }
  const TensorTable& tensors() const override { return inner_->tensors(); }
  std::span<const std::byte> bytes(std::string_view name) const override {
    return inner_->bytes(name);
  }
  void will_need(std::string_view) const override {}
  std::string label() const override { return inner_->label(); }
  const Metadata& metadata() const override { return metadata_; }

 private:
  std::shared_ptr<const TensorSource> inner_;
  Metadata metadata_;
};

}  // namespace atelier
