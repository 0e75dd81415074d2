// CLIP's tokenizer: special tokens, then words, then byte pairs.
#include "text/tokenizer.h"

#include <fmt/format.h>

#include <cstdlib>

#include "base/bytes.h"
#include "base/error.h"
#include "base/mapped_file.h"
#include "base/utf8.h"
#include "text/bpe.h"
#include "text/words.h"

namespace atelier {
namespace {

constexpr int64_t kMaxText = int64_t{64} << 20;

std::unique_ptr<const ClipVocabulary> load(const std::filesystem::path& path) {
  try {
    const MappedFile file = MappedFile::open(path);
    return std::make_unique<const ClipVocabulary>(file.bytes(), path.string());
  } catch (const Error& error) {
    if (error.code() != ErrorCode::not_found) throw;
    throw Error(ErrorCode::not_found,
                {.subject = path.string(),
                 .expected = "CLIP's vocabulary is missing",
                 .hint = "Run tools/setup.sh, or name the data folder in ATELIER_DATA"});
  }
}

/// The next special token at or after a position.
struct Special {
  size_t at, size;
  bool end_of_text;
};

Special find_special(std::string_view text, size_t from) {
  constexpr std::string_view kStart = "<|startoftext|>", kEnd = "<|endoftext|>";
  for (size_t at = text.find("<|", from); at != text.npos; at = text.find("<|", at + 1)) {
    if (text.substr(at).starts_with(kStart)) return {at, kStart.size(), false};
    if (text.substr(at).starts_with(kEnd)) return {at, kEnd.size(), true};
  }
  return {text.size(), 0, false};
}

}  // namespace

ClipTokenizer::ClipTokenizer(const std::filesystem::path& vocabulary)
    : vocabulary_(load(vocabulary)) {}

ClipTokenizer::~ClipTokenizer() = default;

std::filesystem::path ClipTokenizer::default_vocabulary() {
  const char* named = std::getenv("ATELIER_DATA");
  return std::filesystem::path(named && *named ? named : ATELIER_DATA_DIR) / "clip" / "merges.bin";
}

std::vector<int32_t> ClipTokenizer::encode(std::string_view text) const {
  if (text.size() > kMaxText)
    throw Error(ErrorCode::invalid_argument,
                {"prompt", fmt::format("at most {}", to_string(Bytes(kMaxText))),
                 to_string(Bytes(static_cast<int64_t>(text.size())))});
  const std::string valid = valid_utf8(text);
  const std::string_view all = valid;
  std::vector<int32_t> ids;
  for (size_t at = 0; at < all.size();) {
    const Special special = find_special(all, at);
    for_each_word(normalise(all.substr(at, special.at - at)),
                  [&](std::string_view word) { vocabulary_->encode_word(word, ids); });
    if (special.size > 0)
      ids.push_back(special.end_of_text ? vocabulary_->end_of_text()
                                        : vocabulary_->start_of_text());
    at = special.at + special.size;
  }
  return ids;
}

}  // namespace atelier
