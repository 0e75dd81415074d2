// Fuzzes the readers of SentencePiece vocabularies, and tokenizes with what they let through.
#include "checks.h"
#include "text/t5_tokenizer.h"

namespace {

void tokenize(const atelier::UnigramVocabulary& vocabulary) {
  constexpr std::string_view kText =
      "a cat</s> \u2581the \xFF\u0301 e\u0301 1\u00bd \u6f22\u5b57 (c)";
  ATELIER_FUZZ_REQUIRE(!vocabulary.pieces.empty());
  const atelier::T5Tokenizer tokenizer(vocabulary, "vocabulary");
  for (const int32_t id : tokenizer.encode(kText))
    ATELIER_FUZZ_REQUIRE(id >= 0 && static_cast<size_t>(id) < vocabulary.pieces.size());
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto file = atelier::fuzz::view(data, size);
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  atelier::fuzz::attempt([&] { tokenize(atelier::read_spiece_model(file, "file")); });
  atelier::fuzz::attempt([&] { tokenize(atelier::read_unigram_json(text, "file")); });
  return 0;
}
