// The families of Stable Diffusion: how their files are told apart, named, and what surrounds them.
// Source: the releases' own names; diffusers src/diffusers/models/unets/unet_2d_condition.py for
// its layout; deciding shapes as in ComfyUI's model detection.
#include <ATen/ATen.h>

#include <optional>

#include "base/error.h"
#include "base/json.h"
#include "models/unet.h"

namespace atelier {
namespace {

// SD 2.x comes in two kinds that differ in no shape; their authors tell them by this spread.
bool sd2_predicts_v(const Scope& w, const UNetConfig& c) {
  const auto last = static_cast<int64_t>(c.output.size()) - 1;
  const Scope norm = w / "output_blocks" / last / "1" / "transformer_blocks" / "0" / "norm1";
  if (!norm.has("bias")) return false;
  const Weight bias = norm.weight("bias", {c.output.back().out}).as(fp32_form());
  return bias && bias.pin()->std().item<double>() > 0.09;
}

// Fine-tuned XL files say in empty tensors at top level how they were trained.
void read_marks(ModelTraits& traits, const TensorSource& file) {
  for (const std::string_view key : {"edm_mean", "edm_vpred.sigma_max"})
    if (file.tensors().contains(key))
      throw Error(ErrorCode::unsupported,
                  {.subject = file.label(), .expected = "EDM noise levels are not supported"});
  if (file.tensors().contains("v_pred")) traits.output = OutputKind::v;
  traits.zero_terminal_snr = file.tensors().contains("ztsnr");
}

// A diffusers folder says the same, for any family, in its scheduler's config.
void read_scheduler(ModelTraits& traits, const TensorSource& file) {
  constexpr std::string_view kConfig = "scheduler/scheduler_config.json";
  const auto found = file.metadata().find(kConfig);
  if (found == file.metadata().end()) return;
  const std::string subject = file.label() + "/" + std::string(kConfig);
  const Json config = parse_json(found->second, subject);
  if (!config.is_object()) return;
  const Json kind = config.value("prediction_type", Json("epsilon"));
  if (kind != "epsilon" && kind != "v_prediction")
    throw Error(ErrorCode::unsupported, {.subject = subject,
                                         .expected = "prediction_type epsilon or v_prediction",
                                         .found = kind.dump()});
  traits.output = kind == "epsilon" ? OutputKind::eps : OutputKind::v;
  traits.zero_terminal_snr = config.value("rescale_betas_zero_snr", Json(false)) == true;
}

std::unique_ptr<DiffusionModel> finish(UNetConfig c, const Scope& w) {
  read_scheduler(c.traits, *w.keys().source());
  return make_unet(std::move(c), w);
}

std::unique_ptr<DiffusionModel> build_sd1(const Scope& w) { return finish(read_unet_config(w), w); }

std::unique_ptr<DiffusionModel> build_sd2(const Scope& w) {
  UNetConfig c = read_unet_config(w);
  c.fp32_scores = true;
  if (sd2_predicts_v(w, c)) {
    c.traits.output = OutputKind::v;
    c.traits.native_size = 768;
  }
  return finish(std::move(c), w);
}

std::unique_ptr<DiffusionModel> build_sdxl(const Scope& w) {
  UNetConfig c = read_unet_config(w);
  c.traits.native_size = 1024;
  read_marks(c.traits, *w.keys().source());
  return finish(std::move(c), w);
}

// ---- telling the families apart

// The vector is the prompt's pooled state and some sizes in 256 sinusoids each: six for XL, five
// for the refiner, whose pooled state is as wide as its prompt.
constexpr int64_t kXlSizes = 6 * 256, kRefinerSizes = 5 * 256;

struct Deciding {
  bool unet = false, wide_heads = false;
  int64_t vector = 0, context = 0;
  bool refiner() const { return vector == context + kRefinerSizes; }
};

Deciding deciding(const Scope& w) {
  const std::optional<Scope> transformer = find_transformer(w);
  if (!transformer || !w.has("out.2.weight")) return {};
  return {.unet = true,
          .wide_heads = has_wide_heads(w, *transformer),
          .vector = read_vector_width(w),
          .context = read_context_width(*transformer)};
}

bool fits_sd1(const Scope& w) {
  const Deciding d = deciding(w);
  return d.unet && !d.vector && !d.wide_heads;
}
bool fits_sd2(const Scope& w) {
  const Deciding d = deciding(w);
  return d.unet && !d.vector && d.wide_heads;
}
bool fits_sdxl(const Scope& w) {
  const Deciding d = deciding(w);
  return d.unet && d.vector > kXlSizes && !d.refiner();
}
bool fits_refiner(const Scope& w) {
  const Deciding d = deciding(w);
  return d.unet && d.vector && d.refiner();
}

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

constexpr std::string_view kPrefixes[] = {
    "model.diffusion_model.", "unet.", "diffusion_model.", "model.model.", "net.", "model.", ""};
constexpr std::string_view kVae[] = {"first_stage_model.", "vae."};
constexpr std::string_view kSd1Text[] = {"cond_stage_model.transformer.", "text_encoder."};
// As in the releases, in diffusers folders, and as stable-diffusion.cpp writes them.
constexpr std::string_view kSd2Text[] = {"cond_stage_model.model.", "text_encoder.",
                                         "cond_stage_model.transformer."};
constexpr std::string_view kXlText1[] = {"conditioner.embedders.0.transformer.", "text_encoder.",
                                         "cond_stage_model.transformer."};
constexpr std::string_view kXlText2[] = {"conditioner.embedders.1.model.", "text_encoder_2.",
                                         "cond_stage_model.1.transformer."};
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

// Times, sizes, the first and the last convolution stay floats.
constexpr QuantRule kQuantisation[] = {
    {"^time_embed.", QuantRole::keep},
    {"^label_emb.", QuantRole::keep},
    {"^class_embedding.", QuantRole::keep},
    {"^add_embedding.", QuantRole::keep},
    {"^input_blocks.0.0.", QuantRole::keep},
    {"emb_layers.", QuantRole::keep},
    {"^out.2.", QuantRole::keep},
    {".to_v.", QuantRole::value},
    {".ff.net.2.", QuantRole::down},
};

}  // namespace

extern const ModelDef sd1_model, sd2_model, sdxl_model, sdxl_refiner_model;

const ModelDef sd1_model{
    .name = "sd1",
    .title = "Stable Diffusion 1.x",
    .denoiser = {"unet", kLayouts, {}, fits_sd1, build_sd1, kQuantisation, "sd1"},
    .prefixes = kPrefixes,
    .vae_prefixes = kVae,
    .text = kSd1Parts,
    .latent = kSdLatent,
    .dtypes = kDtypes,
    .ignore = kIgnore};
const ModelDef sd2_model{
    .name = "sd2",
    .title = "Stable Diffusion 2.x",
    .denoiser = {"unet", kLayouts, {}, fits_sd2, build_sd2, kQuantisation, "sd1"},
    .prefixes = kPrefixes,
    .vae_prefixes = kVae,
    .text = kSd2Parts,
    .latent = kSdLatent,
    .clip_skip = -2,
    .dtypes = kDtypes,
    .ignore = kIgnore};
const ModelDef sdxl_model{
    .name = "sdxl",
    .title = "Stable Diffusion XL",
    .denoiser = {"unet", kLayouts, {}, fits_sdxl, build_sdxl, kQuantisation, "sdxl"},
    .prefixes = kPrefixes,
    .vae_prefixes = kVae,
    .text = kXlParts,
    .latent = kXlLatent,
    .vector = VectorKind::sdxl,
    .clip_skip = -2,
    .clip_final_norm = false,
    .dtypes = kDtypes,
    .ignore = kIgnore};
const ModelDef sdxl_refiner_model{
    .name = "sdxl_refiner",
    .title = "Stable Diffusion XL refiner",
    .denoiser = {"unet", kLayouts, {}, fits_refiner, build_sdxl, kQuantisation, "sdxl"},
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
