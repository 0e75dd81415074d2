// Fuzzes the reader of shard indices.
#include "checks.h"
#include "formats/shard_index.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto file = atelier::fuzz::view(data, size);
  atelier::is_shard_index(file);
  atelier::fuzz::attempt([&] {
    const atelier::FileContents contents = atelier::read_shard_index(file);
    ATELIER_FUZZ_REQUIRE(!contents.shards.empty() && contents.tensors.empty());
    for (const auto& [tensor, shard] : contents.shards)
      ATELIER_FUZZ_REQUIRE(shard.find('/') == shard.npos && shard != "..");
  });
  return 0;
}
