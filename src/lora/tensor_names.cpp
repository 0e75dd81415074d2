// Endings of names as trainers write them. Longer than most for its table of endings.
// Source: kohya-ss/sd-scripts networks/, KohakuBlueleaf/LyCORIS lycoris/modules/, huggingface/peft
//   src/peft/tuners/, black-forest-labs/flux control LoRAs.
#include "lora/tensor_names.h"

#include <algorithm>
#include <array>

namespace atelier {
namespace {

/// The first row whose ending a name has counts; the first row of a role names it in messages.
struct Ending {
  std::string_view text;
  LoraRole role;
};
constexpr Ending kEndings[] = {
    {".lora_up.weight", LoraRole::up},
    {".lora_down.weight", LoraRole::down},
    {".lora_mid.weight", LoraRole::mid},
    {".lora_B.weight", LoraRole::up},
    {".lora_A.weight", LoraRole::down},
    {".lora_B", LoraRole::up},
    {".lora_A", LoraRole::down},
    {".lora_linear_layer.up.weight", LoraRole::up},
    {".lora_linear_layer.down.weight", LoraRole::down},
    {".lora.up.weight", LoraRole::up},
    {".lora.down.weight", LoraRole::down},
    {"_lora.up.weight", LoraRole::up},
    {"_lora.down.weight", LoraRole::down},
    {"_lora1.up.weight", LoraRole::up},
    {"_lora1.down.weight", LoraRole::down},
    {"_lora2.up.weight", LoraRole::up},
    {"_lora2.down.weight", LoraRole::down},
    {".lora_B.bias", LoraRole::up_bias},
    {".lora_up.bias", LoraRole::up_bias},
    {".hada_w1_a", LoraRole::loha_w1_a},
    {".hada_w1_b", LoraRole::loha_w1_b},
    {".hada_w2_a", LoraRole::loha_w2_a},
    {".hada_w2_b", LoraRole::loha_w2_b},
    {".hada_t1", LoraRole::loha_t1},
    {".hada_t2", LoraRole::loha_t2},
    {".lokr_w1", LoraRole::lokr_w1},
    {".lokr_w1_a", LoraRole::lokr_w1_a},
    {".lokr_w1_b", LoraRole::lokr_w1_b},
    {".lokr_w2", LoraRole::lokr_w2},
    {".lokr_w2_a", LoraRole::lokr_w2_a},
    {".lokr_w2_b", LoraRole::lokr_w2_b},
    {".lokr_t2", LoraRole::lokr_t2},
    {".a1.weight", LoraRole::glora_a1},
    {".a2.weight", LoraRole::glora_a2},
    {".b1.weight", LoraRole::glora_b1},
    {".b2.weight", LoraRole::glora_b2},
    {".bm.weight", LoraRole::glora_bm},
    {".oft_blocks", LoraRole::oft_blocks},
    {".oft_diag", LoraRole::oft_turns},
    {".rescale", LoraRole::rescale},
    {".oft_R.weight", LoraRole::oft_vectors},
    {".oft_R.scaled_oft", LoraRole::oft_scaled},
    {".oft_r", LoraRole::oft_squares},
    {".oft_s", LoraRole::oft_factors},
    {".diff", LoraRole::diff},
    {".w_norm", LoraRole::diff},
    {".diff_b", LoraRole::diff_bias},
    {".b_norm", LoraRole::diff_bias},
    {".set_weight", LoraRole::set},
    {".set_bias", LoraRole::set_bias},
    {".dora_scale", LoraRole::magnitude},
    {".lora_magnitude_vector", LoraRole::row_magnitude},
    {".lora_magnitude_vector.weight", LoraRole::row_magnitude},
    {".lora.alpha", LoraRole::alpha},
    {".lora_linear_layer.alpha", LoraRole::alpha},
    {".alpha", LoraRole::alpha},
};

/// Where PEFT's own modules keep the adapter's name, which its files leave out:
/// "x.lora_A.NAME.weight".
struct AdapterPlace {
  std::string_view before, after;
};
constexpr AdapterPlace kAdapterPlaces[] = {
    {".lora_A.", ".weight"}, {".lora_B.", ".weight"},
    {".lora_B.", ".bias"},   {".lora_magnitude_vector.", ".weight"},
    {".oft_R.", ".weight"},  {".lora_magnitude_vector.", ""},
    {".hada_w1_a.", ""},     {".hada_w1_b.", ""},
    {".hada_w2_a.", ""},     {".hada_w2_b.", ""},
    {".hada_t1.", ""},       {".hada_t2.", ""},
    {".lokr_w1.", ""},       {".lokr_w1_a.", ""},
    {".lokr_w1_b.", ""},     {".lokr_w2.", ""},
    {".lokr_w2_a.", ""},     {".lokr_w2_b.", ""},
    {".lokr_t2.", ""},       {".oft_r.", ""},
    {".oft_s.", ""},
};

const Ending* ending_of(std::string_view name) {
  const auto* found =
      std::ranges::find_if(kEndings, [&](const Ending& e) { return name.ends_with(e.text); });
  return found == std::end(kEndings) ? nullptr : found;
}

// Part of the module's name where the ending does not begin with a dot: "to_q_lora".
std::string_view module_of(std::string_view name, const Ending& ending) {
  if (ending.text.front() == '.') return name.substr(0, name.size() - ending.text.size());
  return name.substr(0, name.rfind(ending.text) + ending.text.find('.'));
}

// The adapter's name where `place` has it; empty otherwise.
std::string_view adapter_at(std::string_view name, const AdapterPlace& place) {
  if (!name.ends_with(place.after)) return {};
  const std::string_view head = name.substr(0, name.size() - place.after.size());
  const size_t dot = head.rfind('.');
  return dot != head.npos && head.substr(0, dot + 1).ends_with(place.before) ? head.substr(dot + 1)
                                                                             : std::string_view();
}

}  // namespace

std::optional<LoraTensorName> read_tensor_name(std::string_view name) {
  if (const Ending* ending = ending_of(name))
    return LoraTensorName{std::string(module_of(name, *ending)), ending->role, {}};
  for (const AdapterPlace& place : kAdapterPlaces) {
    const std::string_view adapter = adapter_at(name, place);
    if (adapter.empty()) continue;
    const size_t head = name.size() - place.after.size() - adapter.size() - 1;
    std::string plain(name.substr(0, head));
    plain += place.after;
    if (const Ending* ending = ending_of(plain))
      return LoraTensorName{std::string(module_of(plain, *ending)), ending->role,
                            std::string(adapter)};
  }
  return {};
}

std::string_view usual_ending(LoraRole role) {
  return std::ranges::find(kEndings, role, &Ending::role)->text;
}

}  // namespace atelier
