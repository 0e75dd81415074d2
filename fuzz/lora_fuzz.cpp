// Fuzzes LoRA files: which tensors belong together, the shapes they must have, and every kind's
// change of a weight.
#include <ATen/ATen.h>

#include "decoding.h"
#include "formats/safetensors.h"
#include "lora/lora.h"

namespace {

using namespace atelier;

/// One weight for each shape that the seeds change.
const WeightShapes kWeights{
    {"12x8.weight", {12, 8}},           {"16x8.weight", {16, 8}},
    {"24x20.weight", {24, 20}},         {"36x36.weight", {36, 36}},
    {"8x6x3x3.weight", {8, 6, 3, 3}},   {"12x12x3x3.weight", {12, 12, 3, 3}},
    {"16x4x3x3.weight", {16, 4, 3, 3}}, {"8x4x3x3.weight", {8, 4, 3, 3}},
    {"6x4x2x2.weight", {6, 4, 2, 2}},   {"8x4x2x2.weight", {8, 4, 2, 2}},
    {"4x4x2x2.weight", {4, 4, 2, 2}},   {"12x8.bias", {12}}};
constexpr KeyLayout kLayouts[] = {{.name = "own", .signature = "12x8.weight"}};

void check_product(const WeightPatch& patch, const at::Tensor& rows) {
  const auto factors = patch.low_rank();
  if (!factors) return;
  ATELIER_FUZZ_REQUIRE(factors->up.dim() == 2 && factors->down.dim() == 2);
  ATELIER_FUZZ_REQUIRE(factors->up.size(0) == rows.size(0));
  ATELIER_FUZZ_REQUIRE(factors->up.size(1) == factors->down.size(0));
  ATELIER_FUZZ_REQUIRE(factors->down.size(1) == rows.numel() / rows.size(0));
}

void apply_all(const Lora& lora) {
  for (const Lora::Change& change : lora.changes) {
    const auto found = kWeights.find(change.weight);
    ATELIER_FUZZ_REQUIRE(change.part == 0 && found != kWeights.end());
    at::Tensor weight = at::ones(found->second);
    const PlacedPatch& placed = change.placed;
    ATELIER_FUZZ_REQUIRE(placed.first_row >= 0 && placed.rows > 0 &&
                         placed.first_row + placed.rows <= weight.size(0));
    at::Tensor rows = weight.narrow(0, placed.first_row, placed.rows);
    placed.patch->apply(rows, 0.5);
    ATELIER_FUZZ_REQUIRE(weight.sizes() == at::IntArrayRef(found->second));
    check_product(*placed.patch, rows);
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  fuzz::attempt([&] {
    const auto bytes = fuzz::view(data, size);
    const FileContents contents = read_safetensors(bytes);
    const fuzz::FoundSource file(contents, bytes);
    const LoraModel model{"toy", "a toy", {{"toy", true, kLayouts, &kWeights}}};
    try {
      apply_all(*read_lora(file, model));
    } catch (const Error& error) {  // a file that is none, or for another model
      if (error.code() != ErrorCode::mismatch) throw;
      ATELIER_FUZZ_REQUIRE(!error.facts().subject.empty() && !error.facts().expected.empty());
    }
  });
  return 0;
}
