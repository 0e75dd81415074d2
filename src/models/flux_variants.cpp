// The variants of FLUX.1: how their files are told apart, named, and what surrounds them.
// Source: the releases' own names; diffusers src/diffusers/models/transformers/transformer_flux.py
// and its conversion script for that layout; latents, noise levels and deciding shapes as in
// ComfyUI's model detection. Kontext has dev's names and shapes.
#include <ATen/core/Tensor.h>

#include "models/flux.h"

namespace atelier {
namespace {

// Inputs of img_in, 2x2 cells of: a latent; it and one of edges or depth; it, the masked picture's
// latent, and the mask with the 8x8 pixels of a cell as channels.
constexpr int64_t kPlainInputs = 4 * 16, kControlInputs = 4 * (16 + 16),
                  kFillInputs = 4 * (16 + 16 + 64);

int64_t image_inputs(const Scope& w) {
  for (const std::string_view needed :
       {"img_in.weight", "vector_in.in_layer.weight", "double_blocks.0.img_mod.lin.weight",
        "final_layer.linear.weight"})
    if (!w.has(needed)) return 0;
  const Shape shape = w.shape("img_in.weight");
  return shape.size() == 2 ? shape[1] : 0;
}

bool guided(const Scope& w) { return w.has("guidance_in.in_layer.weight"); }

bool fits_dev(const Scope& w) { return image_inputs(w) == kPlainInputs && guided(w); }
bool fits_schnell(const Scope& w) { return image_inputs(w) == kPlainInputs && !guided(w); }
bool fits_control(const Scope& w) { return image_inputs(w) == kControlInputs; }
bool fits_fill(const Scope& w) { return image_inputs(w) == kFillInputs; }

constexpr KeyRule kDiffusers[] = {
    {"img_in", {"x_embedder"}},
    {"txt_in", {"context_embedder"}},
    {"time_in.in_layer", {"time_text_embed.timestep_embedder.linear_1"}},
    {"time_in.out_layer", {"time_text_embed.timestep_embedder.linear_2"}},
    {"vector_in.in_layer", {"time_text_embed.text_embedder.linear_1"}},
    {"vector_in.out_layer", {"time_text_embed.text_embedder.linear_2"}},
    {"guidance_in.in_layer", {"time_text_embed.guidance_embedder.linear_1"}},
    {"guidance_in.out_layer", {"time_text_embed.guidance_embedder.linear_2"}},
    {"double_blocks.{a}.img_mod.lin", {"transformer_blocks.{a}.norm1.linear"}},
    {"double_blocks.{a}.txt_mod.lin", {"transformer_blocks.{a}.norm1_context.linear"}},
    {"double_blocks.{a}.img_attn.qkv",
     {"transformer_blocks.{a}.attn.to_q", "transformer_blocks.{a}.attn.to_k",
      "transformer_blocks.{a}.attn.to_v"}},
    {"double_blocks.{a}.txt_attn.qkv",
     {"transformer_blocks.{a}.attn.add_q_proj", "transformer_blocks.{a}.attn.add_k_proj",
      "transformer_blocks.{a}.attn.add_v_proj"}},
    {"double_blocks.{a}.img_attn.norm.query_norm.scale",
     {"transformer_blocks.{a}.attn.norm_q.weight"}},
    {"double_blocks.{a}.img_attn.norm.key_norm.scale",
     {"transformer_blocks.{a}.attn.norm_k.weight"}},
    {"double_blocks.{a}.txt_attn.norm.query_norm.scale",
     {"transformer_blocks.{a}.attn.norm_added_q.weight"}},
    {"double_blocks.{a}.txt_attn.norm.key_norm.scale",
     {"transformer_blocks.{a}.attn.norm_added_k.weight"}},
    {"double_blocks.{a}.img_attn.proj", {"transformer_blocks.{a}.attn.to_out.0"}},
    {"double_blocks.{a}.txt_attn.proj", {"transformer_blocks.{a}.attn.to_add_out"}},
    {"double_blocks.{a}.img_mlp.0", {"transformer_blocks.{a}.ff.net.0.proj"}},
    {"double_blocks.{a}.img_mlp.2", {"transformer_blocks.{a}.ff.net.2"}},
    {"double_blocks.{a}.txt_mlp.0", {"transformer_blocks.{a}.ff_context.net.0.proj"}},
    {"double_blocks.{a}.txt_mlp.2", {"transformer_blocks.{a}.ff_context.net.2"}},
    {"single_blocks.{a}.modulation.lin", {"single_transformer_blocks.{a}.norm.linear"}},
    {"single_blocks.{a}.linear1",
     {"single_transformer_blocks.{a}.attn.to_q", "single_transformer_blocks.{a}.attn.to_k",
      "single_transformer_blocks.{a}.attn.to_v", "single_transformer_blocks.{a}.proj_mlp"}},
    {"single_blocks.{a}.norm.query_norm.scale",
     {"single_transformer_blocks.{a}.attn.norm_q.weight"}},
    {"single_blocks.{a}.norm.key_norm.scale", {"single_transformer_blocks.{a}.attn.norm_k.weight"}},
    {"single_blocks.{a}.linear2", {"single_transformer_blocks.{a}.proj_out"}},
    // Scale before shift, where the original has shift before scale.
    {"final_layer.adaLN_modulation.1", {"norm_out.linear"}, {.halves_exchanged = true}},
    {"final_layer.linear", {"proj_out"}},
};
// The original's names but for the norms of queries and keys.
constexpr KeyRule kNormWeights[] = {
    {"double_blocks.{a}.img_attn.norm.query_norm.scale",
     {"double_blocks.{a}.img_attn.norm.query_norm.weight"}},
    {"double_blocks.{a}.img_attn.norm.key_norm.scale",
     {"double_blocks.{a}.img_attn.norm.key_norm.weight"}},
    {"double_blocks.{a}.txt_attn.norm.query_norm.scale",
     {"double_blocks.{a}.txt_attn.norm.query_norm.weight"}},
    {"double_blocks.{a}.txt_attn.norm.key_norm.scale",
     {"double_blocks.{a}.txt_attn.norm.key_norm.weight"}},
    {"single_blocks.{a}.norm.query_norm.scale", {"single_blocks.{a}.norm.query_norm.weight"}},
    {"single_blocks.{a}.norm.key_norm.scale", {"single_blocks.{a}.norm.key_norm.weight"}},
};
constexpr KeyLayout kLayouts[] = {
    {.name = "original", .signature = "double_blocks.0.img_attn.norm.key_norm.scale"},
    {.name = "original with norms' weights",
     .signature = "double_blocks.0.img_attn.norm.key_norm.weight",
     .rules = kNormWeights},
    {.name = "diffusers",
     .signature = "single_transformer_blocks.0.attn.norm_k.weight",
     .rules = kDiffusers},
};

constexpr std::string_view kPrefixes[] = {"model.diffusion_model.",
                                          "transformer.",
                                          "diffusion_model.",
                                          "model.model.",
                                          "net.",
                                          "model.",
                                          ""};
constexpr std::string_view kVae[] = {"vae.", "first_stage_model."};
constexpr std::string_view kClip[] = {"text_encoders.clip_l.transformer.", "text_encoders.clip_l.",
                                      "text_encoder."};
constexpr std::string_view kT5[] = {"text_encoders.t5xxl.transformer.", "text_encoders.t5xxl.",
                                    "text_encoder_2."};
constexpr TextPart kText[] = {{&clip_l_encoder, kClip, TextUse::pooled},
                              {&t5xxl_encoder, kT5, TextUse::states, true}};
constexpr LatentFormat kLatent{.channels = 16, .scale = 0.3611, .shift = 0.1159, .taesd = "taef1"};
constexpr at::ScalarType kDtypes[] = {at::kBFloat16, at::kHalf, at::kFloat};
constexpr at::ScalarType kFillDtypes[] = {at::kBFloat16, at::kFloat};
constexpr std::string_view kIgnore[] = {"text_encoders.clip_l.logit_scale",
                                        "text_encoders.t5xxl.logit_scale"};

// Embeddings and the last layer stay floats. The single blocks' linear2 is a way out of attention
// and feed-forward together, and a seventh of the model: plain, as in others' files.
constexpr QuantRule kQuantisation[] = {
    {"^txt_in.", QuantRole::keep},      {"^img_in.", QuantRole::keep},
    {"^time_in.", QuantRole::keep},     {"^vector_in.", QuantRole::keep},
    {"^guidance_in.", QuantRole::keep}, {"^final_layer.", QuantRole::keep},
    {"attn.qkv.", QuantRole::fused},    {"_mlp.2.", QuantRole::down},
};

// What all variants share.
constexpr ModelDef variant(std::string_view name, std::string_view title,
                           bool (*fits)(const Scope&)) {
  return {.name = name,
          .title = title,
          .denoiser = {"transformer", kLayouts, {}, fits, make_flux, kQuantisation, "flux"},
          .prefixes = kPrefixes,
          .vae_prefixes = kVae,
          .text = kText,
          .latent = kLatent,
          .noise_levels = NoiseLevels::flux,
          .noise_shift = 1.15,
          .vector = VectorKind::pooled,
          .defaults = {.steps = 20, .cfg = 1, .sampler = "euler", .scheduler = "simple"},
          .dtypes = kDtypes,
          .ignore = kIgnore};
}

constexpr ModelDef schnell() {
  ModelDef def = variant("flux_schnell", "FLUX.1 schnell", fits_schnell);
  def.noise_levels = NoiseLevels::flow;
  def.noise_shift = 1;
  def.timestep_scale = 1;
  def.defaults.steps = 4;
  return def;
}

constexpr ModelDef fill() {
  ModelDef def = variant("flux_fill", "FLUX.1 Fill", fits_fill);
  def.dtypes = kFillDtypes;
  def.defaults.guidance = 30;
  return def;
}

// Canny was made for a scale of 30, Depth for one of 10; their files are alike.
constexpr ModelDef control() {
  ModelDef def = variant("flux_control", "FLUX.1 Canny or Depth", fits_control);
  def.defaults.guidance = 30;
  return def;
}

}  // namespace

extern const ModelDef flux_dev_model, flux_schnell_model, flux_control_model, flux_fill_model;

constinit const ModelDef flux_dev_model = variant("flux_dev", "FLUX.1 dev", fits_dev);
constinit const ModelDef flux_schnell_model = schnell();
constinit const ModelDef flux_control_model = control();
constinit const ModelDef flux_fill_model = fill();

}  // namespace atelier
