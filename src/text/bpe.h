// Byte-pair merges: the vocabulary file and the cutting of one word.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

namespace atelier {

/// CLIP's vocabulary as merges of token pairs; ids and file layout as tools/fetch_clip_vocab.py
/// describes them.
class ClipVocabulary {
 public:
  /// Throws `malformed`, naming `subject`.
  ClipVocabulary(std::span<const std::byte> file, std::string_view subject);
  int32_t start_of_text() const { return start_of_text_; }
  int32_t end_of_text() const { return start_of_text_ + 1; }
  /// Appends the tokens of one word, not empty: neighbours are merged, the earliest merge of the
  /// list first and the leftmost pair of equals, until no pair is in the list.
  void encode_word(std::string_view word, std::vector<int32_t>& ids) const;

 private:
  struct Entry {
    uint32_t pair = 0;  // left << 16 | right
    int32_t merged = -1;
  };
  void insert(uint32_t pair, int32_t merged, std::string_view subject);
  int32_t merged(int32_t left, int32_t right) const;

  std::vector<Entry> table_;  // open addressing, a power of two in size
  int32_t start_of_text_ = 0;
};

}  // namespace atelier
