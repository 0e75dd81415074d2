// What a text encoder is to the rest of the engine: chunks of tokens in, states per token out.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <span>
#include <vector>

#include "models/part.h"

namespace atelier {

/// A vector that stands in place of a token, as textual inversion teaches them.
struct TokenVector {
  int64_t position = 0;  // in the chunk
  at::Tensor values;  // [C], any float dtype, on the CPU
};

/// One encoder input: vocabulary ids, and vectors in place of some of them.
struct TokenChunk {
  std::vector<int64_t> ids;  // under a vector any valid id will do
  std::vector<TokenVector> vectors;
};

/// Which state of the encoder is wanted.
struct TextOptions {
  int layer = -1;  // -1 the last layer's output, -2 the one before; past the first: the last
  bool final_norm = true;  // the closing norm on that state; the pooled state always has it
  bool project = false;  // the pooled state times the text projection, where the file has one
};

/// What an encoder says about N chunks, fp32 on the CPU.
struct TextEncoding {
  at::Tensor hidden;  // [N, T, C]
  /// [N, C], or [N, P] if projected: the last layer at the first end token. Undefined for T5.
  at::Tensor pooled;
};

/// A text encoder bound to its weights. Const member functions are safe from any thread.
class TextEncoder {
 public:
  virtual ~TextEncoder() = default;
  /// Encodes each chunk by itself; all must be equally long, at most `positions()`. Throws
  /// `invalid_argument` for other lengths, an id outside the vocabulary, or a vector of the wrong
  /// width or place.
  virtual TextEncoding encode(std::span<const TokenChunk> chunks,
                              const TextOptions& options) const = 0;
  /// Width of a state (C), which a textual inversion must have.
  virtual int64_t width() const = 0;
  /// The longest chunk: 77 for CLIP, 4096 for T5, which knows no places but time grows with the
  /// square.
  virtual int64_t positions() const = 0;
};

/// CLIP-L of SD 1.x and SDXL, OpenCLIP-H of SD 2.x, OpenCLIP-G of SDXL. Their nets are alike but
/// for sizes and activation, so a checkpoint's place says which one it is; `fits` tells lone files
/// apart by their depth.
extern const PartDef<TextEncoder> clip_l_encoder;
extern const PartDef<TextEncoder> clip_h_encoder;
extern const PartDef<TextEncoder> clip_g_encoder;

/// T5 v1.1's encoder (T5-XXL of FLUX and SD 3): no pooled state, no attention mask, so padding is
/// seen. `TextOptions::project` says nothing to it.
extern const PartDef<TextEncoder> t5xxl_encoder;

/// All of them, the deepest of CLIP's first: the first that fits a lone file is the right one.
std::span<const PartDef<TextEncoder>* const> text_encoders();

}  // namespace atelier
