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

}  // namespace atelier
