// The families of Stable Diffusion: how their files are told apart, named, and what surrounds them.
// Source: the releases' own names; diffusers src/diffusers/models/unets/unet_2d_condition.py for
// its layout; deciding shapes as in ComfyUI's model detection.
#include <ATen/ATen.h>

#include "base/error.h"
#include "models/config_reading.h"
#include "models/unet.h"

namespace atelier {
namespace {

// SD 2.x comes in two kinds that differ in no shape; their authors tell them by this spread.
bool sd2_predicts_v(const Scope& w, const UNetConfig& c) {
  const auto last = static_cast<int64_t>(c.output.size()) - 1;
  const Scope norm = w / "output_blocks" / last / "1" / "transformer_blocks" / "0" / "norm1";
  const Weight bias = norm.weight("bias", {c.output.back().out}).as(fp32_form());
  return bias && bias.pin()->std().item<double>() > 0.09;
}

std::unique_ptr<DiffusionModel> build_sd1(const Scope& w) {
  return make_unet(read_unet_config(w), w);
}

std::unique_ptr<DiffusionModel> build_sd2(const Scope& w) {
  UNetConfig c = read_unet_config(w);
  c.fp32_scores = true;
  if (sd2_predicts_v(w, c)) {
    c.traits.output = OutputKind::v;
    c.traits.native_size = 768;
  }
  return make_unet(std::move(c), w);
}

// Fine-tuned XL files say in empty tensors at top level how they were trained.
std::unique_ptr<DiffusionModel> build_sdxl(const Scope& w) {
  UNetConfig c = read_unet_config(w);
  c.traits.native_size = 1024;
  const TensorSource& file = *w.keys().source();
  for (const std::string_view key : {"edm_mean", "edm_vpred.sigma_max"})
    if (file.tensors().contains(key))
      throw Error(ErrorCode::unsupported,
                  {.subject = file.label(), .expected = "EDM noise levels are not supported"});
  if (file.tensors().contains("v_pred")) c.traits.output = OutputKind::v;
  c.traits.zero_terminal_snr = file.tensors().contains("ztsnr");
  return make_unet(std::move(c), w);
}

int64_t vector_width(const Scope& w) {
  return w.has("label_emb.0.0.weight") ? checked_shape(w, "label_emb.0.0.weight", 2)[1] : 0;
}
bool is_unet(const Scope& w) {
  return w.has("out.2.weight") && w.has("middle_block.1.transformer_blocks.0.attn2.to_k.weight");
}
bool has_matrices(const Scope& w) { return w.shape("middle_block.1.proj_in.weight").size() == 2; }
// The vector is the prompt's pooled state and some sizes in 256 sinusoids each: six for XL, five
// for the refiner, whose pooled state is as wide as its prompt.
bool has_refiner_vector(const Scope& w) {
  const Shape key = checked_shape(w, "middle_block.1.transformer_blocks.0.attn2.to_k.weight", 2);
  return vector_width(w) == key[1] + 5 * 256;
}
bool fits_sd1(const Scope& w) { return is_unet(w) && !vector_width(w) && !has_matrices(w); }
bool fits_sd2(const Scope& w) { return is_unet(w) && !vector_width(w) && has_matrices(w); }
bool fits_sdxl(const Scope& w) {
  return is_unet(w) && vector_width(w) > 6 * 256 && !has_refiner_vector(w);
}
bool fits_refiner(const Scope& w) { return is_unet(w) && has_refiner_vector(w); }

constexpr KeyRule kDiffusers[] = {
    {"time_embed.0", {"time_embedding.linear_1"}},
    {"time_embed.2", {"time_embedding.linear_2"}},
    {"label_emb.0.0", {"add_embedding.linear_1"}},
    {"label_emb.0.2", {"add_embedding.linear_2"}},
    {"input_blocks.0.0", {"conv_in"}},
    {"input_blocks.{Ra+b+1}.0.in_layers.0", {"down_blocks.{a}.resnets.{b}.norm1"}},
    {"input_blocks.{Ra+b+1}.0.in_layers.2", {"down_blocks.{a}.resnets.{b}.conv1"}},
    {"input_blocks.{Ra+b+1}.0.emb_layers.1", {"down_blocks.{a}.resnets.{b}.time_emb_proj"}},
    {"input_blocks.{Ra+b+1}.0.out_layers.0", {"down_blocks.{a}.resnets.{b}.norm2"}},
    {"input_blocks.{Ra+b+1}.0.out_layers.3", {"down_blocks.{a}.resnets.{b}.conv2"}},
    {"input_blocks.{Ra+b+1}.0.skip_connection", {"down_blocks.{a}.resnets.{b}.conv_shortcut"}},
    {"input_blocks.{Ra+b+1}.1.*", {"down_blocks.{a}.attentions.{b}.*"}},
    {"input_blocks.{Ra+R}.0.op", {"down_blocks.{a}.downsamplers.0.conv"}},
    {"middle_block.{2b}.in_layers.0", {"mid_block.resnets.{b}.norm1"}},
    {"middle_block.{2b}.in_layers.2", {"mid_block.resnets.{b}.conv1"}},
    {"middle_block.{2b}.emb_layers.1", {"mid_block.resnets.{b}.time_emb_proj"}},
    {"middle_block.{2b}.out_layers.0", {"mid_block.resnets.{b}.norm2"}},
    {"middle_block.{2b}.out_layers.3", {"mid_block.resnets.{b}.conv2"}},
    {"middle_block.1.*", {"mid_block.attentions.0.*"}},
    {"output_blocks.{Ra+b}.0.in_layers.0", {"up_blocks.{a}.resnets.{b}.norm1"}},
    {"output_blocks.{Ra+b}.0.in_layers.2", {"up_blocks.{a}.resnets.{b}.conv1"}},
    {"output_blocks.{Ra+b}.0.emb_layers.1", {"up_blocks.{a}.resnets.{b}.time_emb_proj"}},
    {"output_blocks.{Ra+b}.0.out_layers.0", {"up_blocks.{a}.resnets.{b}.norm2"}},
    {"output_blocks.{Ra+b}.0.out_layers.3", {"up_blocks.{a}.resnets.{b}.conv2"}},
    {"output_blocks.{Ra+b}.0.skip_connection", {"up_blocks.{a}.resnets.{b}.conv_shortcut"}},
    {"output_blocks.{Ra+b}.1.*", {"up_blocks.{a}.attentions.{b}.*"}},
    {.canonical = "output_blocks.{Ra+R-1}.2.conv",
     .sources = {"up_blocks.{a}.upsamplers.0.conv"},
     .when = "up_blocks.{a}.attentions.0.norm.weight"},
    {.canonical = "output_blocks.{Ra+R-1}.1.conv",
     .sources = {"up_blocks.{a}.upsamplers.0.conv"},
     .unless = "up_blocks.{a}.attentions.0.norm.weight"},
    {"out.0", {"conv_norm_out"}},
    {"out.2", {"conv_out"}},
};
constexpr KeyLayout kLayouts[] = {
    {.name = "original", .signature = "input_blocks.0.0.weight"},
    {.name = "diffusers",
     .signature = "up_blocks.0.resnets.0.norm1.weight",
     .rules = kDiffusers,
     .stride = "down_blocks.0.resnets.{n}.norm1.weight"},
};

constexpr std::string_view kPrefixes[] = {"model.diffusion_model.", "unet.", "diffusion_model.",
                                          ""};
constexpr std::string_view kVae[] = {"first_stage_model.", "vae."};
constexpr std::string_view kSd1Text[] = {"cond_stage_model.transformer.", "text_encoder."};
constexpr std::string_view kSd2Text[] = {"cond_stage_model.model.", "text_encoder."};
constexpr std::string_view kXlText1[] = {"conditioner.embedders.0.transformer.", "text_encoder."};
constexpr std::string_view kXlText2[] = {"conditioner.embedders.1.model.", "text_encoder_2."};
constexpr std::string_view kRefinerText[] = {"conditioner.embedders.0.model.", "text_encoder_2."};
constexpr TextPart kSd1Parts[] = {{&clip_l_encoder, kSd1Text}};
constexpr TextPart kSd2Parts[] = {{&clip_h_encoder, kSd2Text}};
constexpr TextPart kXlParts[] = {{&clip_l_encoder, kXlText1}, {&clip_g_encoder, kXlText2}};
constexpr TextPart kRefinerParts[] = {{&clip_g_encoder, kRefinerText}};
constexpr at::ScalarType kDtypes[] = {at::kHalf, at::kBFloat16, at::kFloat};
// What training leaves in a release: averaged copies, tables of noise levels, marks.
constexpr std::string_view kIgnore[] = {"model_ema.*",     "alphas_cumprod*", "betas",
                                        "sqrt_*",          "log_one_minus_*", "posterior_*",
                                        "logvar",          "lvlb_weights",    "scale_factor",
                                        "denoiser.sigmas", "v_pred",          "ztsnr"};
constexpr LatentFormat kSdLatent{.scale = 0.18215, .taesd = "taesd"};
constexpr LatentFormat kXlLatent{.scale = 0.13025, .taesd = "taesdxl"};

}  // namespace

extern const ModelDef sd1_model, sd2_model, sdxl_model, sdxl_refiner_model;

const ModelDef sd1_model{.name = "sd1",
                         .title = "Stable Diffusion 1.x",
                         .denoiser = {"unet", kLayouts, {}, fits_sd1, build_sd1},
                         .prefixes = kPrefixes,
                         .vae_prefixes = kVae,
                         .text = kSd1Parts,
                         .latent = kSdLatent,
                         .dtypes = kDtypes,
                         .ignore = kIgnore};
const ModelDef sd2_model{.name = "sd2",
                         .title = "Stable Diffusion 2.x",
                         .denoiser = {"unet", kLayouts, {}, fits_sd2, build_sd2},
                         .prefixes = kPrefixes,
                         .vae_prefixes = kVae,
                         .text = kSd2Parts,
                         .latent = kSdLatent,
                         .clip_skip = -2,
                         .dtypes = kDtypes,
                         .ignore = kIgnore};
const ModelDef sdxl_model{.name = "sdxl",
                          .title = "Stable Diffusion XL",
                          .denoiser = {"unet", kLayouts, {}, fits_sdxl, build_sdxl},
                          .prefixes = kPrefixes,
                          .vae_prefixes = kVae,
                          .text = kXlParts,
                          .latent = kXlLatent,
                          .vector = VectorKind::sdxl,
                          .clip_skip = -2,
                          .clip_final_norm = false,
                          .dtypes = kDtypes,
                          .ignore = kIgnore};
const ModelDef sdxl_refiner_model{.name = "sdxl_refiner",
                                  .title = "Stable Diffusion XL refiner",
                                  .denoiser = {"unet", kLayouts, {}, fits_refiner, build_sdxl},
                                  .prefixes = kPrefixes,
                                  .vae_prefixes = kVae,
                                  .text = kRefinerParts,
                                  .latent = kXlLatent,
                                  .vector = VectorKind::sdxl_refiner,
                                  .clip_skip = -2,
                                  .clip_final_norm = false,
                                  .dtypes = kDtypes,
                                  .ignore = kIgnore};

}  // namespace atelier
