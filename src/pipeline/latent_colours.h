// Quick previews: a linear map from latents to colours, fitted to the autoencoder at hand.
#pragma once

#include <ATen/core/Tensor.h>

#include "models/vae.h"

namespace atelier {

/// Turns latents into small pictures with one multiplication per cell. Fitting it to the model's
/// own decoder, instead of using published factors, makes it right for any VAE. Const member
/// functions are safe from any thread.
class LatentColours {
 public:
  /// Decodes one sheet of flat patches (for 4 channels about a sixth of a 512x512 picture's work,
  /// for 16 half of it) and fits the map by least squares. The model's latents lie round `middle`
  /// with the standard deviation `spread`, 1 / their scale.
  LatentColours(const Vae& vae, double spread, double middle = 0);

  /// Latent [B, C, h, w] (VAE space) to pictures [B, 3, h, w] in 0..1, fp32.
  at::Tensor draw(const at::Tensor& latent) const;

 private:
  at::Tensor weight_;  // [C, 3]
  at::Tensor bias_;  // [3]
};

}  // namespace atelier
