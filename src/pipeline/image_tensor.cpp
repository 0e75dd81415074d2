// Conversions of samples and memory order.
#include "pipeline/image_tensor.h"

#include <ATen/ops/from_blob.h>
#include <ATen/ops/nan_to_num.h>
#include <ATen/ops/upsample_bilinear2d.h>

#include <cstring>

#include "base/error.h"

namespace atelier {
namespace {

/// Samples 0..255 of a picture as [1, channels, H, W].
at::Tensor samples(const Image& image, int32_t channels) {
  Image converted = convert_channels(image, channels);
  return at::from_blob(converted.pixels.data(), {1, converted.height, converted.width, channels},
                       at::kByte)
      .to(at::kFloat)
      .permute({0, 3, 1, 2})
      .contiguous();
}

}  // namespace

at::Tensor picture_tensor(const Image& image) { return samples(image, 3) / 255 * 2 - 1; }

at::Tensor mask_tensor(const Image& image) { return samples(image, 1) / 255; }

Image to_image(const at::Tensor& picture) {
  ATELIER_CHECK(picture.dim() == 3 && picture.size(0) == 3);
  const at::Tensor bytes = ((picture.to(at::kFloat) + 1) * 0.5)
                               .nan_to_num(0)
                               .clamp(0, 1)
                               .mul(255)
                               .to(at::kByte)
                               .permute({1, 2, 0})
                               .contiguous();
  Image image =
      make_image(static_cast<int32_t>(picture.size(2)), static_cast<int32_t>(picture.size(1)), 3);
  std::memcpy(image.pixels.data(), bytes.const_data_ptr<uint8_t>(), image.pixels.size());
  return image;
}

at::Tensor resize_mask(const at::Tensor& mask, int64_t height, int64_t width) {
  return at::upsample_bilinear2d(mask, {height, width}, /*align_corners=*/false);
}

Image composite(const Image& drawn, const Image& kept, const Image& mask) {
  const Image below = convert_channels(kept, 3), share = convert_channels(mask, 1);
  ATELIER_CHECK(drawn.width == below.width && drawn.height == below.height);
  ATELIER_CHECK(drawn.width == share.width && drawn.height == share.height);
  Image result = drawn;
  for (size_t i = 0; i < result.pixels.size(); ++i) {
    const int white = share.pixels[i / 3];
    result.pixels[i] = static_cast<uint8_t>(
        (drawn.pixels[i] * white + below.pixels[i] * (255 - white) + 127) / 255);
  }
  return result;
}

}  // namespace atelier
