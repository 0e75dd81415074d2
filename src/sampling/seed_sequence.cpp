// NumPy's SeedSequence with the pool of 24 words that Brownian trees use.
#include "sampling/seed_sequence.h"

#include <array>
#include <vector>

namespace atelier {
namespace {

constexpr size_t kPool = 24;

/// A hash whose multiplier changes with every use.
struct Hash {
  uint32_t constant;
  uint32_t multiplier;
  uint32_t operator()(uint32_t value) {
    value ^= constant;
    constant *= multiplier;
    value *= constant;
    return value ^ (value >> 16);
  }
};

uint32_t mix(uint32_t x, uint32_t y) {
  const uint32_t value = 0xca01f9ddu * x - 0x4973f715u * y;
  return value ^ (value >> 16);
}

void append_words(std::vector<uint32_t>& words, uint64_t number) {
  words.push_back(static_cast<uint32_t>(number));
  if (number >> 32) words.push_back(static_cast<uint32_t>(number >> 32));
}

}  // namespace

uint32_t seed_sequence_word(uint64_t entropy, std::span<const uint64_t> spawn_key) {
  std::vector<uint32_t> words;
  append_words(words, entropy);
  words.resize(kPool);
  for (const uint64_t key : spawn_key) append_words(words, key);

  Hash hash{0x43b0d7e5u, 0x931e8875u};
  std::array<uint32_t, kPool> pool;
  for (size_t i = 0; i < kPool; ++i) pool[i] = hash(words[i]);
  for (size_t from = 0; from < kPool; ++from)
    for (size_t to = 0; to < kPool; ++to)
      if (from != to) pool[to] = mix(pool[to], hash(pool[from]));
  for (size_t i = kPool; i < words.size(); ++i)
    for (uint32_t& word : pool) word = mix(word, hash(words[i]));

  return Hash{0x8b51f9ddu, 0x58f38dedu}(pool[0]);
}

}  // namespace atelier
