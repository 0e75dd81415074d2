// A model ready to draw: its parts, loaded when needed, and how it denoises. Read this header
// first.
#pragma once

#include <memory>
#include <optional>
#include <vector>

#include "models/model.h"
#include "models/vae.h"
#include "pipeline/component.h"
#include "pipeline/conditioning.h"
#include "pipeline/loras.h"
#include "pipeline/model_files.h"
#include "pipeline/tokenizers.h"
#include "sampling/model_sampling.h"

namespace atelier {

/// How the user wants it computed: dtypes insisted on; unset: the best the device does natively.
struct DtypeChoice {
  std::optional<at::ScalarType> unet, text, vae;
  bool int8 = false;  // multiply the denoiser's Q8_0 matrices as 8-bit integers (Compute::int8)
};

/// The parts of one model on one device. Opening binds every layer, so that everything wrong with
/// the files is known, but reads no weights; `Component::load` does. One thread at a time.
class Engine {
 public:
  /// Throws as `find_parts`, `require_complete` and `open_tokenizers`, and `mismatch` with
  /// everything missing, misshapen or unused in the files, or for parts that do not fit together.
  Engine(const ModelFiles& files, Device device, const DtypeChoice& dtypes = {});

  const ModelDef& def() const { return *parts_.def; }
  const ModelParts& parts() const { return parts_; }
  const ModelTraits& traits() const { return traits_; }
  const ModelSampling& sampling() const { return *sampling_; }
  /// Has the noise levels of a model that goes straight from noise to picture lean as `levels` and
  /// `shift` say, in place of its own. Throws `invalid_argument` for models of another kind and
  /// for a shift that is not positive.
  void set_noise_shift(NoiseLevels levels, double shift);
  /// The size of pictures the model was made for, in pixels.
  int64_t native_width() const { return parts_.width.value_or(traits_.native_size); }
  int64_t native_height() const { return parts_.height.value_or(traits_.native_size); }

  Component<DiffusionModel>& unet() { return *unet_; }
  const Component<DiffusionModel>& unet() const { return *unet_; }
  Component<Vae>& vae() { return *vae_; }
  const Component<Vae>& vae() const { return *vae_; }
  /// The text encoders, in the order of def().text.
  std::vector<Component<TextEncoder>>& text() { return text_; }
  const std::vector<Component<TextEncoder>>& text() const { return text_; }
  /// The text encoders, loaded, each with its tokenizer, for `encode_prompt`.
  std::vector<PromptEncoder> prompt_encoders();

  /// Changes the weights of the denoiser and the text encoders by these LoRAs and no others, from
  /// what the files have: with an empty list they are as if none had been. Files in use before are
  /// not read again, and weights whose changes stay the same stay prepared. Returns warnings about
  /// files that are new. Throws as `LoraShelf::use`; then nothing has changed.
  std::vector<LoraWarning> set_loras(std::span<const LoraUse> uses);
  const LoraShelf& loras() const { return loras_; }

  /// Latents [B, C, h, w] between VAE space (files, the autoencoder) and model space (sampling).
  /// One of zeros alone is an empty latent and stays one in model space, as ComfyUI has it.
  at::Tensor to_model_space(const at::Tensor& latent) const;
  at::Tensor to_vae_space(const at::Tensor& latent) const;

 private:
  void bind();
  void check_sizes();
  LoraModel lora_model() const;

  ModelParts parts_;
  std::unique_ptr<Component<DiffusionModel>> unet_;
  std::unique_ptr<Component<Vae>> vae_;
  std::vector<Component<TextEncoder>> text_;
  std::vector<std::shared_ptr<const Tokenizer>> tokenizers_;
  ModelTraits traits_;
  std::unique_ptr<ModelSampling> sampling_;
  std::vector<WeightShapes> weights_;  // of the denoiser, then of the text encoders
  LoraShelf loras_;
};

}  // namespace atelier
