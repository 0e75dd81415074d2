// Any bytes as a prompt: pieces, tokens and chunks must come out and keep their promises.
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "base/utf8.h"
#include "text/embedding_files.h"
#include "text/prompt.h"
#include "text/token_chunks.h"

namespace {

void require(bool promise) {
  if (!promise) std::abort();
}

/// Knows every name of an even length; the first byte decides size and width.
class AnyEmbedding : public atelier::EmbeddingSource {
 public:
  std::optional<atelier::Embedding> find(std::string_view name,
                                         const atelier::EncoderRules& rules) override {
    if (name.size() % 2 != 0) return {};
    const auto first = static_cast<unsigned char>(name[0]);
    return atelier::Embedding{first % 100, first % 3 ? rules.width : rules.width + 1, name.size()};
  }
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const atelier::ClipTokenizer tokenizer;
  const std::string_view prompt(reinterpret_cast<const char*>(data), size);
  size_t bytes = 0;
  for (const atelier::WeightedText& piece : atelier::parse_prompt(prompt)) {
    require(!piece.text.empty() && std::isfinite(piece.weight));
    require(atelier::valid_utf8(piece.text) == piece.text);
    bytes += piece.text.size();
  }
  require(bytes <= 3 * size);
  AnyEmbedding embeddings;
  for (const atelier::EncoderRules& rules : atelier::encoder_rules()) {
    const auto result = atelier::tokenize(prompt, tokenizer, rules, &embeddings);
    require(!result.chunks.empty());
    for (const auto& chunk : result.chunks) {
      const auto length = static_cast<int32_t>(chunk.size());
      require(length <= rules.max_length);
      require(rules.pad_to_max ? length == rules.max_length : length >= rules.min_length);
      require(!rules.start || chunk[0] == atelier::Token{*rules.start});
      for (const atelier::Token& token : chunk) {
        const auto* id = std::get_if<int32_t>(&token.value);
        require(!id || (*id >= 0 && *id <= 49407));
      }
    }
  }
  const std::filesystem::path folder = "/nonexistent";
  require(!atelier::find_embedding_file(std::span(&folder, 1), prompt));
  return 0;
}
