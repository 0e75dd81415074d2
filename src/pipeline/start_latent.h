// What a run starts from: a blank latent or a picture, a mask, and extra channels for models that
// were trained to repaint.
#pragma once

#include <optional>

#include "media/image.h"
#include "pipeline/engine.h"

namespace atelier {

/// What the user gave to start from: a picture, perhaps with a mask, or a latent.
struct StartPictures {
  std::optional<Image> init;
  std::optional<Image> mask;  // white is redrawn
  at::Tensor latent;  // [1 or B, C, h, w] in VAE space; undefined: none
};

enum class VaeTiling : uint8_t { off, on };

/// What the sampler and the model get.
struct StartLatent {
  at::Tensor latent;  // [B, C, h, w] in model space
  at::Tensor mask;  // [1, 1, H, W] pixels, 1 = redraw; undefined: everywhere
  at::Tensor concat;  // [1, C', h, w] for repainting models; undefined otherwise
};

/// Cuts the middle of a picture to the proportions of width x height and resizes it to that size.
Image fit_picture(const Image& image, int32_t width, int32_t height);

/// Brings the pictures to the size that is drawn. The mask covers the whole picture, whatever its
/// own size, and is cut as the picture is.
void fit_pictures(StartPictures& pictures, int32_t width, int32_t height);

/// Encodes what is to be encoded, in pictures of the size drawn; blank latents are zero. Throws
/// `unsupported` for a model whose extra channels have no known meaning.
StartLatent start_latent(Engine& engine, const StartPictures& pictures, int64_t batch,
                         int64_t height, int64_t width, VaeTiling tiling);

/// Decodes one latent [1, C, h, w] of model space to a picture [1, 3, H, W] in -1..1. `between` is
/// called between tiles; what it throws ends the work.
at::Tensor decode_latent(Engine& engine, const at::Tensor& latent, VaeTiling tiling,
                         const std::function<void()>& between = {});

}  // namespace atelier
