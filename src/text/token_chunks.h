// A prompt as the chunks of tokens one text encoder takes, and the rules of each encoder.
#pragma once

#include <cstdint>
#include <limits>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "text/tokenizer.h"

namespace atelier {

/// How the prompt of one kind of text encoder is laid out; a row of `encoder_rules()`.
struct EncoderRules {
  std::string_view name = {};  // also names the encoder's part of an embedding file
  std::optional<int32_t> start = {}, end = {};  // tokens round the text of each chunk
  int32_t pad = 0;
  int32_t max_length = std::numeric_limits<int32_t>::max();  // of a chunk, in tokens
  int32_t min_length = 0;
  bool pad_to_max = false;
  int32_t long_word = 8;  // words of at least so many tokens may be cut by a chunk's end
  int32_t width = 0;  // of the encoder's token vectors; embeddings must have it
  bool weights = true;  // whether parentheses weigh
};

/// All rows: clip_l (SD 1.x, SDXL), clip_g (SDXL), clip_h (SD 2.x), t5xxl (FLUX: one chunk of any
/// length, filled up to 256).
std::span<const EncoderRules> encoder_rules();
/// The row with this name. Throws `invalid_argument`.
const EncoderRules& encoder_rules(std::string_view name);

/// What an embedding file holds for one encoder.
struct Embedding {
  int32_t vectors = 0;
  int32_t width = 0;
  uint64_t handle = 0;  // the source's own name for it
};

/// Where textual-inversion embeddings come from.
class EmbeddingSource {
 public:
  virtual ~EmbeddingSource() = default;
  /// The vectors called `name` for the encoder of `rules`, or nothing. `name` is whatever the
  /// prompt says, so a source that opens files must not let it leave its folders. Errors of
  /// reading become warnings.
  virtual std::optional<Embedding> find(std::string_view name, const EncoderRules& rules) = 0;
};

/// One vector of an embedding in the place of a token.
struct EmbeddingRow {
  uint64_t handle = 0;
  int32_t row = 0;
  bool operator==(const EmbeddingRow&) const = default;
};

struct Token {
  std::variant<int32_t, EmbeddingRow> value;
  double weight = 1;
  bool operator==(const Token&) const = default;
};

/// A tokenised prompt: at least one chunk, each encoded alone.
struct TokenChunks {
  std::vector<std::vector<Token>> chunks;
  std::vector<std::string> warnings;  // one line each: what of the prompt was left out and why
  /// Whether any weight differs from 1.
  bool weighted() const;
};

/// Lays a prompt out for one encoder as ComfyUI does.
///
/// Each piece of equal weight is tokenised alone and is one word: if it is shorter than
/// `long_word` tokens it moves to the next chunk whole. Start, end and padding have weight 1.
/// `embedding:NAME`, at the start of a piece or after a space or line break, stands for the
/// source's vectors; commas after NAME are text unless they belong to it. A missing embedding, or
/// one of another width, leaves a warning and nothing else. Without a source it is plain text.
/// Throws `invalid_argument` for prompts above 64 MiB.
TokenChunks tokenize(std::string_view prompt, const Tokenizer& tokenizer, const EncoderRules& rules,
                     EmbeddingSource* embeddings = nullptr);

}  // namespace atelier
