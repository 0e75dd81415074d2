// Fuzzes the pickle machine alone: inputs are opcodes without an archive round them.
#include "checks.h"
#include "formats/pickle.h"
#include "formats/torch_tensor.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto bytes = atelier::fuzz::view(data, size);
  atelier::fuzz::attempt([&] {
    const atelier::PickleTree tree = atelier::read_pickle(bytes);
    ATELIER_FUZZ_REQUIRE(tree.root < tree.values.size());
    for (const atelier::PickleValue& value : tree.values) {
      for (const atelier::PickleId item : value.items)
        ATELIER_FUZZ_REQUIRE(item < tree.values.size());
      ATELIER_FUZZ_REQUIRE(value.kind != atelier::PickleKind::dict || value.items.size() % 2 == 0);
      ATELIER_FUZZ_REQUIRE(value.kind != atelier::PickleKind::call || value.global != nullptr);
      if (value.kind != atelier::PickleKind::call) continue;
      atelier::fuzz::attempt([&] {
        const atelier::TorchTensor tensor = atelier::torch_tensor(tree, value, "tensor");
        atelier::encoded_size(tensor.shape, tensor.encoding, "tensor");
        tensor.extent(), tensor.contiguous();
      });
    }
  });
  return 0;
}
