// T5's tokenizer: cleaned text, cut at blanks, each word into the likeliest pieces.
#pragma once

#include <memory>
#include <string_view>
#include <vector>

#include "text/tokenizer.h"
#include "text/unigram_files.h"

namespace atelier {

class UnigramModel;
class PieceTrie;
class Charsmap;

/// A SentencePiece unigram tokenizer as T5 uses it: text is cleaned by the vocabulary's own map of
/// characters or by NFKC, blanks are collapsed, and every word begins with U+2581. Names of control
/// pieces ("</s>") and of the unknown piece in the text become their tokens, as transformers does.
/// Words above 1 MiB are cut there, which bounds memory; time is linear in the text.
/// Source: Kudo 2018, arXiv:1804.10959; google/sentencepiece, whose results these are for the text
/// between such names; of equally likely cuts the one transformers takes.
class T5Tokenizer : public Tokenizer {
 public:
  /// Throws `malformed`, naming `subject`, for a vocabulary that contradicts itself.
  T5Tokenizer(const UnigramVocabulary& vocabulary, std::string_view subject);
  ~T5Tokenizer() override;
  /// Also throws `invalid_argument` where the cleaned text is above 256 MiB.
  std::vector<int32_t> encode(std::string_view text) const override;

 private:
  std::string clean(std::string_view text) const;
  void encode_plain(std::string_view text, std::vector<int32_t>& ids) const;

  std::unique_ptr<const UnigramModel> model_;
  std::unique_ptr<const PieceTrie> names_;
  std::unique_ptr<const Charsmap> charsmap_;  // null: `nfkc_` counts
  bool nfkc_;
};

}  // namespace atelier
