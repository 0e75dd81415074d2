// Latents in files, as ComfyUI's SaveLatent writes and its LoadLatent reads them.
#pragma once

#include <ATen/core/Tensor.h>

#include <filesystem>

#include "formats/tensor_source.h"

namespace atelier {

/// Writes `latent` [B, C, h, w] (VAE space, that is unscaled) as the fp32 tensor `latent_tensor`,
/// with the empty tensor `latent_format_version_0` that says so. The file appears only when whole.
/// Throws `write_failed`.
void save_latent(const std::filesystem::path& path, const at::Tensor& latent,
                 const Metadata& metadata = {});

/// Reads the fp32 latent [B, C, h, w] (VAE space) of a file that `save_latent` or ComfyUI wrote;
/// files from before the format had a version hold SD 1.x latents scaled by 0.18215, which is taken
/// out. Throws `mismatch` for a file without a latent, else as `open_checkpoint`.
at::Tensor load_latent(const std::filesystem::path& path);

}  // namespace atelier
