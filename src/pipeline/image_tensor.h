// Between pictures of bytes and the tensors an autoencoder works on.
#pragma once

#include <ATen/core/Tensor.h>

#include "media/image.h"

namespace atelier {

/// A picture as [1, 3, H, W] in -1..1, fp32; alpha is dropped, grey repeated.
at::Tensor picture_tensor(const Image& image);

/// Picture [3, H, W] in -1..1 as RGB bytes: clamped and truncated, as ComfyUI does.
Image to_image(const at::Tensor& picture);

/// How white each pixel is, as [1, 1, H, W] in 0..1, fp32; alpha is ignored.
at::Tensor mask_tensor(const Image& image);

/// A mask [1, 1, H, W] resized bilinearly to [1, 1, height, width].
at::Tensor resize_mask(const at::Tensor& mask, int64_t height, int64_t width);

/// `drawn` where the mask is white and `kept` where it is black, mixed in between; all of one size.
Image composite(const Image& drawn, const Image& kept, const Image& mask);

}  // namespace atelier
