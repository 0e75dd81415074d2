// Prefixes and spellings as rows. Longer than most, as these tables are.
// Source: kohya-ss/sd-scripts networks/lora*.py, Nerogar/OneTrainer, huggingface/diffusers
//   src/diffusers/loaders/lora_conversion_utils.py, XLabs-AI/x-flux src/flux/xflux_pipeline.py.
#include "lora/module_names.h"

#include <algorithm>
#include <array>

namespace atelier {
namespace {

constexpr std::string_view kFirst[] = {"clip_l", "clip_h"};
constexpr std::string_view kSecond[] = {"clip_g", "t5xxl"};
constexpr std::string_view kL[] = {"clip_l"}, kH[] = {"clip_h"}, kG[] = {"clip_g"},
                           kT5[] = {"t5xxl"};
constexpr std::string_view kAny[] = {"clip_l", "clip_h", "clip_g", "t5xxl"};

struct Prefix {
  std::string_view text;
  std::span<const std::string_view> encoders = {};
  bool underscored = false;
  std::string_view layout = {};
};
constexpr Prefix kPrefixes[] = {
    {"lora_unet_", {}, true},
    {"lora_transformer_", {}, true},
    {"lycoris_", {}, true},
    {"oft_unet_", {}, true},
    {"boft_unet_", {}, true},
    {"lora_te1_", kFirst, true},
    {"lora_te2_", kSecond, true},
    {"lora_te3_", kT5, true},
    {"lora_te_", kAny, true},
    {"oft_te_", kAny, true},
    {"text_encoder_3.", kT5},
    {"text_encoder_2.", kSecond},
    {"text_encoder.", kAny},
    {"cond_stage_model.transformer.", kL},
    {"cond_stage_model.model.", kH, false, "open_clip"},
    {"conditioner.embedders.0.transformer.", kL},
    {"conditioner.embedders.0.model.", kG, false, "open_clip"},
    {"conditioner.embedders.1.model.", kG, false, "open_clip"},
    {"text_encoders.clip_l.transformer.", kL},
    {"text_encoders.clip_h.transformer.", kH},
    {"text_encoders.clip_g.transformer.", kG},
    {"text_encoders.t5xxl.transformer.", kT5},
    {"clip_l.transformer.", kL},
    {"clip_h.transformer.", kH},
    {"clip_g.transformer.", kG},
    {"t5xxl.transformer.", kT5},
    {"model.diffusion_model."},
    {"diffusion_model."},
    {"transformer."},
    {"unet."},
    {""},
    {"", kAny},
};

/// PEFT's wrapper, which may stand before any of these or follow it.
constexpr std::string_view kWrappers[] = {"base_model.model.", "base_model."};

/// A piece of an older name and what stands for it today: attention processors of early diffusers
/// and those of XLabs for FLUX.
struct Spelling {
  std::string_view old, now;
  bool leading_rows = false;
};
constexpr Spelling kSpellings[] = {
    {".processor.to_q_lora", ".to_q"},
    {".processor.to_k_lora", ".to_k"},
    {".processor.to_v_lora", ".to_v"},
    {".processor.to_out_lora", ".to_out.0"},
    {".self_attn.to_q_lora", ".self_attn.q_proj"},
    {".self_attn.to_k_lora", ".self_attn.k_proj"},
    {".self_attn.to_v_lora", ".self_attn.v_proj"},
    {".self_attn.to_out_lora", ".self_attn.out_proj"},
    {".processor.qkv_lora1", ".img_attn.qkv"},
    {".processor.qkv_lora2", ".txt_attn.qkv"},
    {".processor.proj_lora1", ".img_attn.proj"},
    {".processor.proj_lora2", ".txt_attn.proj"},
    {".processor.qkv_lora", ".linear1", true},
    {".linear1_qkv", ".linear1", true},
    {".processor.proj_lora", ".linear2"},
    // Kept below it by early PEFT saves of attention layers.
    {".attn.to_out", ".attn.to_out.0"},
    {".attn1.to_out", ".attn1.to_out.0"},
    {".attn2.to_out", ".attn2.to_out.0"},
};

std::string_view unwrapped(std::string_view name) {
  for (const std::string_view wrapper : kWrappers)
    if (name.starts_with(wrapper)) return name.substr(wrapper.size());
  return name;
}

// `own` is `name` without a wrapper, and begins with `prefix`.
NameReading reading_of(std::string_view name, std::string_view own, const Prefix& prefix) {
  const std::string_view rest = unwrapped(own.substr(prefix.text.size()));
  NameReading reading{prefix.encoders, std::string(rest), name.substr(0, name.size() - rest.size()),
                      prefix.underscored, prefix.layout};
  const auto* spelling =
      std::ranges::find_if(kSpellings, [&](const auto& s) { return name.ends_with(s.old); });
  if (prefix.underscored || spelling == std::end(kSpellings)) return reading;
  reading.name.replace(reading.name.size() - spelling->old.size(), spelling->old.size(),
                       spelling->now);
  reading.leading_rows = spelling->leading_rows;
  return reading;
}

}  // namespace

bool read_module_name(std::string_view name, const std::function<bool(const NameReading&)>& take) {
  const std::string_view own = unwrapped(name);
  return std::ranges::any_of(kPrefixes, [&](const Prefix& prefix) {
    return own.starts_with(prefix.text) && take(reading_of(name, own, prefix));
  });
}

bool names_text_encoder(std::string_view name) {
  const std::string_view own = unwrapped(name);
  const auto* prefix =
      std::ranges::find_if(kPrefixes, [&](const auto& p) { return own.starts_with(p.text); });
  return !prefix->encoders.empty();
}

}  // namespace atelier
