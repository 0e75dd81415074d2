// The picture that --preview rewrites after every step.
#pragma once

#include <ATen/core/Tensor.h>

#include <filesystem>
#include <memory>
#include <optional>

#include "pipeline/engine.h"
#include "pipeline/latent_colours.h"

namespace atelier {

/// Draws estimates of the finished picture. One thread.
class Preview {
 public:
  /// `decoder` is a TAESD file, or empty for a linear estimate fitted to the model's VAE. Throws
  /// as `open_source` and `load_taesd`.
  Preview(Engine& engine, std::filesystem::path file, const std::filesystem::path& decoder);

  /// Replaces the file with the first picture of `denoised` [B, C, h, w] in model space.
  void write(const at::Tensor& denoised);
  const std::filesystem::path& file() const { return file_; }

 private:
  Engine& engine_;
  std::filesystem::path file_;
  Residency residency_;
  std::unique_ptr<Vae> taesd_;
  std::optional<LatentColours> colours_;
};

}  // namespace atelier
