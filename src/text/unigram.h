// Cutting a word into the most likely pieces of a vocabulary.
#pragma once

#include <array>
#include <cstdint>
#include <string_view>
#include <vector>

#include "text/unigram_files.h"

namespace atelier {

/// Byte strings and their numbers, for looking up all that begin at a place.
class PieceTrie {
 public:
  /// Returns false if `text` was there already. `text` is not empty.
  bool insert(std::string_view text, int32_t id);
  /// Calls `visit(size, id)` for each string that `text` begins with, the shortest first.
  template <class Visit>
  void match(std::string_view text, Visit&& visit) const {
    uint32_t node = 0;
    for (size_t i = 0; i < text.size(); ++i) {
      const Edge* edge = find(node, static_cast<unsigned char>(text[i]));
      if (!edge) return;
      node = edge->to;
      if (ids_[node] >= 0) visit(i + 1, ids_[node]);
    }
  }

 private:
  struct Edge {
    uint64_t key = kNone;  // node << 8 | byte
    uint32_t to = 0;
  };
  static constexpr uint64_t kNone = ~uint64_t{0};
  const Edge* find(uint32_t node, unsigned char byte) const;
  void grow();

  std::vector<Edge> edges_;  // open addressing, a power of two in size
  size_t used_ = 0;
  std::vector<int32_t> ids_{-1};  // by node; -1: no string ends here
};

/// The pieces that text is cut into, with T5's rules for what has none.
class UnigramModel {
 public:
  /// Throws `malformed`, naming `subject`, for pieces that are empty, too long, no UTF-8 or double,
  /// for scores that are no log probabilities, for none or several unknown pieces, for some but not
  /// all of the 256 byte pieces.
  UnigramModel(const std::vector<UnigramPiece>& pieces, std::string_view subject);
  /// Appends the ids of the cut with the highest sum of scores; of equal ones, that whose last
  /// piece is longest, and so on backwards. A character in no piece counts 10 less than the least
  /// likely piece and becomes its byte pieces, or the unknown piece, once for a run of them.
  /// `word` is valid UTF-8, not empty. Time: its length times that of the longest piece.
  void encode_word(std::string_view word, std::vector<int32_t>& ids) const;

 private:
  void add_byte(const UnigramPiece& piece, int32_t id, std::string_view subject);
  void append_unknown(std::string_view text, std::vector<int32_t>& ids) const;

  PieceTrie trie_;
  std::vector<double> scores_;
  int32_t unknown_ = -1;
  double unknown_score_ = 0;
  std::array<int32_t, 256> bytes_;
  int byte_count_ = 0;
};

}  // namespace atelier
