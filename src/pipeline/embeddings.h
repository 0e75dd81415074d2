// Textual inversions: files of vectors that prompts name as `embedding:NAME`.
#pragma once

#include <ATen/core/Tensor.h>

#include <filesystem>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "text/token_chunks.h"

namespace atelier {

/// Embeddings of some folders, read when first asked for and kept. One thread at a time.
class EmbeddingFolder final : public EmbeddingSource {
 public:
  explicit EmbeddingFolder(std::vector<std::filesystem::path> folders);
  /// Reads NAME.safetensors, .pt or .bin as trainers write them: the tensor named after the encoder
  /// (clip_l, clip_g, clip_h, t5xxl; also text_encoders_0 and _1, t5), else `emb_params`, else the
  /// one below `string_to_param`, else the only one, else all `<token>` tensors of the encoder's
  /// width by name. Empty for a name without a file. Throws for a file that cannot be read, has
  /// vectors for other encoders alone, or holds no matrix of finite numbers, of at most 75 vectors
  /// for CLIP and 1024 for T5.
  std::optional<Embedding> find(std::string_view name, const EncoderRules& rules) override;
  /// The vectors of a handle that `find` gave: [vectors, width] fp32.
  const at::Tensor& vectors(uint64_t handle) const { return held_.at(handle); }

 private:
  std::vector<std::filesystem::path> folders_;
  std::vector<at::Tensor> held_;  // by handle
  std::map<std::pair<std::filesystem::path, std::string>, uint64_t> known_;  // (file, encoder)
};

}  // namespace atelier
