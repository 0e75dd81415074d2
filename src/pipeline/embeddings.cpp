// Reading textual inversions in the layouts their trainers use.
#include "pipeline/embeddings.h"

#include <ATen/ATen.h>

#include <algorithm>

#include "base/error.h"
#include "formats/checkpoint.h"
#include "quant/decode.h"
#include "text/embedding_files.h"

namespace atelier {
namespace {

constexpr int64_t kMostVectors = 75;  // more would not fit a chunk
constexpr std::string_view kPlainName = "emb_params", kNestedHead = "string_to_param.";

// The name of the tensor that holds the vectors for `encoder`.
std::string tensor_name(const TensorSource& file, std::string_view encoder) {
  const TensorTable& table = file.tensors();
  for (const std::string_view name : {encoder, kPlainName})
    if (table.contains(name)) return std::string(name);
  const auto nested = table.lower_bound(kNestedHead);
  if (nested != table.end() && nested->first.starts_with(kNestedHead)) return nested->first;
  if (table.size() == 1) return table.begin()->first;
  throw Error(ErrorCode::mismatch,
              {.subject = file.label(),
               .expected = "a textual inversion: one tensor, emb_params, string_to_param, or " +
                           std::string(encoder),
               .found = std::to_string(table.size()) + " tensors"});
}

// [vectors, width] fp32
at::Tensor read_vectors(const TensorSource& file, std::string_view encoder) {
  const std::string name = tensor_name(file, encoder);
  const TensorInfo& info = file.tensors().at(name);
  const bool matrix = info.shape.size() == 2 || info.shape.size() == 1;
  if (!matrix || info.elements() == 0 || (info.shape.size() == 2 && info.shape[0] > kMostVectors))
    throw Error(ErrorCode::mismatch, {.subject = file.label() + ": " + name,
                                      .expected = "[1 to 75 vectors, width]",
                                      .found = to_string(info.shape)});
  at::Tensor vectors = at::empty(info.shape, at::kFloat);
  decode(file.bytes(name), info.encoding, vectors, name);
  return vectors.view({-1, info.shape.back()});
}

}  // namespace

EmbeddingFolder::EmbeddingFolder(std::vector<std::filesystem::path> folders)
    : folders_(std::move(folders)) {}

std::optional<Embedding> EmbeddingFolder::find(std::string_view name, const EncoderRules& rules) {
  const auto file = find_embedding_file(folders_, name);
  if (!file) return {};
  const auto key = std::pair(*file, std::string(rules.name));
  auto known = known_.find(key);
  if (known == known_.end()) {
    held_.push_back(read_vectors(*open_checkpoint(*file), rules.name));
    known = known_.emplace(key, held_.size() - 1).first;
  }
  const at::Tensor& vectors = held_[known->second];
  return Embedding{.vectors = static_cast<int32_t>(vectors.size(0)),
                   .width = static_cast<int32_t>(vectors.size(1)),
                   .handle = known->second};
}

}  // namespace atelier
