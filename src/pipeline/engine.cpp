// Binding the parts, and what the files leave open.
#include "pipeline/engine.h"

#include <ATen/ops/any.h>
#include <fmt/format.h>

#include <algorithm>

#include "base/error.h"
#include "base/log.h"

namespace atelier {
namespace {

/// Says in the log how much of the model file belongs to no part that was looked for.
void log_strangers(const ModelParts& parts) {
  const TensorSource& file = *parts.denoiser.source;
  std::vector<std::string_view> known(parts.def->vae_prefixes.begin(),
                                      parts.def->vae_prefixes.end());
  known.push_back(parts.denoiser.place.prefix);
  for (const TextPart& text : parts.def->text)
    known.insert(known.end(), text.prefixes.begin(), text.prefixes.end());
  const auto belongs = [&](std::string_view name) {
    return std::ranges::any_of(known, [&](auto prefix) { return name.starts_with(prefix); }) ||
           matches_any(name, parts.def->ignore);
  };
  int64_t strangers = 0;
  std::string_view first;
  for (const auto& [name, info] : file.tensors())
    if (!belongs(name) && strangers++ == 0) first = name;
  if (strangers > 0)
    log::debug("{}: {} to no part, the first named '{}'", file.label(),
               strangers == 1 ? "1 tensor belongs" : fmt::format("{} tensors belong", strangers),
               first);
}

// By OutputKind, and by NoiseLevels.
constexpr Prediction kPredictions[] = {Prediction::eps, Prediction::v, Prediction::flow};
constexpr SigmaTable kTables[] = {SigmaTable::discrete, SigmaTable::flow, SigmaTable::flux};

ModelSamplingParams sampling_params(const ModelDef& def, const ModelTraits& traits) {
  return {.prediction = kPredictions[static_cast<size_t>(traits.output)],
          .table = traits.zero_terminal_snr ? SigmaTable::zero_terminal
                                            : kTables[static_cast<size_t>(def.noise_levels)],
          .shift = def.noise_shift,
          .multiplier = def.timestep_scale};
}

}  // namespace

Engine::Engine(const ModelFiles& files, Device device, const DtypeChoice& dtypes)
    : parts_(find_parts(files)) {
  require_complete(parts_);
  log_strangers(parts_);
  const ModelDef& def = *parts_.def;
  const at::ScalarType best = default_dtype(device, def.dtypes);
  unet_ = std::make_unique<Component<DiffusionModel>>(
      def.denoiser, parts_.denoiser,
      Compute{.device = device, .dtype = dtypes.unet.value_or(best), .int8 = dtypes.int8});
  vae_ = std::make_unique<Component<Vae>>(kl_vae, *parts_.vae,
                                          Compute{device, dtypes.vae.value_or(best)});
  // Unless told otherwise as ComfyUI does: weights rounded to fp16, the mathematics in fp32.
  // Those that are too large for that go as the denoiser does.
  const Compute exact{device, at::kFloat, at::kHalf};
  for (size_t i = 0; i < def.text.size(); ++i)
    text_.emplace_back(*def.text[i].encoder, *parts_.text[i],
                       dtypes.text         ? Compute{device, *dtypes.text}
                       : def.text[i].heavy ? Compute{device, best}
                                           : exact);
  tokenizers_ = open_tokenizers(parts_, files.t5_tokenizer);
  bind();
  traits_ = unet_->get().traits();
  traits_.output = parts_.output.value_or(traits_.output);
  traits_.zero_terminal_snr = parts_.zero_terminal_snr.value_or(traits_.zero_terminal_snr);
  sampling_ = std::make_unique<ModelSampling>(sampling_params(def, traits_));
  check_sizes();
}

void Engine::check_sizes() {
  const auto agree = [&](const TensorSource& file, int64_t found, int64_t wanted,
                         std::string_view what) {
    if (found != wanted)
      throw Error(ErrorCode::mismatch, {.subject = file.label(),
                                        .expected = fmt::format("{} {}, as {} takes", wanted, what,
                                                                parts_.denoiser.source->label()),
                                        .found = std::to_string(found),
                                        .hint = "The files belong to different models"});
  };
  agree(*parts_.vae->source, vae_->get().latent_channels(), def().latent.channels,
        "latent channels");
  int64_t context = 0;
  const TensorSource* last = nullptr;
  for (size_t i = 0; i < text_.size(); ++i) {
    const int64_t width = text_[i].get().width();
    const TensorSource& file = *parts_.text[i]->source;
    if (def().text[i].use == TextUse::pooled)
      agree(file, width, traits_.vector_width, "channels of a prompt's vector");
    else
      context += width;
    if (def().text[i].use != TextUse::pooled) last = &file;
  }
  if (last) agree(*last, context, traits_.context_width, "channels of a prompt's tokens");
}

void Engine::set_noise_shift(NoiseLevels levels, double shift) {
  if (!sampling_->is_flow() || levels == NoiseLevels::scaled_linear)
    throw Error(ErrorCode::invalid_argument, {.subject = "shift of noise levels",
                                              .expected = fmt::format("{} has none", def().title)});
  ModelSamplingParams params = sampling_->params();
  params.table = kTables[static_cast<size_t>(levels)];
  params.shift = shift;
  sampling_ = std::make_unique<ModelSampling>(params);
}

std::vector<PromptEncoder> Engine::prompt_encoders() {
  std::vector<PromptEncoder> encoders;
  for (size_t i = 0; i < text_.size(); ++i)
    encoders.push_back({text_[i].get(), *tokenizers_[i], text_[i].found().source->label()});
  return encoders;
}

void Engine::bind() {
  BindReport unet, vae;
  unet_->bind(unet);
  unet.throw_if_bad(unet_->found().source->label());
  weights_.push_back(unet.manifest());
  vae_->bind(vae);
  vae.throw_if_bad(vae_->found().source->label());
  for (Component<TextEncoder>& text : text_) {
    BindReport report;
    text.bind(report);
    report.throw_if_bad(text.found().source->label());
    weights_.push_back(report.manifest());
  }
}

LoraModel Engine::lora_model() const {
  const ModelDef& own = def();
  LoraModel model{
      own.name, own.title, {{own.denoiser.name, true, own.denoiser.layouts, &weights_[0]}}};
  for (size_t i = 0; i < own.text.size(); ++i)
    model.parts.push_back(
        {own.text[i].encoder->name, false, own.text[i].encoder->layouts, &weights_[i + 1]});
  return model;
}

std::vector<LoraWarning> Engine::set_loras(std::span<const LoraUse> uses) {
  LoraShelf::Result result = loras_.use(uses, lora_model());
  unet_->patch(std::move(result.tables[0]));
  for (size_t i = 0; i < text_.size(); ++i) text_[i].patch(std::move(result.tables[i + 1]));
  return std::move(result.warnings);
}

at::Tensor Engine::to_model_space(const at::Tensor& latent) const {
  if (!latent.any().item<bool>()) return latent.clone();
  return (latent - def().latent.shift) * def().latent.scale;
}

at::Tensor Engine::to_vae_space(const at::Tensor& latent) const {
  return latent / def().latent.scale + def().latent.shift;
}

}  // namespace atelier
