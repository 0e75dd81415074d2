// Finds the part of a file to be quantised and the role of each tensor.
#include "models/quant_rules.h"

#include "models/model.h"

namespace atelier {
namespace {

constexpr QuantRule kUsual[] = {
    {"embed", QuantRole::keep},       {"emb.", QuantRole::keep},
    {"time_", QuantRole::keep},       {"norm", QuantRole::keep},
    {"final_layer", QuantRole::keep}, {"proj_out", QuantRole::keep},
    {"img_in", QuantRole::keep},      {"txt_in", QuantRole::keep},
    {"vector_in", QuantRole::keep},   {"guidance_in", QuantRole::keep},
    {"modulation", QuantRole::keep},  {"head.", QuantRole::keep},
    {"to_v.", QuantRole::value},      {"v_proj.", QuantRole::value},
    {"attn_v.", QuantRole::value},    {"qkv", QuantRole::fused},
    {"ff.net.2.", QuantRole::down},   {"down_proj.", QuantRole::down},
    {"ffn_down.", QuantRole::down},   {"mlp.2.", QuantRole::down},
};

}  // namespace

QuantPart quantisable_part(const std::shared_ptr<const TensorSource>& source) {
  for (const ModelDef* def : all_models())
    if (const auto place = recognise(def->denoiser, source, def->prefixes))
      return {place->prefix, def->name, def->denoiser.gguf_architecture, def->denoiser.quantisation,
              place->layout};
  constexpr std::string_view kAlone[] = {""};
  for (const PartDef<TextEncoder>* def : text_encoders())
    if (const auto place = recognise(*def, source, kAlone))
      return {place->prefix, def->name, def->gguf_architecture, def->quantisation, place->layout};
  return {"", "unknown", "", kUsual};
}

QuantRole quant_role(const QuantPart& part, std::string_view name) {
  if (!name.starts_with(part.prefix) || part.rules.empty()) return QuantRole::keep;
  const std::string_view own = name.substr(part.prefix.size());
  for (const QuantRule& rule : part.rules)
    if (own.find(rule.piece) != own.npos) return rule.role;
  return QuantRole::plain;
}

}  // namespace atelier
