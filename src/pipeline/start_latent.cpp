// Encoding of start pictures.
#include "pipeline/start_latent.h"

#include <ATen/ops/cat.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/pixel_unshuffle.h>
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

/// The mask and the picture without what is under it, as inpainting models take them
/// (source: runwayml/stable-diffusion, scripts/inpaint_st.py: x, mask, masked picture),
/// or what FLUX.1 Fill takes, which is told every pixel of the mask.
/// Source: diffusers, pipelines/flux/pipeline_flux_fill.py: masked picture, mask.
at::Tensor repaint_channels(Engine& engine, ExtraInput extra, const at::Tensor& picture,
                            const at::Tensor& mask, VaeTiling tiling) {
  const int64_t factor = engine.def().latent.factor;
  const at::Tensor hard = mask.round();
  const at::Tensor masked = encode(engine, picture * (1 - hard), tiling);
  if (extra == ExtraInput::fill) return at::cat({masked, at::pixel_unshuffle(hard, factor)}, 1);
  const at::Tensor cells =
      resize_mask(hard, picture.size(2) / factor, picture.size(3) / factor).round();
  return at::cat({cells, masked}, 1);
}

struct ExtraRow {
  int64_t inputs, latent;  // channels
  ExtraInput meaning;
};
constexpr ExtraRow kExtras[] = {{4, 4, ExtraInput::none},
                                {9, 4, ExtraInput::inpaint},
                                {16, 16, ExtraInput::none},
                                {32, 16, ExtraInput::control},
                                {96, 16, ExtraInput::fill}};

/// The area of width x height in the picture's proportions, in whole tokens.
Image fit_reference(const Image& image, int32_t width, int32_t height) {
  constexpr double kStep = 16, kMost = 16384;
  const double scale = std::sqrt(static_cast<double>(width) * height / image.width / image.height);
  const auto side = [&](int32_t pixels) {
    const double wanted = std::round(pixels * scale / kStep) * kStep;
    return static_cast<int32_t>(std::clamp(wanted, kStep, kMost));
  };
  return fit_picture(image, side(image.width), side(image.height));
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
  for (std::optional<Image>* image : {&pictures.init, &pictures.mask, &pictures.control})
    if (*image) *image = fit_picture(**image, width, height);
  for (Image& reference : pictures.references) reference = fit_reference(reference, width, height);
}

ExtraInput extra_input(const Engine& engine) {
  const int64_t inputs = engine.traits().in_channels, latent = engine.def().latent.channels;
  for (const ExtraRow& row : kExtras)
    if (row.inputs == inputs && row.latent == latent) return row.meaning;
  throw Error(ErrorCode::unsupported,
              {.subject = engine.parts().denoiser.source->label(),
               .expected = fmt::format("a model of a known number of input channels beside the {} "
                                       "of a latent",
                                       latent),
               .found = std::to_string(inputs - latent),
               .hint = "It may be an editing model, which this version does not draw with"});
}

void check_pictures(const Engine& engine, const StartPictures& pictures) {
  const auto refuse = [](std::string_view option, std::string statement) {
    throw Error(ErrorCode::mismatch,
                {.subject = std::string(option), .expected = std::move(statement)});
  };
  const bool controlled = extra_input(engine) == ExtraInput::control;
  if (controlled && !pictures.control)
    refuse("--control-image",
           fmt::format("{} needs a picture of edges or depths to draw after", engine.def().title));
  if (!controlled && pictures.control)
    refuse("--control-image", fmt::format("{} takes none", engine.def().title));
  if (!pictures.references.empty() && !engine.traits().references)
    refuse("--reference", fmt::format("{} takes none", engine.def().title));
}

StartLatent start_latent(Engine& engine, const StartPictures& pictures, int64_t batch,
                         int64_t height, int64_t width, VaeTiling tiling) {
  check_pictures(engine, pictures);
  const LatentFormat& format = engine.def().latent;
  const ExtraInput extra = extra_input(engine);
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
  if (extra == ExtraInput::control)
    start.concat = encode(engine, picture_tensor(*pictures.control), tiling);
  else if (extra != ExtraInput::none)
    start.concat = repaint_channels(
        engine, extra, picture, start.mask.defined() ? start.mask : at::ones({1, 1, height, width}),
        tiling);
  for (const Image& reference : pictures.references)
    start.references.push_back(encode(engine, picture_tensor(reference), tiling));
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
