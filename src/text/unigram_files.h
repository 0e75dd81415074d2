// SentencePiece vocabularies as files hold them: pieces with scores, and how text is cleaned.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace atelier {

/// What a piece is for; the numbers are those of spiece.model and of GGUF's token_type.
enum class PieceKind : uint8_t { normal = 1, unknown, control, user_defined, unused, byte };

/// More pieces than any vocabulary has.
inline constexpr size_t kMaxPieces = size_t{1} << 20;

/// One token of a vocabulary. Blanks are written U+2581 in `text`.
struct UnigramPiece {
  std::string text;
  double score = 0;  // log probability
  PieceKind kind = PieceKind::normal;
};

/// A unigram vocabulary; the index of a piece is its token id.
struct UnigramVocabulary {
  std::vector<UnigramPiece> pieces;
  /// SentencePiece's precompiled map of characters. If empty, `nmt_nfkc` counts.
  std::string charsmap;
  /// T5's cleaning: control characters vanish, blanks of all kinds are spaces, the rest is NFKC.
  bool nmt_nfkc = true;
};

/// Reads a spiece.model (sentencepiece's ModelProto). Throws `malformed`, or `unsupported` for a
/// vocabulary that is no unigram or treats blanks in another way than T5's.
/// Source: google/sentencepiece, src/sentencepiece_model.proto.
UnigramVocabulary read_spiece_model(std::span<const std::byte> file, std::string_view subject);

/// Reads a Hugging Face tokenizer.json with a Unigram model. Special added tokens become control
/// pieces. Throws as `read_spiece_model` does.
/// Source: huggingface/tokenizers, tokenizers/src/models/unigram/serialization.rs.
UnigramVocabulary read_unigram_json(std::string_view text, std::string_view subject);

/// Reads either file, told apart by its first character. Also throws `not_found`, `unreadable`.
UnigramVocabulary read_unigram(const std::filesystem::path& path);

}  // namespace atelier
