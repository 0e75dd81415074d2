// The table of models, and telling which of them a file holds.
#include <algorithm>
#include <map>
#include <set>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "base/error.h"
#include "models/model.h"

namespace atelier {

#define ATELIER_MODEL(name) extern const ModelDef name##_model;
#include "models/models.inc"
#undef ATELIER_MODEL

std::span<const ModelDef* const> all_models() {
  static constexpr const ModelDef* kModels[] = {
#define ATELIER_MODEL(name) &name##_model,
#include "models/models.inc"
#undef ATELIER_MODEL
  };
  return kModels;
}

namespace {

/// Files people pass by mistake or too early, by a piece of a name only they have.
struct Other {
  std::string_view piece;  // of a name, with ^ its beginning, with = all of it
  std::string_view what;
  std::string_view hint = {};
  bool relative = false;  // has names of a family that is known, too
};
constexpr std::string_view kGiveLora = "Give it with --lora, beside a --model";
constexpr std::string_view kGiveFolder = "Give the folder it lies in with --embeddings";
constexpr Other kOthers[] = {
    {"lora_up.weight", "a LoRA", kGiveLora},
    {"lora.up.weight", "a LoRA", kGiveLora},
    {"_lora1.up.weight", "a LoRA", kGiveLora},
    {"lora_A.weight", "a LoRA", kGiveLora},
    {"lora_unet_", "a LoRA", kGiveLora},
    {"lycoris_", "a LoRA", kGiveLora},
    {"hada_w1_a", "a LoHa", kGiveLora},
    {"lokr_w1", "a LoKr", kGiveLora},
    {".oft_", "an OFT", kGiveLora},
    {".in_sum2", "an importance matrix", "Give it to 'atelier quantize --imatrix'"},
    {"zero_convs.0.0.weight", "a ControlNet", {}, true},
    {"controlnet_cond_embedding.", "a ControlNet", {}, true},
    {"controlnet_blocks.0.", "a ControlNet", {}, true},
    {"distilled_guidance_layer.", "a Chroma model", {}, true},
    {"individual_token_refiner.", "a Hunyuan video model", {}, true},
    {"double_blocks.0.img_attn.", "a Flux-like model"},
    {"single_transformer_blocks.0.", "a Flux-like model"},
    {"joint_blocks.0.context_block.", "a Stable Diffusion 3 model"},
    {"head.modulation", "a Wan video model"},
    {"txt_norm.weight", "a Qwen-Image model"},
    {"time_stack.", "a video UNet"},
    {"adaln_single.", "a PixArt-like model"},
    {"^decoder.conv_in.weight", "an autoencoder (VAE) alone", "Give it with --vae"},
    {"encoder.block.0.layer.0.SelfAttention.", "a T5 text encoder"},
    {"text_model.encoder.layers.0.", "a text encoder alone"},
    {"transformer.resblocks.0.", "a text encoder alone"},
    {"model.layers.0.self_attn.", "a language model"},
    {"=latent_tensor", "a latent", "Give it with --init-latent"},
    {"string_to_param", "a textual inversion", kGiveFolder},
    {"emb_params", "a textual inversion", kGiveFolder},
    {"=clip_l", "a textual inversion", kGiveFolder},
    {"=clip_g", "a textual inversion", kGiveFolder},
    {"=tensor", "a lone tensor"},
};

bool has(std::string_view name, std::string_view piece) {
  if (piece.starts_with('=')) return name == piece.substr(1);
  return piece.starts_with('^') ? name.starts_with(piece.substr(1)) : name.find(piece) != name.npos;
}

const Other* other_of(const TensorTable& tensors) {
  for (const Other& other : kOthers)
    for (const auto& [name, info] : tensors)
      if (has(name, other.piece)) return &other;
  return nullptr;
}

std::string looks_like(const TensorTable& tensors) {
  if (const Other* other = other_of(tensors)) return fmt::format("what looks like {}", other->what);
  if (tensors.empty()) return "no tensors";
  const std::string& first = tensors.begin()->first;
  if (tensors.size() == 1) return fmt::format("one tensor, named '{}'", first);
  return fmt::format("{} tensors, the first named '{}'", tensors.size(), first);
}

// A denoiser's names are there, but no family has its shapes: say which and how far.
std::string nearest(const std::shared_ptr<const TensorSource>& source) {
  const Other* other = other_of(source->tensors());
  if (other && other->relative) return fmt::format("what looks like {}", other->what);
  for (const ModelDef* def : all_models())
    if (const auto place = find_place(*source, def->prefixes, def->denoiser.layouts))
      return fmt::format(
          "a {} in the {} layout under '{}' whose parts are those of no known family",
          def->denoiser.name, place->layout->name, place->prefix);
  return looks_like(source->tensors());
}

std::string wanted() {
  std::set<std::string_view> titles;
  for (const ModelDef* def : all_models()) titles.insert(def->title);
  return fmt::format("a diffusion model of {}", fmt::join(titles, ", "));
}

}  // namespace

std::optional<Accessory> accessory_in(const TensorSource& source) {
  const Other* other = other_of(source.tensors());
  if (!other || other->hint.empty()) return {};
  return Accessory{other->what, other->hint, other->hint == kGiveLora};
}

Detected detect_model(const std::shared_ptr<const TensorSource>& source) {
  for (const ModelDef* def : all_models())
    if (auto place = recognise(def->denoiser, source, def->prefixes)) return {def, *place};
  const Other* other = other_of(source->tensors());
  const bool known = other && !other->hint.empty();
  throw Error(ErrorCode::unsupported, {.subject = source->label(),
                                       .expected = known ? "a diffusion model" : wanted(),
                                       .found = nearest(source),
                                       .hint = std::string(known ? other->hint : "")});
}

}  // namespace atelier
