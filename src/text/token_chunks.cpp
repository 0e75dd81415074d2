// Prompt to words, words to chunks.
#include "text/token_chunks.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <map>

#include "base/error.h"
#include "base/nearest.h"
#include "text/prompt.h"

namespace atelier {
namespace {

constexpr int32_t kClipStart = 49406, kClipEnd = 49407, kClipChunk = 77;

constexpr std::array kRules = {
    EncoderRules{.name = "clip_l",
                 .start = kClipStart,
                 .end = kClipEnd,
                 .pad = kClipEnd,
                 .max_length = kClipChunk,
                 .pad_to_max = true,
                 .width = 768},
    EncoderRules{.name = "clip_g",
                 .start = kClipStart,
                 .end = kClipEnd,
                 .pad = 0,
                 .max_length = kClipChunk,
                 .pad_to_max = true,
                 .width = 1280},
    EncoderRules{.name = "clip_h",
                 .start = kClipStart,
                 .end = kClipEnd,
                 .pad = 0,
                 .max_length = kClipChunk,
                 .pad_to_max = true,
                 .width = 1024},
    EncoderRules{.name = "t5xxl", .end = 1, .pad = 0, .min_length = 256, .width = 4096},
};

constexpr std::string_view kEmbeddingMark = "embedding:";
constexpr std::string_view kBlanks = " \t\n\r\f\v";
constexpr size_t kShownName = 64;
constexpr size_t kMaxWarnings = 20;

/// Cuts a piece of the prompt before each embedding; the blank before it belongs to neither part.
std::vector<std::string_view> split_at_embeddings(std::string_view text) {
  std::vector<std::string_view> parts;
  size_t begin = 0;
  for (size_t at = text.find(kEmbeddingMark, 1); at < text.size();
       at = text.find(kEmbeddingMark, at + 1)) {
    if (text[at - 1] != ' ' && text[at - 1] != '\n') continue;
    parts.push_back(text.substr(begin, at - 1 - begin));
    begin = at;
  }
  parts.push_back(text.substr(begin));
  return parts;
}

/// The blank-separated words of `text`, single-spaced.
std::string single_spaced(std::string_view text) {
  std::string joined;
  for (size_t at = text.find_first_not_of(kBlanks); at < text.size();) {
    const size_t end = std::min(text.find_first_of(kBlanks, at), text.size());
    if (!joined.empty()) joined += ' ';
    joined += text.substr(at, end - at);
    at = text.find_first_not_of(kBlanks, end);
  }
  return joined;
}

/// The words of a prompt: token lists that want to stay together.
class WordReader {
 public:
  WordReader(const Tokenizer& tokenizer, const EncoderRules& rules, EmbeddingSource* embeddings)
      : tokenizer_(tokenizer), rules_(rules), embeddings_(embeddings) {}

  void read(const WeightedText& piece) {
    if (!embeddings_) return add_text(piece.text, piece.weight);
    for (std::string_view part : split_at_embeddings(piece.text)) {
      if (part.starts_with(kEmbeddingMark)) {
        add_text(add_embedding(part.substr(kEmbeddingMark.size()), piece.weight), piece.weight);
      } else {
        add_text(part, piece.weight);
      }
    }
  }

  std::vector<std::vector<Token>> words;
  std::vector<std::string> warnings;

 private:
  void add_text(std::string_view text, double weight) {
    if (text.empty()) return;
    std::vector<Token>& word = words.emplace_back();
    for (int32_t id : tokenizer_.encode(text)) word.push_back({id, weight});
  }

  /// Adds the embedding named at the start of `text`; returns the text after the name.
  std::string add_embedding(std::string_view text, double weight) {
    const size_t begin = std::min(text.find_first_not_of(kBlanks), text.size());
    const size_t end = std::min(text.find_first_of(kBlanks, begin), text.size());
    std::string_view name = text.substr(begin, end - begin);
    std::string rest = single_spaced(text.substr(end));
    std::optional<Embedding> found = find(name);
    const size_t bare = name.find_last_not_of(',') + 1;
    if (!found && bare < name.size()) {
      rest = fmt::format("{} {}", name.substr(bare), rest);
      name = name.substr(0, bare);
      found = find(name);
    }
    if (!found) {
      warn(name, "not found");
    } else if (found->width != rules_.width) {
      warn(name,
           fmt::format("has vectors of {}, {} takes {}", found->width, rules_.name, rules_.width));
    } else {
      std::vector<Token>& word = words.emplace_back();
      for (int32_t row = 0; row < found->vectors; ++row)
        word.push_back({EmbeddingRow{found->handle, row}, weight});
    }
    return rest;
  }

