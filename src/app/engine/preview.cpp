// Drawing and replacing the preview file.
#include "app/engine/preview.h"

#include <fmt/format.h>

#include "app/engine/picture_files.h"
#include "base/error.h"
#include "base/mapped_file.h"
#include "formats/model_folder.h"
#include "media/resize.h"
#include "models/taesd.h"
#include "pipeline/image_tensor.h"
#include "pipeline/model_files.h"

namespace atelier {

Preview::Preview(Engine& engine, std::filesystem::path file, const std::filesystem::path& decoder)
    : engine_(engine), file_(std::move(file)) {
  const LatentFormat& format = engine.def().latent;
  if (decoder.empty()) {
    colours_.emplace(engine.vae().get(), 1 / format.scale, format.shift);
    return;
  }
  const auto source = open_source(decoder);
  require_taesd(source);
  BindReport report;
  taesd_ = load_taesd({.decoder = source, .encoder = {}, .scale = {format.scale, format.shift}},
                      residency_, report, engine.vae().compute());
  report.throw_if_bad(source->label());
  if (const int64_t channels = taesd_->latent_channels(); channels != format.channels)
    throw Error(ErrorCode::mismatch,
                {.subject = source->label(),
                 .expected = fmt::format("{} latent channels, as {} of {} has", format.channels,
                                         format.taesd, engine.def().title),
                 .found = std::to_string(channels)});
}

void Preview::write(const at::Tensor& denoised) {
  const at::Tensor latent = engine_.to_vae_space(denoised.narrow(0, 0, 1));
  Image image;
  if (taesd_) {
    image = to_image(taesd_->decode(latent)[0]);
  } else {
    const int64_t factor = engine_.def().latent.factor;
    image = resize(to_image(colours_->draw(latent)[0] * 2 - 1),
                   static_cast<int32_t>(latent.size(3) * factor),
                   static_cast<int32_t>(latent.size(2) * factor), Filter::bilinear);
  }
  AtomicFile out(file_);
  out.write(encode_picture(file_, image));
  out.commit();
}

}  // namespace atelier
