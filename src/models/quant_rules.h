// How the tensors of a part take to coarse encodings: rows in each model's own file.
#pragma once

#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "formats/tensor_source.h"
#include "nn/key_map.h"

namespace atelier {

/// What a matrix does, as far as its encoding depends on it.
enum class QuantRole : uint8_t {
  plain,
  keep,  // stays as it is: embeddings of times and sizes, first and last layers
  value,  // values of an attention
  fused,  // queries, keys and values in one
  down,  // the way out of a feed-forward
};

/// Tensors whose names contain `piece`, in any layout; the first row that fits counts.
struct QuantRule {
  std::string_view piece;
  QuantRole role;
};

/// A part of a file that may be quantised.
struct QuantPart {
  std::string prefix;
  std::string_view name;  // of the architecture: "sd1", "t5xxl"; "unknown" if none fits
  std::string_view gguf_architecture;  // as in `PartDef`
  std::span<const QuantRule> rules;
  const KeyLayout* layout = nullptr;  // of the names; null if unknown
};

/// The parts of `source` that are worth quantising: a known denoiser, a large text encoder. For a
/// file of unknown architecture all of it, by rules that suit most transformers.
QuantPart quantisable_part(const std::shared_ptr<const TensorSource>& source);

/// The role of the tensor `name` of the file: `keep` outside the part.
QuantRole quant_role(const QuantPart& part, std::string_view name);

}  // namespace atelier