  /// Asks the source once per name.
  std::optional<Embedding> find(std::string_view name) {
    if (name.empty()) return {};
    const auto known = known_.find(name);
    if (known != known_.end()) return known->second;
    std::optional<Embedding> found;
    try {
      found = embeddings_->find(name, rules_);
    } catch (const Error& error) {
      warn(name, error.what());
    }
    known_.emplace(name, found);
    return found;
  }

  /// One warning per name, for the first names.
  void warn(std::string_view name, std::string_view reason) {
    if (warnings.size() == kMaxWarnings || !warned_.emplace(std::string(name), true).second) return;
    const bool cut = name.size() > kShownName;
    warnings.push_back(fmt::format("embedding '{}{}' left out: {}", name.substr(0, kShownName),
                                   cut ? "..." : "", reason));
  }

  const Tokenizer& tokenizer_;
  const EncoderRules& rules_;
  EmbeddingSource* embeddings_;
  std::map<std::string, std::optional<Embedding>, std::less<>> known_;
  std::map<std::string, bool, std::less<>> warned_;
};

/// Fills chunks with words.
class ChunkWriter {
 public:
  explicit ChunkWriter(const EncoderRules& rules)
      : rules_(rules), room_(rules.max_length - (rules.end ? 1 : 0)) {
    ATELIER_CHECK(room_ - (rules.start ? 1 : 0) >= std::max(rules.long_word, 1));
    begin();
  }

  void add(std::span<const Token> word) {
    const bool may_cut = std::ssize(word) >= rules_.long_word;
    while (!word.empty()) {
      const int64_t left = room_ - std::ssize(chunks_.back());
      const bool fits = std::ssize(word) <= left;
      if (fits || may_cut) {
        const auto taken = static_cast<size_t>(fits ? std::ssize(word) : left);
        chunks_.back().insert(chunks_.back().end(), word.begin(),
                              word.begin() + static_cast<std::ptrdiff_t>(taken));
        word = word.subspan(taken);
      }
      if (!fits) {
        finish();
        begin();
      }
    }
  }

  std::vector<std::vector<Token>> take() {
    finish();
    return std::move(chunks_);
  }

 private:
  void begin() {
    chunks_.emplace_back();
    if (rules_.start) chunks_.back().push_back({*rules_.start});
  }

  void finish() {
    std::vector<Token>& chunk = chunks_.back();
    if (rules_.end) chunk.push_back({*rules_.end});
    const int32_t length = rules_.pad_to_max ? rules_.max_length : rules_.min_length;
    if (std::ssize(chunk) < length) chunk.resize(static_cast<size_t>(length), {rules_.pad});
  }

  const EncoderRules& rules_;
  int64_t room_;  // of a chunk without its end
  std::vector<std::vector<Token>> chunks_;
};

}  // namespace

std::span<const EncoderRules> encoder_rules() { return kRules; }

const EncoderRules& encoder_rules(std::string_view name) {
  std::vector<std::string_view> names;
  for (const EncoderRules& rules : kRules) {
    if (rules.name == name) return rules;
    names.push_back(rules.name);
  }
  const std::string_view near = nearest(name, names);
  throw Error(ErrorCode::invalid_argument,
              {.subject = "text encoder",
               .expected = fmt::format("one of {}", fmt::join(names, ", ")),
               .found = fmt::format("'{}'", name),
               .hint = near.empty() ? "" : fmt::format("Did you mean {}?", near)});
}

bool TokenChunks::weighted() const {
  const auto differs = [](const Token& token) { return token.weight != 1; };
  return std::ranges::any_of(
      chunks, [&](const std::vector<Token>& chunk) { return std::ranges::any_of(chunk, differs); });
}

TokenChunks tokenize(std::string_view prompt, const Tokenizer& tokenizer, const EncoderRules& rules,
                     EmbeddingSource* embeddings) {
  WordReader reader(tokenizer, rules, embeddings);
  if (rules.weights) {
    for (const WeightedText& piece : parse_prompt(prompt)) reader.read(piece);
  } else {
    reader.read({std::string(prompt)});
  }
  ChunkWriter writer(rules);
  for (const std::vector<Token>& word : reader.words) writer.add(word);
  return {writer.take(), std::move(reader.warnings)};
}

}  // namespace atelier
