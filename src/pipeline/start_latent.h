// What a run starts from: a blank latent or a picture, a mask, and extra channels for models that
// were trained to repaint.
#pragma once

#include <optional>
#include <vector>

#include "media/image.h"
#include "pipeline/engine.h"

namespace atelier {

/// What the user gave to start from, a picture, perhaps with a mask, or a latent, and to look at.
struct StartPictures {
  std::optional<Image> init = {};
  std::optional<Image> mask = {};  // white is redrawn
  std::optional<Image> control = {};  // edges or depths
  std::vector<Image> references = {};
  at::Tensor latent = {};  // [1 or B, C, h, w] in VAE space; undefined: none
};

enum class VaeTiling : uint8_t { off, on };

/// What the sampler and the model get.
struct StartLatent {
  at::Tensor latent;  // [B, C, h, w] in model space
  at::Tensor mask;  // [1, 1, H, W] pixels, 1 = redraw; undefined: everywhere
  at::Tensor concat;  // [1, C', h, w] for models with an ExtraInput; undefined otherwise
  std::vector<at::Tensor> references;  // [1, C, h, w] in model space
};

/// What a model takes beside the latent, joined to it along the channels.
enum class ExtraInput : uint8_t {
  none,
  inpaint,  // a mask of cells, and the latent of the picture without what is under it
  control,  // the latent of a picture of edges or depths
  fill,  // the latent of the picture without what is under the mask, and the mask's pixels by cell
};

/// Throws `unsupported` for a model whose extra channels have no known meaning.
ExtraInput extra_input(const Engine& engine);

/// Throws `mismatch` naming the option for a picture that the model needs and lacks, or takes no
/// notice of; and as `extra_input`.
void check_pictures(const Engine& engine, const StartPictures& pictures);

/// Cuts the middle of a picture to the proportions of width x height and resizes it to that size.
Image fit_picture(const Image& image, int32_t width, int32_t height);

/// Brings the pictures to the size that is drawn. The mask covers the whole picture, whatever its
/// own size, and is cut as the picture is. Pictures to look at keep their proportions and get the
/// area that is drawn, in sides that 16 divides.
void fit_pictures(StartPictures& pictures, int32_t width, int32_t height);

/// Encodes what is to be encoded, in pictures as `fit_pictures` leaves them; blank latents are
/// zero. Throws as `check_pictures`.
StartLatent start_latent(Engine& engine, const StartPictures& pictures, int64_t batch,
                         int64_t height, int64_t width, VaeTiling tiling);

/// Decodes one latent [1, C, h, w] of model space to a picture [1, 3, H, W] in -1..1. `between` is
/// called between tiles; what it throws ends the work.
at::Tensor decode_latent(Engine& engine, const at::Tensor& latent, VaeTiling tiling,
                         const std::function<void()>& between = {});

}  // namespace atelier
