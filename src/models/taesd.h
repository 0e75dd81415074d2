// TAESD: a tiny autoencoder that shows what a latent will look like, in a hundredth of the time.
#pragma once

#include <memory>

#include "models/vae.h"

namespace atelier {

/// From latents as files keep them to the scaled ones a TAESD was trained on.
struct LatentScale {
  double scale = 0.18215;
  double shift = 0;  // subtracted first
};

/// The two halves lie in two files (taesd_decoder, taesd_encoder), in one under those prefixes, or
/// in a diffusers folder; either may be absent. Which kind of latents a file was trained on is not
/// in it: `scale` must be given (taesd 0.18215, taesdxl 0.13025, ...).
struct TaesdFiles {
  std::shared_ptr<const TensorSource> decoder, encoder;  // may be the same
  LatentScale scale;
};

/// Whether `source` holds half of a TAESD or all of it.
bool has_taesd(const TensorSource& source);

/// Builds a TAESD from its files; problems go to `report`. Throws `mismatch` if the files given
/// hold no half of one.
std::unique_ptr<Vae> load_taesd(const TaesdFiles& files, Residency& residency, BindReport& report,
                                const Compute& compute);

}  // namespace atelier
