// Endings of names as trainers write them, and what PEFT says in the file's metadata. Longer than
// most for its table of endings.
// Source: kohya-ss/sd-scripts networks/, KohakuBlueleaf/LyCORIS lycoris/modules/, huggingface/peft
//   src/peft/tuners/, black-forest-labs/flux control LoRAs.
#include "lora/lora_file.h"

#include <ATen/ATen.h>
#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "base/error.h"
#include "base/json.h"
#include "quant/decode.h"

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
    {".lora_B.default.weight", LoraRole::up},
    {".lora_A.default.weight", LoraRole::down},
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
    {".oft_R.default.weight", LoraRole::oft_vectors},
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
    {".lora_magnitude_vector.default.weight", LoraRole::row_magnitude},
    {".alpha", LoraRole::alpha},
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

double read_alpha(const TensorSource& source, std::string_view name) {
  const at::Tensor alpha = read_lora_tensor(source, name);
  if (alpha.numel() == 1) return alpha.item<double>();
  throw Error(ErrorCode::malformed,
              {.subject = fmt::format("{}: {}", source.label(), name),
               .expected = "one number",
               .found = to_string(source.tensors().find(name)->second.shape)});
}

// ---- PEFT's config, which diffusers writes into the metadata as "<component>.<key>"

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

void read_peft_config(LoraFile& file, const TensorSource& source) {
  const auto found = source.metadata().find("lora_adapter_metadata");
  if (found == source.metadata().end()) return;
  const Json config = parse_json(found->second, source.label() + ": lora_adapter_metadata");
  if (!config.is_object()) return;
  for (LoraModule& module : file.modules) {
    const size_t dot = module.name.find('.');
    if (dot == std::string::npos) continue;
    const std::string head = module.name.substr(0, dot + 1);
    module.cayley_terms = cayley_terms_of(config, head, module.cayley_terms);
    if (module.alpha) continue;
    const std::string_view rest = std::string_view(module.name).substr(dot + 1);
    module.alpha = pattern_of(config, head + "alpha_pattern", rest);
    if (!module.alpha) module.alpha = number_of(config, head + "lora_alpha");
    const auto root = config.find(head + "use_rslora");
    module.root_rank = module.alpha && root != config.end() && *root == true;
  }
}

[[noreturn]] void fail_no_lora(const TensorSource& source) {
  throw Error(ErrorCode::mismatch,
              {.subject = source.label(),
               .expected = "a LoRA (names such as x.lora_up.weight, x.lora_A.weight, x.hada_w1_a, "
                           "x.lokr_w1 or x.diff)",
               .found = source.tensors().empty()
                            ? "no tensors"
                            : fmt::format("{} tensors, the first named {}", source.tensors().size(),
                                          source.tensors().begin()->first)});
}

}  // namespace

at::Tensor LoraModule::tensor(LoraRole role) const {
  const auto found = tensors.find(role);
  if (found == tensors.end())
    throw Error(ErrorCode::malformed,
                {.subject = name_of(role), .expected = "is missing, though its module has others"});
  return found->second.to(at::kFloat);
}

std::string LoraModule::name_of(LoraRole role) const {
  if (const auto found = names.find(role); found != names.end()) return found->second;
  const auto* ending =
      std::ranges::find_if(kEndings, [&](const Ending& e) { return e.role == role; });
  return name + std::string(ending->text);
}

at::Tensor read_lora_tensor(const TensorSource& source, std::string_view name) {
  const TensorInfo& info = source.tensors().find(name)->second;
  const auto fail = [&](ErrorCode code, std::string statement) -> Error {
    const bool stored = code == ErrorCode::unsupported;  // as nobody computes
    return {code,
            {.subject = fmt::format("{}: {}", source.label(), name),
             .expected = std::move(statement),
             .hint = stored ? "Look for a file of the same LoRA in fp16 or bf16" : ""}};
  };
  if (!decodable(info.encoding))
    throw fail(ErrorCode::unsupported, fmt::format("is stored as {}, which no decoder here reads",
                                                   encoding_info(info.encoding).name));
  if (is_integer(info.encoding) && !info.scaling && info.elements() > 1)
    throw fail(ErrorCode::unsupported,
               fmt::format("is stored as {} without scales, which says nothing about its numbers",
                           encoding_info(info.encoding).name));
  if (info.elements() == 0) throw fail(ErrorCode::malformed, "has no numbers");
  const at::ScalarType dtype = same_dtype(info).value_or(at::kFloat);
  at::Tensor out = at::empty(info.shape, at::dtype(dtype));
  decode_range(source.bytes(name), info, 0, out, name);
  if (!at::isfinite(out).all().item<bool>())
    throw fail(ErrorCode::malformed, "has numbers that are not finite");
  return out;
}

LoraFile read_lora_file(const TensorSource& source) {
  std::map<std::string, LoraModule, std::less<>> modules;
  LoraFile file{.label = source.label(), .modules = {}, .others = {}};
  for (const auto& [name, info] : source.tensors()) {
    const Ending* ending = ending_of(name);
    if (!ending) {
      file.others.push_back(name);
      continue;
    }
    const std::string stem(module_of(name, *ending));
    LoraModule& module = modules.try_emplace(stem).first->second;
    module.name = stem;
    if (ending->role == LoraRole::alpha) {
      module.alpha = read_alpha(source, name);
    } else {
      if (!module.tensors.try_emplace(ending->role, read_lora_tensor(source, name)).second)
        throw Error(ErrorCode::malformed, {.subject = fmt::format("{}: {}", source.label(), name),
                                           .expected = "a module has two tensors of this kind"});
      module.names.emplace(ending->role, name);
    }
    source.wont_need(name);
  }
  for (auto& [name, module] : modules)
    if (!module.tensors.empty()) file.modules.push_back(std::move(module));
  if (file.modules.empty()) fail_no_lora(source);
  read_peft_config(file, source);
  return file;
}

}  // namespace atelier
