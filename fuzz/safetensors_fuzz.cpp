// Fuzzes the safetensors reader.
#include "checks.h"
#include "formats/safetensors.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto file = atelier::fuzz::view(data, size);
  atelier::is_safetensors(file);
  atelier::fuzz::attempt(
      [&] { atelier::fuzz::check_tensors(atelier::read_safetensors(file), file); });
  return 0;
}
