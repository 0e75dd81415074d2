// Diffusion models: what the engine asks of a denoiser, and what it must know of an architecture.
#pragma once

#include <ATen/core/Tensor.h>

#include <functional>
#include <memory>
#include <span>
#include <string_view>
#include <vector>

#include "models/part.h"
#include "models/text_encoder.h"
#include "nn/attention.h"

namespace atelier {

/// One call of a denoiser. B pictures of C channels, H x W latent cells; T prompt tokens.
struct DiffusionInput {
  at::Tensor x;  // [B, C, H, W], already scaled for the model
  at::Tensor timestep;  // [B] in the model's unit (0 to 999 for SD, 0 to 1 for Flux), fp32
  nn::Context context;  // [B, T, D]; reuse it while the prompt stays, it remembers keys and values
  at::Tensor vector;  // [B, A] pooled prompt and sizes, for models that have `vector_width`
  at::Tensor guidance;  // [B] for models that are told a scale; undefined: the model's own
  at::Tensor concat;  // [B, C', H, W] joined to x along the channels, for inpainting and editing
  /// Latents [1, C, h, w] of pictures to look at, of any sizes, for models with `references`.
  std::vector<at::Tensor> references;
  /// Told the output of every block by its name in the model, as it is computed; for tests and for
  /// finding where numbers go wrong. May be empty.
  std::function<void(std::string_view block, const at::Tensor& output)> observe;
};

/// What the network's output means.
enum class OutputKind : uint8_t { eps, v, flow };

/// Sizes and kind of one model file, as read from its tensors.
struct ModelTraits {
  int64_t in_channels = 4, out_channels = 4;
  int64_t context_width = 0;
  int64_t vector_width = 0;  // 0: takes no vector
  OutputKind output = OutputKind::eps;
  bool zero_terminal_snr = false;
  double guidance = 0;  // the scale it is told unless the input says another; 0: it takes none
  bool references = false;  // whether it can look at other pictures
  bool prompt_repeats = true;  // the prompt is only attended to: repeating it changes nothing
  int64_t native_size = 512;  // pixels along a side of the pictures it was trained on
};

/// A denoiser bound to its weights. Thread-safe, though calls share the device.
class DiffusionModel {
 public:
  virtual ~DiffusionModel() = default;
  /// The network's output [B, out_channels, H, W], fp32, on the compute device. Takes inputs of any
  /// float dtype on any device. Throws `mismatch` for channels, widths or batch sizes that are not
  /// this model's.
  at::Tensor forward(const DiffusionInput& input) const;
  virtual const ModelTraits& traits() const = 0;
  /// Memory for activations in one call on `batch` latents of height x width cells, without
  /// weights: an estimate from above.
  virtual Bytes activation_bytes(int64_t batch, int64_t height, int64_t width) const = 0;
  /// Multiplications and additions of one such call, about: products and attention, without norms;
  /// 0: unknown.
  virtual double operations(int64_t, int64_t, int64_t) const { return 0; }
  /// What prompts of `tokens` tokens add to each: memory for them, the keys and values made of them
  /// included, and arithmetic beyond that of a usual prompt.
  virtual Bytes prompt_bytes(int64_t batch, int64_t tokens) const = 0;
  virtual double prompt_operations(int64_t batch, int64_t height, int64_t width,
                                   int64_t tokens) const = 0;

 protected:
  /// The same with everything checked, on the compute device and in the compute dtype, x with
  /// concat joined and channels-last.
  virtual at::Tensor run(const DiffusionInput& input) const = 0;
  virtual const Compute& compute() const = 0;
};

/// Latents of a family: channels, pixels per cell, and model space = (vae space - shift) * scale.
struct LatentFormat {
  int64_t channels = 4;
  int64_t factor = 8;
  double scale = 1, shift = 0;
  std::string_view taesd;  // name of the tiny autoencoder for these latents
};

/// What a family takes of a text encoder's answer.
enum class TextUse : uint8_t { both, states, pooled };

/// A text encoder of a checkpoint: which one, and the prefixes under which files keep it.
struct TextPart {
  const PartDef<TextEncoder>* encoder;
  std::span<const std::string_view> prefixes;
  TextUse use = TextUse::both;
  bool heavy = false;  // too large to be computed in fp32 where the denoiser needs less
};

/// Noise levels a family was trained on: 1000 of a diffusion process, or those of a straight path
/// from noise (1) to picture (0) by one formula or another.
enum class NoiseLevels : uint8_t { scaled_linear, flow, flux };

/// What conditions the denoiser besides the prompt's tokens.
enum class VectorKind : uint8_t { none, sdxl, sdxl_refiner, pooled };

/// What is drawn with where the user names nothing.
struct SamplingDefaults {
  int64_t steps = 20;
  double cfg = 7;
  std::string_view sampler = "euler", scheduler = "normal";
  double guidance = 3.5;  // of models that are told a scale
};

/// Everything the engine must know about an architecture; one object per row of models.inc.
struct ModelDef {
  std::string_view name;  // "sd1", for people and plans
  std::string_view title;  // "Stable Diffusion 1.x"
  PartDef<DiffusionModel> denoiser;
  std::span<const std::string_view> prefixes;  // of the denoiser, tried in order
  std::span<const std::string_view> vae_prefixes;
  std::span<const TextPart> text;
  LatentFormat latent;
  NoiseLevels noise_levels = NoiseLevels::scaled_linear;
  double noise_shift = 1;  // flow, flux: how far the levels lean towards noise
  double timestep_scale = 1000;  // flow: time step = level * scale
  VectorKind vector = VectorKind::none;
  int clip_skip = -1;  // the text encoder's layer when the user names none
  bool clip_final_norm = true;  // the closing norm on that layer
  SamplingDefaults defaults = {};
  std::span<const at::ScalarType> dtypes;  // compute dtypes on accelerators, best first
  std::span<const std::string_view> ignore;  // names of a whole checkpoint that no part needs
};

/// Every architecture, most specific first.
std::span<const ModelDef* const> all_models();

/// A model file recognised.
struct Detected {
  const ModelDef* def = nullptr;
  Place denoiser;
};

/// Recognises the denoiser in `source` from names and shapes. Throws `unsupported` with what was
/// looked for and what the file looks like instead.
Detected detect_model(const std::shared_ptr<const TensorSource>& source);

/// A file that is given beside a model.
struct Accessory {
  std::string_view what;  // "a LoRA", "a textual inversion", "an autoencoder (VAE) alone", ...
  std::string_view hint;  // "Give it with --lora, beside a --model"
  bool is_lora = false;  // of any kind
};

/// What `source` is if it is given beside a model but is none.
std::optional<Accessory> accessory_in(const TensorSource& source);

}  // namespace atelier
