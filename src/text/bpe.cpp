// The merge table as one flat hash, and merging with a queue of candidate pairs.
#include "text/bpe.h"

#include <fmt/format.h>

#include <array>
#include <bit>
#include <queue>

#include "base/error.h"

namespace atelier {
namespace {

constexpr std::string_view kMagic = "ATELIERCLIP1";
constexpr int32_t kFirstMerge = 512;  // after the bytes, inside and at the end of a word
constexpr int32_t kWordEnd = 256;  // what the last byte of a word adds to its id
constexpr uint32_t kMaxMerges = 65536 - kFirstMerge - 2;

/// Ids of single bytes: CLIP counts the printable characters of Latin-1 first.
constexpr std::array<int32_t, 256> make_byte_ids() {
  std::array<int32_t, 256> ids{};
  const auto printable = [](int b) {
    return (b >= 0x21 && b <= 0x7E) || (b >= 0xA1 && b <= 0xAC) || b >= 0xAE;
  };
  int32_t next = 0;
  for (int b = 0; b < 256; ++b)
    if (printable(b)) ids[static_cast<size_t>(b)] = next++;
  for (int b = 0; b < 256; ++b)
    if (!printable(b)) ids[static_cast<size_t>(b)] = next++;
  return ids;
}
constexpr std::array<int32_t, 256> kByteIds = make_byte_ids();

uint32_t read_number(std::span<const std::byte> bytes, size_t at, size_t size) {
  uint32_t value = 0;
  for (size_t i = size; i-- > 0;) value = value << 8 | static_cast<uint32_t>(bytes[at + i]);
  return value;
}

size_t slot_of(uint32_t pair, size_t slots) {
  return (pair * 0x9E3779B97F4A7C15ull) >> (64 - std::countr_zero(slots));
}

/// A piece of the word in a doubly linked list.
struct Piece {
  int32_t id;
  int32_t previous, next;  // -1: none
};

/// A pair that could be merged. Ids grow along the list of merges, so the smallest goes first.
struct Candidate {
  int32_t merged, left;
  bool operator>(const Candidate& other) const {
    return merged != other.merged ? merged > other.merged : left > other.left;
  }
};

}  // namespace

ClipVocabulary::ClipVocabulary(std::span<const std::byte> file, std::string_view subject) {
  const auto fail = [&](std::string expected, std::string found) {
    throw Error(ErrorCode::malformed, {std::string(subject), std::move(expected), std::move(found),
                                       "Delete it and run tools/fetch_clip_vocab.py"});
  };
  const size_t header = kMagic.size() + 4;
  const bool magic =
      file.size() >= header &&
      std::string_view(reinterpret_cast<const char*>(file.data()), kMagic.size()) == kMagic;
  if (!magic) fail("a CLIP vocabulary", "something else");
  const uint32_t count = read_number(file, kMagic.size(), 4);
  if (count > kMaxMerges) fail(fmt::format("at most {} merges", kMaxMerges), fmt::to_string(count));
  if (file.size() != header + 4 * size_t{count})
    fail(fmt::format("{} bytes for {} merges", header + 4 * size_t{count}, count),
         fmt::format("{} bytes", file.size()));
  table_.resize(std::bit_ceil(size_t{count} * 2 + 2));
  for (uint32_t i = 0; i < count; ++i) {
    const uint32_t left = read_number(file, header + 4 * size_t{i}, 2);
    const uint32_t right = read_number(file, header + 4 * size_t{i} + 2, 2);
    const uint32_t made = kFirstMerge + i;
    if (left >= made || right >= made)
      fail(fmt::format("merge {} to use tokens below {}", i, made),
           fmt::format("{} and {}", left, right));
    insert(left << 16 | right, static_cast<int32_t>(made), subject);
  }
  start_of_text_ = kFirstMerge + static_cast<int32_t>(count);
}

void ClipVocabulary::insert(uint32_t pair, int32_t merged, std::string_view subject) {
  size_t slot = slot_of(pair, table_.size());
  while (table_[slot].merged >= 0) {
    if (table_[slot].pair == pair)
      throw Error(ErrorCode::malformed,
                  {std::string(subject), "every pair to be merged once",
                   fmt::format("tokens {} and {} merged twice", pair >> 16, pair & 0xFFFF)});
    slot = (slot + 1) & (table_.size() - 1);
  }
  table_[slot] = {pair, merged};
}

int32_t ClipVocabulary::merged(int32_t left, int32_t right) const {
  const uint32_t pair = static_cast<uint32_t>(left) << 16 | static_cast<uint32_t>(right);
  size_t slot = slot_of(pair, table_.size());
  while (table_[slot].merged >= 0 && table_[slot].pair != pair)
    slot = (slot + 1) & (table_.size() - 1);
  return table_[slot].merged;
}

void ClipVocabulary::encode_word(std::string_view word, std::vector<int32_t>& ids) const {
  const auto size = static_cast<int32_t>(word.size());
  std::vector<Piece> pieces(word.size());
  for (int32_t i = 0; i < size; ++i) {
    const auto at = static_cast<size_t>(i);
    const int32_t id = kByteIds[static_cast<unsigned char>(word[at])];
    const bool last = i + 1 == size;
    pieces[at] = {last ? id + kWordEnd : id, i - 1, last ? -1 : i + 1};
  }
  const auto piece = [&](int32_t i) -> Piece& { return pieces[static_cast<size_t>(i)]; };
  std::vector<Candidate> storage;
  storage.reserve(word.size());
  std::priority_queue queue(std::greater<Candidate>(), std::move(storage));
  const auto consider = [&](int32_t left) {
    if (left < 0 || piece(left).next < 0) return;
    const int32_t id = merged(piece(left).id, piece(piece(left).next).id);
    if (id >= 0) queue.push({id, left});
  };
  for (int32_t i = 0; i + 1 < size; ++i) consider(i);
  while (!queue.empty()) {
    const Candidate best = queue.top();
    queue.pop();
    Piece& left = piece(best.left);
    if (left.id < 0 || left.next < 0) continue;
    Piece& right = piece(left.next);
    if (merged(left.id, right.id) != best.merged) continue;
    left.id = best.merged;
    right.id = -1;
    left.next = right.next;
    if (left.next >= 0) piece(left.next).previous = best.left;
    consider(left.previous);
    consider(best.left);
  }
  for (int32_t i = 0; i >= 0; i = piece(i).next) ids.push_back(piece(i).id);
}

}  // namespace atelier
