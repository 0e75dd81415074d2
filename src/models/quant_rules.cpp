// Finds the part of a file to be quantised and the role of each tensor.
#include "models/quant_rules.h"

#include <algorithm>

#include "models/model.h"

namespace atelier {
namespace {

using R = QuantRole;

// Names of the usual transformers in their usual layouts.
constexpr QuantRule kUsual[] = {
    // The way out of the single blocks of FLUX's relatives, where it ends the model elsewhere.
    {"single_transformer_blocks.*.proj_out.", R::plain},
    // Embeddings, times, sizes, first and last layers.
    {"embed", R::keep},
    {"emb.", R::keep},
    {"time_", R::keep},
    {"norm", R::keep},
    {"final_layer", R::keep},
    {"final_linear", R::keep},
    {"proj_out", R::keep},
    {"img_in", R::keep},
    {"txt_in", R::keep},
    {"vector_in", R::keep},
    {"guidance_in", R::keep},
    {"modulation", R::keep},
    {"modF.", R::keep},
    {"head.", R::keep},
    {"scale_shift_table", R::keep},
    {"adaln_single", R::keep},
    {"caption_projection", R::keep},
    {"patchify_proj", R::keep},
    {"positional_encoding", R::keep},
    {"register_tokens", R::keep},
    {"init_x_linear", R::keep},
    {"cond_seq_linear", R::keep},
    {"context_refiner", R::keep},
    {"noise_refiner", R::keep},
    {"ff_i.gate.", R::keep},
    {"relative_attention_bias", R::keep},
    {"attn_rel_b", R::keep},
    {"to_v.", R::value},
    {"v_proj.", R::value},
    {"attn_v.", R::value},
    {"attn.v.", R::value},
    {"attn.w1v.", R::value},
    {"attn.w2v.", R::value},
    {"SelfAttention.v.", R::value},
    {"qkv", R::fused},
    {"ff.net.2.", R::down},
    {"down_proj.", R::down},
    {"ffn_down.", R::down},
    {"ffn.2.", R::down},
    {"mlp.2.", R::down},
    {"mlp.layer2.", R::down},
    {"mlp.fc2.", R::down},
    {"feed_forward.w2.", R::down},
    {"experts.*.w2.", R::down},
    {"DenseReluDense.wo.", R::down},
};

bool contains(std::string_view name, std::string_view piece) {
  const bool first = piece.starts_with('^');
  if (first) piece.remove_prefix(1);
  for (size_t at = 0; !piece.empty();) {
    const size_t end = std::min(piece.find('*'), piece.size());
    const size_t found = name.find(piece.substr(0, end), at);
    if (found == name.npos || (first && at == 0 && found != 0)) return false;
    at = found + end;
    piece.remove_prefix(std::min(end + 1, piece.size()));
  }
  return true;
}

QuantRole role_of(std::span<const QuantRule> rules, std::string_view name) {
  for (const QuantRule& rule : rules)
    if (contains(name, rule.piece)) return rule.role;
  return QuantRole::plain;
}

QuantPart known(const std::shared_ptr<const TensorSource>& source, const Place& place,
                std::string_view name, std::string_view gguf_architecture,
                std::span<const QuantRule> rules) {
  QuantPart part{place.prefix, name, gguf_architecture, rules, place.layout, {}};
  const KeyMap keys(source, place.prefix, *place.layout);
  for (const auto& [canonical, item] : keys.items())
    for (const WeightPart& from : item.parts)
      part.tensors.emplace(from.name.substr(place.prefix.size()),
                           ModelTensor{canonical, from.transposed});
  return part;
}

}  // namespace

QuantPart quantisable_part(const std::shared_ptr<const TensorSource>& source) {
  for (const ModelDef* def : all_models())
    if (const auto place = recognise(def->denoiser, source, def->prefixes))
      return known(source, *place, def->name, def->denoiser.gguf_architecture,
                   def->denoiser.quantisation);
  constexpr std::string_view kAlone[] = {""};
  for (const PartDef<TextEncoder>* def : text_encoders())
    if (const auto place = recognise(*def, source, kAlone))
      return known(source, *place, def->name, def->gguf_architecture, def->quantisation);
  return {"", "unknown", "", kUsual, nullptr, {}};
}

QuantRole quant_role(const QuantPart& part, std::string_view name) {
  if (!name.starts_with(part.prefix) || part.rules.empty()) return QuantRole::keep;
  const std::string_view own = name.substr(part.prefix.size());
  const auto [begin, end] = part.tensors.equal_range(own);
  if (begin == end) return role_of(part.rules, own);
  const QuantRole first = role_of(part.rules, begin->second.name);
  bool keep = false, differ = false;
  for (auto it = begin; it != end; ++it) {
    const QuantRole role = role_of(part.rules, it->second.name);
    keep |= role == QuantRole::keep;
    differ |= role != first;
  }
  return keep ? QuantRole::keep : differ ? QuantRole::fused : first;
}

}  // namespace atelier
