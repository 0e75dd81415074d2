// Tensors in memory under names, as a source: for random weights in benchmarks and for tests.
#pragma once

#include <ATen/core/Tensor.h>

#include <map>
#include <string>

#include "formats/tensor_source.h"

namespace atelier {

/// A TensorSource over CPU tensors of fp64, fp32, fp16, bf16 or fp8. Fill it before sharing it.
class MemorySource final : public TensorSource {
 public:
  explicit MemorySource(std::string label = "memory") : label_(std::move(label)) {}
  /// Adds or replaces a tensor; keeps a contiguous copy or the tensor itself. Throws `unsupported`
  /// for other dtypes.
  void put(const std::string& name, const at::Tensor& tensor);
  /// The same for bytes in any encoding, of which a copy is kept.
  void put(const std::string& name, const Shape& shape, Encoding encoding,
           std::span<const std::byte> bytes);
  /// Says how a tensor that is there is scaled; the spans must live as long as the source.
  void scale(const std::string& name, Scaling scaling);
  void remove(const std::string& name);
  const at::Tensor& tensor(const std::string& name) const { return held_.at(name); }

  const TensorTable& tensors() const override { return table_; }
  std::span<const std::byte> bytes(std::string_view name) const override;
  void will_need(std::string_view) const override {}
  std::string label() const override { return label_; }
  const std::map<std::string, std::string, std::less<>>& metadata() const override {
    return metadata_;
  }

 private:
  std::string label_;
  TensorTable table_;
  std::map<std::string, at::Tensor, std::less<>> held_;
  std::map<std::string, std::string, std::less<>> metadata_;
};

}  // namespace atelier
