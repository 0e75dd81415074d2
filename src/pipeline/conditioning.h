// From a prompt to what a denoiser is told: token states, and a vector of pooled state and sizes.
#pragma once

#include <ATen/core/Tensor.h>

#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "models/model.h"
#include "pipeline/embeddings.h"
#include "text/token_chunks.h"

namespace atelier {

/// What conditions a denoiser in one branch, fp32 on the CPU.
struct Conditioning {
  at::Tensor context;  // [1, T, D], T a multiple of 77, or for T5 any number from 256 on
  at::Tensor vector;  // [1, A] for models that take one; undefined otherwise
  std::optional<double> guidance = {};  // for models that are told a scale; unset: their own
};

/// A prompt as a model's text encoders see it.
struct EncodedPrompt {
  at::Tensor context;  // [1, T, D]
  /// [1, P], of the last encoder that has one, its first chunk, projected if that is OpenCLIP-G.
  at::Tensor pooled;
  std::vector<std::string> warnings;  // what of the prompt was left out and why
};

/// A text encoder, and what cuts its prompts into tokens.
struct PromptEncoder {
  const TextEncoder& encoder;
  const Tokenizer& tokenizer;
  std::string file = {};  // the encoder's, for errors
};

/// How the user wants prompts to be read.
struct PromptReader {
  EmbeddingFolder* embeddings = nullptr;  // null: `embedding:NAME` is plain text
  std::optional<int> layer = {};  // -1 the last, as ComfyUI's CLIPSetLastLayer; unset: the model's
};

/// How many tokens the context of `prompt` will have. Throws `invalid_argument` for a prompt that
/// is longer than an encoder takes, or than 64 chunks.
int64_t prompt_length(const ModelDef& def, std::span<const PromptEncoder> encoders,
                      std::string_view prompt, const PromptReader& reader = {});

/// Encodes `prompt` with `encoders`, which are those of `def.text` in order. A token of weight w
/// gets e + w (z - e), where e is what the empty prompt says at its position; the pooled state is
/// not weighted. Chunks are joined along the tokens, the states of encoders that give the context
/// along the channels, cut to the shorter.
EncodedPrompt encode_prompt(const ModelDef& def, std::span<const PromptEncoder> encoders,
                            std::string_view prompt, const PromptReader& reader = {});

/// Sizes a model was told in training, in pixels.
struct PictureMeasures {
  int64_t width = 1024, height = 1024;
  int64_t crop_x = 0, crop_y = 0;
  int64_t target_width = 1024, target_height = 1024;
  double score = 6;  // how pleasing, 1 to 10, for the refiner; 2.5 is usual for the negative
};

/// Adds the vector `def` wants: the pooled state, then each measure in 256 sinusoids.
Conditioning condition(const ModelDef& def, const EncodedPrompt& prompt,
                       const PictureMeasures& measures);

/// The states of tokenised text, weighted: hidden [1, T, C], pooled [1, C or P] of the first chunk.
/// `empty` is the empty prompt by the same rules.
TextEncoding encode_tokens(const TextEncoder& encoder, const TokenChunks& text,
                           const TokenChunks& empty, const TextOptions& options,
                           const EmbeddingFolder* embeddings = nullptr);

}  // namespace atelier
