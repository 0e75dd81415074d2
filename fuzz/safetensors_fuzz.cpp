// Fuzzes the safetensors reader, the decoding of its tensors and of those that others scale.
#include "decoding.h"
#include "formats/safetensors.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto file = atelier::fuzz::view(data, size);
  atelier::is_safetensors(file);
  atelier::fuzz::attempt([&] {
    const atelier::FileContents contents = atelier::read_safetensors(file);
    atelier::fuzz::check_tensors(contents, file);
    atelier::fuzz::decode_tensors(contents, file);
    atelier::fuzz::decode_scaled(contents, file);
  });
  return 0;
}
