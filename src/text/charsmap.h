// SentencePiece's precompiled map from runs of characters to their clean form.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace atelier {

/// A double-array trie of byte strings and the texts they become.
///
/// Layout: the trie's size in bytes (4 bytes, little-endian), its units (4 bytes each), then the
/// texts, each closed by a zero byte; a leaf holds the place of its text among them.
/// Source: google/sentencepiece, src/normalizer.cc; s-yata/darts-clone, include/darts.h.
class Charsmap {
 public:
  /// Throws `malformed`, naming `subject`. A damaged trie inside a sound frame maps some characters
  /// wrongly but reads nothing outside itself.
  Charsmap(std::string_view bytes, std::string_view subject);
  /// `text` with the longest mapped run at each place replaced; valid UTF-8 in and out. Throws
  /// `invalid_argument` where the result would be longer than `most` bytes.
  std::string map(std::string_view text, size_t most) const;

 private:
  struct Match {
    size_t size = 0;  // 0: nothing is mapped here
    uint32_t place = 0;
  };
  Match longest(std::string_view text) const;

  std::vector<uint32_t> units_;
  std::string texts_;
};

}  // namespace atelier
