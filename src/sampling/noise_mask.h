// Noise masks: repainting a part of a latent with a model that was not trained to.
#pragma once

#include "sampling/sampler.h"

namespace atelier {

/// A mask brought to a latent's shape: resized bilinearly, channels repeated, and its batch
/// repeated or cut to the latent's. mask [H, W], [B, H, W] or [B, C, H, W] (frames in place of B
/// for video latents), 1 = repaint; latent shape [B, C, h, w] or [B, C, T, h, w] -> that shape,
/// float32. Throws `mismatch` on any other number of dimensions or an empty mask.
Tensor fit_mask(const Tensor& mask, at::IntArrayRef latent_shape);

/// `inner` confined to the mask: before each evaluation x outside of it is the latent with `noise`
/// at that sigma, and afterwards the answer there is the latent itself.
/// All tensors of the latent's shape; `model` is kept by reference.
Denoise masked(const ModelSampling& model, Denoise inner, Tensor mask, Tensor noise, Tensor latent);

}  // namespace atelier
