// Telltales: what trainers note, the width of prompts, and names only one architecture has.
#include "lora/origin.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <optional>
#include <vector>

namespace atelier {
namespace {

struct Telltale {
  std::string_view piece, model;
};

/// Metadata entries that name the base model, and pieces of their values.
constexpr std::string_view kEntries[] = {"modelspec.architecture", "ss_base_model_version"};
constexpr Telltale kValues[] = {{"stable-diffusion-xl", "Stable Diffusion XL"},
                                {"sdxl", "Stable Diffusion XL"},
                                {"stable-diffusion-3", "Stable Diffusion 3"},
                                {"sd3", "Stable Diffusion 3"},
                                {"stable-diffusion-v1", "Stable Diffusion 1.x"},
                                {"sd_v1", "Stable Diffusion 1.x"},
                                {"stable-diffusion-v2", "Stable Diffusion 2.x"},
                                {"sd_v2", "Stable Diffusion 2.x"},
                                {"flux", "FLUX.1"}};

/// Pieces of names with every dot an underscore.
constexpr Telltale kNames[] = {
    {"single_transformer_blocks_0_", "FLUX.1"},
    {"single_blocks_0_", "FLUX.1"},
    {"double_blocks_0_", "FLUX.1"},
    {"attn_add_q_proj_", "Stable Diffusion 3"},
    {"joint_blocks_", "Stable Diffusion 3"},
    {"caption_projection", "PixArt or Sana"},
    {"blocks_0_cross_attn_", "Wan"},
    {"txt_norm", "Qwen-Image"},
    {"layers_0_adaLN_modulation", "Lumina or Z-Image"},
    {"_SelfAttention_", "FLUX.1 or another model with T5"},
    {"lora_te2_", "Stable Diffusion XL"},
};

/// Numbers that prompts have for each token.
struct Width {
  int64_t columns;
  std::string_view model;
};
constexpr Width kWidths[] = {
    {768, "Stable Diffusion 1.x"}, {1024, "Stable Diffusion 2.x"}, {2048, "Stable Diffusion XL"}};

std::optional<std::string_view> by_metadata(const Metadata& metadata) {
  for (const std::string_view entry : kEntries) {
    const auto found = metadata.find(entry);
    if (found == metadata.end()) continue;
    for (const Telltale& row : kValues)
      if (found->second.find(row.piece) != std::string::npos) return row.model;
  }
  return {};
}

// Cross-attention's way in is as wide as the prompt.
std::optional<std::string_view> by_width(const LoraModule& module, std::string_view name) {
  if (name.find("attn2_to_k") == name.npos || !module.has(LoraRole::down)) return {};
  const at::Tensor& down = module.tensors.at(LoraRole::down);
  for (const Width& row : kWidths)
    if (down.dim() > 1 && down.size(1) == row.columns) return row.model;
  return {};
}

std::optional<std::string_view> by_names(const std::vector<std::string>& names) {
  for (const Telltale& row : kNames)
    for (const std::string& name : names)
      if ((name + "_").find(row.piece) != std::string::npos) return row.model;
  return {};
}

}  // namespace

std::string lora_origin(const LoraFile& file, const Metadata& metadata) {
  std::optional<std::string_view> model = by_metadata(metadata);
  std::vector<std::string> names;
  for (const LoraModule& module : file.modules) {
    names.push_back(module.name);
    std::ranges::replace(names.back(), '.', '_');
    if (!model) model = by_width(module, names.back());
  }
  if (!model) model = by_names(names);
  return fmt::format("one for {}", model.value_or("an unknown model"));
}

}  // namespace atelier
