// Fuzzes the GGUF reader, every question that can be asked of the values it found, and the decoding
// of its tensors.
#include "decoding.h"
#include "formats/gguf.h"

namespace {

void ask(const atelier::GgufValue& value) {
  const auto element = value.element_type();
  const bool texts = element == atelier::GgufType::text;
  ATELIER_FUZZ_REQUIRE(value.texts().size() == (texts ? value.count() : 0));
  ATELIER_FUZZ_REQUIRE(value.integers().size() <= value.count());
  ATELIER_FUZZ_REQUIRE(value.numbers().size() <= value.count());
  value.integer(), value.number(), value.boolean(), value.text(), value.describe();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto file = atelier::fuzz::view(data, size);
  atelier::is_gguf(file);
  atelier::fuzz::attempt([&] {
    const atelier::FileContents contents = atelier::read_gguf(file);
    atelier::fuzz::check_tensors(contents, file);
    atelier::fuzz::decode_tensors(contents, file);
    for (const auto& [key, value] : contents.gguf) ask(value);
  });
  return 0;
}
