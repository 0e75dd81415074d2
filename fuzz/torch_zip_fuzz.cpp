// Fuzzes the torch reader: archive, pickle and tensors together.
#include "checks.h"
#include "formats/torch_zip.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto file = atelier::fuzz::view(data, size);
  atelier::fuzz::attempt(
      [&] { atelier::fuzz::check_tensors(atelier::read_torch_zip(file), file); });
  return 0;
}
