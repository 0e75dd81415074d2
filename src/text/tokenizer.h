// From text to the numbers a text encoder takes.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string_view>
#include <vector>

namespace atelier {

/// Turns text into token ids, without start, end or padding. Const member functions are safe from
/// any thread.
class Tokenizer {
 public:
  virtual ~Tokenizer() = default;
  /// Takes any bytes: invalid UTF-8 reads as U+FFFD. Throws `invalid_argument` above 64 MiB.
  virtual std::vector<int32_t> encode(std::string_view text) const = 0;
};

class ClipVocabulary;

/// CLIP's byte-pair tokenizer: text is NFC-normalised and lower-cased, cut into words, and each
/// word into pieces of the vocabulary. `<|startoftext|>` and `<|endoftext|>` in the text become
/// their tokens. Time is linear in the text but for a logarithm of its longest word.
/// Source: openai/CLIP, clip/simple_tokenizer.py; the results are those of transformers'
/// CLIPTokenizer.
class ClipTokenizer : public Tokenizer {
 public:
  /// Reads the vocabulary that tools/fetch_clip_vocab.py wrote. Throws `not_found`, `unreadable`
  /// or `malformed`.
  explicit ClipTokenizer(const std::filesystem::path& vocabulary = default_vocabulary());
  ~ClipTokenizer() override;
  std::vector<int32_t> encode(std::string_view text) const override;

  /// clip/merges.bin in the folder named by the environment's ATELIER_DATA, else in the data
  /// folder of the source tree this was built from.
  static std::filesystem::path default_vocabulary();

 private:
  std::unique_ptr<const ClipVocabulary> vocabulary_;
};

}  // namespace atelier
