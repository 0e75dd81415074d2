// A trie as one flat hash of edges, and the best path through a word.
#include "text/unigram.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <utility>

#include "base/utf8.h"
#include "text/unigram_error.h"

namespace atelier {
namespace {

constexpr size_t kMaxPieceBytes = 256;
constexpr double kMaxScore = 1e6;
constexpr double kUnknownPenalty = 10;
constexpr double kUserDefinedBonus = 0.1;  // taken off, so that one long piece beats two

size_t slot_of(uint64_t key, size_t slots) {
  return static_cast<size_t>(key * 0x9E3779B97F4A7C15ull >> 32) & (slots - 1);
}

/// The best way to reach a byte of the word: the piece that ends there.
struct Step {
  double score = 0;
  int32_t id = -1;
  uint32_t size = 0;  // 0: not reached
};

void check_piece(const UnigramPiece& piece, int32_t id, std::string_view subject) {
  const std::string what = fmt::format("piece {}", id);
  if (piece.text.empty() || piece.text.size() > kMaxPieceBytes)
    refuse_vocabulary(subject, fmt::format("{} of 1 to {} bytes", what, kMaxPieceBytes),
                      fmt::format("{} bytes", piece.text.size()));
  if (valid_utf8(piece.text) != piece.text)
    refuse_vocabulary(subject, fmt::format("{} in UTF-8", what), "other bytes");
  if (!(std::abs(piece.score) <= kMaxScore))
    refuse_vocabulary(subject, fmt::format("{} with a score within {}", what, kMaxScore),
                      fmt::to_string(piece.score));
}

}  // namespace

const PieceTrie::Edge* PieceTrie::find(uint32_t node, unsigned char byte) const {
  if (edges_.empty()) return nullptr;
  const uint64_t key = uint64_t{node} << 8 | byte;
  for (size_t slot = slot_of(key, edges_.size());; slot = (slot + 1) & (edges_.size() - 1)) {
    if (edges_[slot].key == key) return &edges_[slot];
    if (edges_[slot].key == kNone) return nullptr;
  }
}

void PieceTrie::grow() {
  std::vector<Edge> old(std::max<size_t>(256, edges_.size() * 2));
  old.swap(edges_);
  for (const Edge& edge : old) {
    if (edge.key == kNone) continue;
    size_t slot = slot_of(edge.key, edges_.size());
    while (edges_[slot].key != kNone) slot = (slot + 1) & (edges_.size() - 1);
    edges_[slot] = edge;
  }
}

bool PieceTrie::insert(std::string_view text, int32_t id) {
  uint32_t node = 0;
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (const Edge* edge = find(node, byte)) {
      node = edge->to;
      continue;
    }
    if (2 * ++used_ > edges_.size()) grow();
    const uint64_t key = uint64_t{node} << 8 | byte;
    size_t slot = slot_of(key, edges_.size());
    while (edges_[slot].key != kNone) slot = (slot + 1) & (edges_.size() - 1);
    node = static_cast<uint32_t>(ids_.size());
    edges_[slot] = {key, node};
    ids_.push_back(-1);
  }
  if (ids_[node] >= 0) return false;
  ids_[node] = id;
  return true;
}

UnigramModel::UnigramModel(const std::vector<UnigramPiece>& pieces, std::string_view subject) {
  if (pieces.size() > kMaxPieces)
    refuse_vocabulary(subject, fmt::format("at most {} pieces", kMaxPieces),
                      fmt::to_string(pieces.size()));
  bytes_.fill(-1);
  double least = kMaxScore, most = -kMaxScore;
  for (const UnigramPiece& piece : pieces) {
    if (piece.kind != PieceKind::normal) continue;
    least = std::min(least, piece.score);
    most = std::max(most, piece.score);
  }
  for (const UnigramPiece& piece : pieces) {
    const auto id = static_cast<int32_t>(scores_.size());
    const bool user_defined = piece.kind == PieceKind::user_defined;
    check_piece(piece, id, subject);
    scores_.push_back(user_defined
                          ? static_cast<double>(piece.text.size()) * most - kUserDefinedBonus
                          : piece.score);
    if (piece.kind == PieceKind::byte) add_byte(piece, id, subject);
    if (piece.kind == PieceKind::unknown && std::exchange(unknown_, id) >= 0)
      refuse_vocabulary(subject, "one unknown piece", "several");
    const bool cuts = user_defined || piece.kind == PieceKind::normal;
    if (cuts && !trie_.insert(piece.text, id))
      refuse_vocabulary(subject, "every piece once", fmt::format("piece {} again", id));
  }
  if (unknown_ < 0) refuse_vocabulary(subject, "one unknown piece", "none");
  if (least > most) refuse_vocabulary(subject, "pieces of text", "none");
  if (byte_count_ != 0 && byte_count_ != 256)
    refuse_vocabulary(subject, "256 byte pieces or none", fmt::to_string(byte_count_));
  unknown_score_ = least - kUnknownPenalty;
}

// "<0x0A>"
void UnigramModel::add_byte(const UnigramPiece& piece, int32_t id, std::string_view subject) {
  const std::string& text = piece.text;
  unsigned value = 256;
  if (text.size() == 6 && text.starts_with("<0x") && text.back() == '>') {
    const auto [end, error] = std::from_chars(text.data() + 3, text.data() + 5, value, 16);
    if (error != std::errc() || end != text.data() + 5) value = 256;
  }
  if (value > 255 || bytes_[value] >= 0)
    refuse_vocabulary(subject, "each byte piece <0x00> to <0xFF> once",
                      fmt::format("piece {}", id));
  bytes_[value] = id;
  ++byte_count_;
}

void UnigramModel::append_unknown(std::string_view text, std::vector<int32_t>& ids) const {
  if (byte_count_ == 0) return ids.push_back(unknown_);
  for (const char c : text) ids.push_back(bytes_[static_cast<unsigned char>(c)]);
}

void UnigramModel::encode_word(std::string_view word, std::vector<int32_t>& ids) const {
  std::vector<Step> steps(word.size() + 1);
  const auto reach = [&](size_t from, size_t size, int32_t id, double score) {
    Step& step = steps[from + size];
    const double sum = steps[from].score + score;
    if (step.size == 0 || sum > step.score) step = {sum, id, static_cast<uint32_t>(size)};
  };
  for (size_t at = 0, next = 0; at < word.size(); at = next) {
    next_code_point(word, next);
    bool known = false;
    trie_.match(word.substr(at), [&](size_t size, int32_t id) {
      known |= at + size == next;
      reach(at, size, id, scores_[static_cast<size_t>(id)]);
    });
    if (!known) reach(at, next - at, unknown_, unknown_score_);
  }
  std::vector<size_t> ends;
  for (size_t end = word.size(); end > 0; end -= steps[end].size) ends.push_back(end);
  size_t begin = 0;
  for (size_t i = ends.size(); i-- > 0;) {
    size_t end = ends[i];
    if (steps[end].id != unknown_) {
      ids.push_back(steps[end].id);
    } else {
      while (i > 0 && steps[ends[i - 1]].id == unknown_) end = ends[--i];
      append_unknown(word.substr(begin, end - begin), ids);
    }
    begin = end;
  }
}

}  // namespace atelier
