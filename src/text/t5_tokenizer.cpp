// Names of tokens, then cleaning, then words.
#include "text/t5_tokenizer.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/bytes.h"
#include "base/error.h"
#include "base/utf8.h"
#include "text/charsmap.h"
#include "text/compose.h"
#include "text/unigram.h"

namespace atelier {
namespace {

constexpr size_t kMaxText = size_t{64} << 20;
constexpr size_t kMaxClean = size_t{256} << 20;
constexpr size_t kMaxWord = size_t{1} << 20;
constexpr std::string_view kBlank = "\u2581";
constexpr char32_t kFullwidthTilde = 0xFF5E;

/// What sentencepiece's nmt_nfkc makes of a character before NFKC: nothing, a space, or itself.
enum class NmtClass { dropped, space, kept };

NmtClass nmt_class(char32_t c) {
  constexpr char32_t kSpaces[] = {0x09,   0x0A,   0x0C,   0x0D,   0x61C,  0x1680, 0x200B, 0x200C,
                                  0x200E, 0x200F, 0x2028, 0x2029, 0x2581, 0xFEFF, 0xFFFD};
  if (c >= 0x20 && c < 0x7F) return NmtClass::kept;
  if (std::ranges::find(kSpaces, c) != std::end(kSpaces)) return NmtClass::space;
  const bool control = c < 0x20 || c == 0x7F || c == 0x8F || c == 0x9F;
  return control && c != 0 ? NmtClass::dropped : NmtClass::kept;
}

/// Source: google/sentencepiece, src/builder.cc, whose NFKC leaves the full-width tilde alone.
std::string nmt_nfkc(std::string_view text) {
  std::string result, run;
  for (size_t at = 0; at < text.size();) {
    const char32_t c = next_code_point(text, at);
    if (c == kFullwidthTilde) {
      result += compose(run, Composition::nfkc);
      append_utf8(result, c);
      run.clear();
      continue;
    }
    const NmtClass kind = nmt_class(c);
    if (kind == NmtClass::kept) append_utf8(run, c);
    if (kind == NmtClass::space) run += ' ';
  }
  return result + compose(run, Composition::nfkc);
}

[[noreturn]] void refuse_length(std::string_view what, size_t most, size_t found) {
  throw Error(ErrorCode::invalid_argument,
              {std::string(what), fmt::format("at most {}", to_string(Bytes(int64_t(most)))),
               to_string(Bytes(int64_t(found)))});
}

/// Where the next word ends: at a blank, or at the last character that a word may have.
size_t word_end(std::string_view text) {
  size_t end = 0;
  while (end < text.size() && text[end] != ' ' && !text.substr(end).starts_with(kBlank)) {
    size_t next = end;
    next_code_point(text, next);
    if (next > kMaxWord) break;
    end = next;
  }
  return end;
}

std::unique_ptr<const PieceTrie> names_of(const UnigramVocabulary& vocabulary) {
  auto names = std::make_unique<PieceTrie>();
  for (size_t id = 0; id < vocabulary.pieces.size(); ++id) {
    const UnigramPiece& piece = vocabulary.pieces[id];
    if (piece.kind == PieceKind::control || piece.kind == PieceKind::unknown)
      names->insert(piece.text, static_cast<int32_t>(id));
  }
  return names;
}

}  // namespace

T5Tokenizer::T5Tokenizer(const UnigramVocabulary& vocabulary, std::string_view subject)
    : model_(std::make_unique<const UnigramModel>(vocabulary.pieces, subject)),
      names_(names_of(vocabulary)),
      charsmap_(vocabulary.charsmap.empty()
                    ? nullptr
                    : std::make_unique<const Charsmap>(vocabulary.charsmap, subject)),
      nfkc_(vocabulary.nmt_nfkc) {}

T5Tokenizer::~T5Tokenizer() = default;

std::string T5Tokenizer::clean(std::string_view text) const {
  std::string cleaned = charsmap_ ? charsmap_->map(text, kMaxClean)
                        : nfkc_   ? nmt_nfkc(text)
                                  : std::string(text);
  if (cleaned.size() > kMaxClean) refuse_length("cleaned prompt", kMaxClean, cleaned.size());
  return cleaned;
}

void T5Tokenizer::encode_plain(std::string_view text, std::vector<int32_t>& ids) const {
  const std::string cleaned = clean(text);
  std::string_view rest = cleaned;
  std::string word(kBlank);
  while (!rest.empty()) {
    const size_t end = word_end(rest);
    if (end == 0) {
      rest.remove_prefix(rest.front() == ' ' ? 1 : kBlank.size());
      word = kBlank;
      continue;
    }
    word += rest.substr(0, end);
    model_->encode_word(word, ids);
    word.clear();  // for what was cut off a long word
    rest.remove_prefix(end);
  }
}

std::vector<int32_t> T5Tokenizer::encode(std::string_view text) const {
  if (text.size() > kMaxText) refuse_length("prompt", kMaxText, text.size());
  const std::string valid = valid_utf8(text);
  const std::string_view all = valid;
  std::vector<int32_t> ids;
  size_t begin = 0;
  for (size_t at = 0; at < all.size();) {
    size_t size = 0;
    int32_t name = -1;
    names_->match(all.substr(at), [&](size_t matched, int32_t id) { size = matched, name = id; });
    if (size == 0) {
      ++at;
      continue;
    }
    encode_plain(all.substr(begin, at - begin), ids);
    ids.push_back(name);
    begin = at += size;
  }
  encode_plain(all.substr(begin), ids);
  return ids;
}

}  // namespace atelier
