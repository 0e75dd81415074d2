// Folders as diffusers saves them: one subfolder per component, each with its own weight files.
#pragma once

#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "formats/tensor_source.h"

namespace atelier {

/// One component of a model folder and the file (or shard index) that holds its weights.
struct FolderComponent {
  std::string name;  // of the subfolder: "unet", "vae", "text_encoder"
  std::filesystem::path weights;
};

/// The weight file of one component's folder: the full precision before the "fp16" variant,
/// safetensors before torch files, or an empty path.
std::filesystem::path component_weights(const std::filesystem::path& folder);

/// Components with weights, in name order; those that take no part in drawing (safety checker,
/// feature extractor, ...) are left out. Throws `not_found` if there are none.
std::vector<FolderComponent> folder_components(const std::filesystem::path& folder);

/// Opens a model folder. Tensors are named "<component>.<name in its file>". The folder's
/// model_index.json, each component's config.json and the scheduler's scheduler_config.json are
/// metadata under those paths ("unet/config.json"). Scales beside weights are read.
std::shared_ptr<const TensorSource> open_folder(const std::filesystem::path& folder);

/// Opens whatever `path` is: a checkpoint file, a component's folder (its weight file), or a model
/// folder; scales beside weights are read (`read_scales`). Errors as `open_checkpoint` and
/// `read_scales`.
std::shared_ptr<const TensorSource> open_source(const std::filesystem::path& path);

}  // namespace atelier
