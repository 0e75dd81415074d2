// How the tensors of a part take to coarse encodings: rows in each model's own file.
#pragma once

#include <map>
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

/// Tensors whose names contain `piece`: the model's own names, whatever layout a file has. A '*' in
/// it stands for anything, a '^' in front for the beginning of the name. The first row that fits
/// counts.
struct QuantRule {
  std::string_view piece;
  QuantRole role;
};

/// What a tensor of a file is in the model: all of a tensor, a part of one, or one of several.
struct ModelTensor {
  std::string name;
  bool transposed = false;
};
/// By names in the file, behind the part's prefix.
using ModelTensors = std::multimap<std::string, ModelTensor, std::less<>>;

/// A part of a file that may be quantised.
struct QuantPart {
  std::string prefix;
  std::string_view name;  // of the architecture: "sd1", "t5xxl"; "unknown" if none fits
  std::string_view gguf_architecture;  // as in `PartDef`
  std::span<const QuantRule> rules;
  const KeyLayout* layout = nullptr;  // of the names; null if unknown
  ModelTensors tensors;  // of a known layout
};

/// The parts of `source` that are worth quantising: a known denoiser, a large text encoder. For a
/// file of unknown architecture all of it, by rules that suit most transformers.
QuantPart quantisable_part(const std::shared_ptr<const TensorSource>& source);

/// The role of the tensor `name` of the file: `keep` outside the part. What the file splits has the
/// role of the whole, so that every layout of a model gets the same numbers; what it joins is kept
/// if one of its parts is, and `fused` if these have different roles.
QuantRole quant_role(const QuantPart& part, std::string_view name);

}  // namespace atelier
