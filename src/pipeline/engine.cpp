// Binding the parts, and what the files leave open.
#include "pipeline/engine.h"

#include "base/error.h"
#include "base/log.h"

namespace atelier {
namespace {

/// Weights as they will lie in memory: 3x3 convolutions may be kept transformed for Winograd,
/// which takes 16/9 of their size.
Bytes prepared_bytes(const BindReport& report, const Compute& compute) {
  double bytes = 0;
  for (const auto& [name, shape] : report.manifest()) {
    double elements = 1;
    for (const int64_t extent : shape) elements *= static_cast<double>(extent);
    const bool kernel = compute.device.is_cpu() && shape.size() == 4 && shape[3] == 3;
    bytes +=
        elements * (kernel ? 16.0 / 9 : 1) * static_cast<double>(c10::elementSize(compute.dtype));
  }
  return Bytes(static_cast<int64_t>(bytes));
}

ModelSamplingParams sampling_params(const ModelTraits& traits) {
  return {.prediction = traits.output == OutputKind::v ? Prediction::v : Prediction::eps,
          .table = traits.zero_terminal_snr ? SigmaTable::zero_terminal : SigmaTable::discrete};
}

}  // namespace

Engine::Engine(const ModelFiles& files, Device device, const DtypeChoice& dtypes)
    : parts_(find_parts(files)) {
  require_complete(parts_);
  const ModelDef& def = *parts_.def;
  const at::ScalarType best = default_dtype(device, def.dtypes);
  unet_ = std::make_unique<Component<DiffusionModel>>(def.denoiser, parts_.denoiser,
                                                      Compute{device, dtypes.unet.value_or(best)});
  vae_ = std::make_unique<Component<Vae>>(kl_vae, *parts_.vae,
                                          Compute{device, dtypes.vae.value_or(best)});
  for (size_t i = 0; i < def.text.size(); ++i)
    text_.emplace_back(*def.text[i].encoder, *parts_.text[i],
                       Compute{device, dtypes.text.value_or(at::kFloat)});
  bind();
  traits_ = unet_->get().traits();
  traits_.output = parts_.output.value_or(traits_.output);
  traits_.zero_terminal_snr = parts_.zero_terminal_snr.value_or(traits_.zero_terminal_snr);
  sampling_ = std::make_unique<ModelSampling>(sampling_params(traits_));
}

void Engine::bind() {
  BindReport unet, vae;
  unet_->bind(unet);
  unet.throw_if_bad(unet_->found().source->label());
  vae_->bind(vae);
  vae.throw_if_bad(vae_->found().source->label());
  weight_bytes_.unet = prepared_bytes(unet, unet_->compute());
  weight_bytes_.vae = prepared_bytes(vae, vae_->compute());
  for (Component<TextEncoder>& text : text_) {
    BindReport report;
    text.bind(report);
    report.throw_if_bad(text.found().source->label());
    weight_bytes_.text += prepared_bytes(report, text.compute());
  }
}

at::Tensor Engine::to_model_space(const at::Tensor& latent) const {
  return (latent - def().latent.shift) * def().latent.scale;
}

at::Tensor Engine::to_vae_space(const at::Tensor& latent) const {
  return latent / def().latent.scale + def().latent.shift;
}

}  // namespace atelier
