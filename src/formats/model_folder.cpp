// Finds weight files by the names diffusers and transformers give them.
#include "formats/model_folder.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <set>

#include "base/error.h"
#include "base/mapped_file.h"
#include "formats/checkpoint.h"
#include "formats/merged_source.h"
#include "formats/scaled_source.h"

namespace atelier {
namespace {

namespace fs = std::filesystem;
constexpr size_t kMaxConfig = 1 << 20;

/// In order of preference. Source: diffusers, src/diffusers/utils/constants.py and
/// transformers, src/transformers/utils/__init__.py; variants as `_add_variant` writes them.
constexpr std::array<std::string_view, 18> kWeightFiles = {
    "diffusion_pytorch_model.safetensors",
    "diffusion_pytorch_model.safetensors.index.json",
    "model.safetensors",
    "model.safetensors.index.json",
    "diffusion_pytorch_model.fp16.safetensors",
    "diffusion_pytorch_model.safetensors.index.fp16.json",
    "model.fp16.safetensors",
    "model.safetensors.index.fp16.json",
    "pytorch_model.safetensors",
    "diffusion_pytorch_model.bin",
    "diffusion_pytorch_model.bin.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
    "diffusion_pytorch_model.fp16.bin",
    "diffusion_pytorch_model.bin.index.fp16.json",
    "pytorch_model.fp16.bin",
    "pytorch_model.bin.index.fp16.json",
    "pytorch_model.safetensors.index.json",
};

constexpr std::array<std::string_view, 6> kIgnored = {
    "safety_checker", "feature_extractor", "tokenizer", "tokenizer_2", "tokenizer_3", "scheduler",
};

void add_config(const fs::path& folder, const std::string& name, Metadata& metadata) {
  std::error_code none;
  if (!fs::is_regular_file(folder / name, none)) return;
  const MappedFile file = MappedFile::open(folder / name);
  if (file.bytes().size() > kMaxConfig)
    throw Error(ErrorCode::malformed, {.subject = (folder / name).string(),
                                       .expected = fmt::format("at most {} bytes", kMaxConfig),
                                       .found = fmt::format("{}", file.bytes().size())});
  const auto bytes = file.bytes();
  metadata.emplace(name, std::string(reinterpret_cast<const char*>(bytes.data()), bytes.size()));
}

}  // namespace

fs::path component_weights(const fs::path& folder) {
  std::error_code none;
  for (const std::string_view name : kWeightFiles)
    if (fs::is_regular_file(folder / name, none)) return folder / name;
  return {};
}

std::vector<FolderComponent> folder_components(const fs::path& folder) {
  std::vector<FolderComponent> components;
  std::error_code failure;
  for (const fs::directory_entry& entry : fs::directory_iterator(folder, failure)) {
    const std::string name = entry.path().filename().string();
    const bool ignored = std::find(kIgnored.begin(), kIgnored.end(), name) != kIgnored.end();
    std::error_code none;
    if (ignored || !entry.is_directory(none)) continue;
    if (fs::path weights = component_weights(entry.path()); !weights.empty())
      components.push_back({name, std::move(weights)});
  }
  if (failure)
    throw Error(ErrorCode::unreadable,
                {.subject = folder.string(),
                 .expected = fmt::format("cannot be read ({})", failure.message())});
  if (components.empty())
    throw Error(ErrorCode::not_found,
                {.subject = folder.string(),
                 .expected = "subfolders with weights, such as "
                             "unet/diffusion_pytorch_model.safetensors",
                 .found = "none",
                 .hint = "Give a checkpoint file, or a folder as diffusers saves it"});
  std::sort(components.begin(), components.end(),
            [](const auto& a, const auto& b) { return a.name < b.name; });
  return components;
}

std::shared_ptr<const TensorSource> open_folder(const fs::path& folder) {
  std::vector<SourcePart> parts;
  Metadata configs;
  add_config(folder, "model_index.json", configs);
  add_config(folder, "scheduler/scheduler_config.json", configs);
  for (const FolderComponent& component : folder_components(folder)) {
    parts.push_back({component.name + ".", read_scales(open_checkpoint(component.weights))});
    add_config(folder, component.name + "/config.json", configs);
  }
  return std::make_shared<MergedSource>(folder.string(), "diffusers folder", std::move(parts),
                                        std::move(configs));
}

std::shared_ptr<const TensorSource> open_source(const fs::path& path) {
  std::error_code none;
  if (!fs::is_directory(path, none)) return read_scales(open_checkpoint(path));
  if (const fs::path weights = component_weights(path); !weights.empty())
    return read_scales(open_checkpoint(weights));
  return open_folder(path);
}

}  // namespace atelier
