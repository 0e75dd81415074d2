// Strengths put to what was read.
#include "pipeline/loras.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/error.h"
#include "formats/model_folder.h"
#include "lora/blocks.h"
#include "pipeline/model_files.h"

namespace atelier {
namespace {

const WeightShapes& denoiser_weights(const LoraModel& model) {
  const auto found = std::ranges::find_if(model.parts, &LoraPart::denoiser);
  ATELIER_CHECK(found != model.parts.end());
  return *found->weights;
}

void add(std::vector<PatchTable>& tables, const Lora& lora, const LoraUse& use,
         const BlockStrengths& blocks, const LoraModel& model) {
  for (const Lora::Change& change : lora.changes) {
    const bool denoiser = model.parts[change.part].denoiser;
    const double part = denoiser ? use.strength : use.text_strength;
    PlacedPatch placed = change.placed;
    placed.strength = part * (denoiser ? blocks.of(change.weight) : blocks.base());
    if (placed.strength != 0) tables[change.part][change.weight].push_back(std::move(placed));
  }
}

/// Reads the file; one that is no LoRA is told for what it is.
std::shared_ptr<const Lora> read(const std::filesystem::path& file, const LoraModel& model) {
  try {
    return read_lora(file, model);
  } catch (const Error& error) {
    if (error.code() != ErrorCode::mismatch) throw;
    const auto source = open_source(file);
    if (const auto part = lone_part(source))
      throw Error(ErrorCode::mismatch, {.subject = file.string(),
                                        .expected = "a LoRA",
                                        .found = fmt::format("a file of another kind: {}", *part)});
    const auto other = accessory_in(*source);
    if (!other || other->is_lora) throw;
    throw Error(ErrorCode::mismatch, {.subject = file.string(),
                                      .expected = "a LoRA",
                                      .found = std::string(other->what),
                                      .hint = std::string(other->hint)});
  }
}

}  // namespace

LoraShelf::Result LoraShelf::use(std::span<const LoraUse> uses, const LoraModel& model) {
  Result result{std::vector<PatchTable>(model.parts.size()), {}};
  std::map<std::filesystem::path, std::shared_ptr<const Lora>> files;
  for (const LoraUse& use : uses) {
    BlockStrengths blocks;
    try {
      blocks = BlockStrengths(use.blocks, model.name, denoiser_weights(model));
    } catch (const Error& error) {
      throw error.within(use.file.string());
    }
    std::shared_ptr<const Lora>& lora = files[use.file];
    if (!lora) {
      const auto known = files_.find(use.file);
      lora = known != files_.end() ? known->second : read(use.file, model);
      if (known == files_.end())
        result.warnings.insert(result.warnings.end(), lora->warnings.begin(), lora->warnings.end());
    }
    add(result.tables, *lora, use, blocks, model);
  }
  files_ = std::move(files);
  return result;
}

Bytes LoraShelf::bytes() const {
  Bytes bytes;
  for (const auto& [file, lora] : files_) bytes += lora->bytes;
  return bytes;
}

}  // namespace atelier
