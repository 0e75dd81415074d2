// Encoding of start pictures.
#include "pipeline/start_latent.h"

#include <ATen/ops/cat.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/zeros.h>
#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "media/resize.h"
#include "pipeline/image_tensor.h"

namespace atelier {
namespace {

at::Tensor encode(Engine& engine, const at::Tensor& picture, VaeTiling tiling) {
  const Vae& vae = engine.vae().get();
  return engine.to_model_space(tiling == VaeTiling::on ? encode_tiled(vae, picture)
                                                       : vae.encode(picture));
}

/// The mask and the picture without what is under it, as inpainting models take them.
/// Source: runwayml/stable-diffusion, scripts/inpaint_st.py: x, mask, masked picture.
at::Tensor inpaint_channels(Engine& engine, const at::Tensor& picture, const at::Tensor& mask,
                            VaeTiling tiling) {
  const int64_t factor = engine.def().latent.factor;
  const at::Tensor hard = mask.round();
  const at::Tensor masked = picture * (1 - hard);
  const at::Tensor cells =
      resize_mask(hard, picture.size(2) / factor, picture.size(3) / factor).round();
  return at::cat({cells, encode(engine, masked, tiling)}, 1);
}

}  // namespace

Image fit_picture(const Image& image, int32_t width, int32_t height) {
  const double scale = std::min(static_cast<double>(image.width) / width,
                                static_cast<double>(image.height) / height);
  const auto side = [&](int32_t wanted, int32_t available) {
    return std::clamp(static_cast<int32_t>(std::lround(wanted * scale)), 1, available);
  };
  Image middle = make_image(side(width, image.width), side(height, image.height), image.channels);
  const int32_t left = (image.width - middle.width) / 2, top = (image.height - middle.height) / 2;
  const auto row = [](const Image& of, int32_t y) {
    return static_cast<std::ptrdiff_t>(y) * of.width * of.channels;
  };
  for (int32_t y = 0; y < middle.height; ++y)
    std::copy_n(image.pixels.begin() + row(image, top + y) + left * image.channels,
                middle.width * middle.channels, middle.pixels.begin() + row(middle, y));
  return resize(middle, width, height, Filter::lanczos);
}

void fit_pictures(StartPictures& pictures, int32_t width, int32_t height) {
  if (pictures.mask && pictures.init)
    pictures.mask =
        resize(*pictures.mask, pictures.init->width, pictures.init->height, Filter::bilinear);
  for (std::optional<Image>* image : {&pictures.init, &pictures.mask})
    if (*image) *image = fit_picture(**image, width, height);
}

StartLatent start_latent(Engine& engine, const StartPictures& pictures, int64_t batch,
                         int64_t height, int64_t width, VaeTiling tiling) {
  const LatentFormat& format = engine.def().latent;
  const int64_t extra = engine.traits().in_channels - format.channels;
  if (extra != 0 && extra != format.channels + 1)
    throw Error(ErrorCode::unsupported,
                {.subject = engine.parts().denoiser.source->label(),
                 .expected = fmt::format("a model with {} or {} input channels", format.channels,
                                         2 * format.channels + 1),
                 .found = std::to_string(engine.traits().in_channels),
                 .hint = "It may be an editing model, which this version does not draw with"});
  StartLatent start;
  const std::vector<int64_t> shape = {batch, format.channels, height / format.factor,
                                      width / format.factor};
  const at::Tensor picture =
      pictures.init ? picture_tensor(*pictures.init) : at::zeros({1, 3, height, width});
  start.latent = at::zeros(shape);
  if (pictures.init) start.latent = encode(engine, picture, tiling).repeat({batch, 1, 1, 1});
  if (pictures.latent.defined())
    start.latent = engine.to_model_space(pictures.latent).expand(shape).contiguous();
  if (pictures.mask) start.mask = mask_tensor(*pictures.mask);
  if (extra != 0)
    start.concat = inpaint_channels(
        engine, picture, start.mask.defined() ? start.mask : at::ones({1, 1, height, width}),
        tiling);
  return start;
}

at::Tensor decode_latent(Engine& engine, const at::Tensor& latent, VaeTiling tiling,
                         const std::function<void()>& between) {
  const Vae& vae = engine.vae().get();
  const at::Tensor unscaled = engine.to_vae_space(latent);
  if (tiling == VaeTiling::off) return vae.decode(unscaled);
  return decode_tiled(vae, unscaled, {}, [&](double) {
    if (between) between();
  });
}

}  // namespace atelier
