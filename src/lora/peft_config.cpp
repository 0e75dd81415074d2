// PEFT's config, which diffusers writes into the metadata as "<component>.<key>".
// Source: huggingface/peft src/peft/tuners/*/config.py; huggingface/diffusers
//   src/diffusers/loaders/lora_base.py.
#include "lora/peft_config.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/error.h"
#include "base/json.h"

namespace atelier {
namespace {

std::optional<double> number_of(const Json& config, const std::string& key) {
  const auto found = config.find(key);
  if (found == config.end() || !found->is_number()) return {};
  return found->get<double>();
}

// The number of the pattern that is a module's whole name or its end.
std::optional<double> pattern_of(const Json& config, const std::string& key,
                                 std::string_view module) {
  const auto patterns = config.find(key);
  if (patterns == config.end() || !patterns->is_object()) return {};
  for (const auto& [end, value] : patterns->items())
    if (value.is_number() && (module == end || module.ends_with("." + end)))
      return value.get<double>();
  return {};
}

// Powers of the series that PEFT's OFT takes for Cayley's inverse, or 0 for the inverse.
int64_t cayley_terms_of(const Json& config, const std::string& head, int64_t usual) {
  const auto series = config.find(head + "use_cayley_neumann");
  if (series != config.end() && *series == false) return 0;
  const double stated =
      number_of(config, head + "num_cayley_neumann_terms").value_or(static_cast<double>(usual));
  return static_cast<int64_t>(std::clamp(stated, 1.0, 64.0));
}

// LoHa and LoKr call it otherwise.
std::string_view alpha_key(const LoraModule& module) {
  using enum LoraRole;
  const bool lycoris = module.has(loha_w1_a) || module.has(lokr_w1) || module.has(lokr_w1_a);
  return lycoris ? "alpha" : "lora_alpha";
}

void set_from(const Json& config, LoraModule& module) {
  const size_t dot = module.name.find('.');
  if (dot == std::string::npos) return;
  const std::string head = module.name.substr(0, dot + 1);
  const std::string_view rest = std::string_view(module.name).substr(dot + 1);
  module.cayley_terms = cayley_terms_of(config, head, module.cayley_terms);
  if (module.alpha) return;
  module.alpha = pattern_of(config, head + "alpha_pattern", rest);
  if (!module.alpha) module.alpha = number_of(config, head + std::string(alpha_key(module)));
  module.stated_rank = pattern_of(config, head + "rank_pattern", rest);
  if (!module.stated_rank) module.stated_rank = number_of(config, head + "r");
  const auto root = config.find(head + "use_rslora");
  module.root_rank = module.alpha && root != config.end() && *root == true;
}

}  // namespace

void read_peft_config(LoraFile& file, const Metadata& metadata) {
  const auto found = metadata.find("lora_adapter_metadata");
  if (found == metadata.end()) return;
  Json config;
  try {
    config = parse_json(found->second, "lora_adapter_metadata");
  } catch (const Error&) {
    config = {};
  }
  if (!config.is_object()) {
    file.warnings.push_back(fmt::format(
        "{}: its metadata entry lora_adapter_metadata is no JSON object and is left out, so that "
        "alphas may be missing",
        file.label));
    return;
  }
  for (LoraModule& module : file.modules) set_from(config, module);
}

}  // namespace atelier
