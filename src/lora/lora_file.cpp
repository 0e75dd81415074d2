// Sorting a LoRA's tensors by module and role.
#include "lora/lora_file.h"

#include <ATen/ATen.h>
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <set>

#include "base/error.h"
#include "lora/peft_config.h"
#include "lora/tensor_names.h"
#include "quant/decode.h"

namespace atelier {
namespace {

double read_alpha(const TensorSource& source, std::string_view name) {
  const at::Tensor alpha = read_lora_tensor(source, name);
  if (alpha.numel() == 1) return alpha.item<double>();
  throw Error(ErrorCode::malformed,
              {.subject = fmt::format("{}: {}", source.label(), name),
               .expected = "one number",
               .found = to_string(source.tensors().find(name)->second.shape)});
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

[[noreturn]] void fail_several(const TensorSource& source, const std::set<std::string>& adapters) {
  throw Error(ErrorCode::unsupported,
              {.subject = source.label(),
               .expected = "one LoRA in a file",
               .found = fmt::format("PEFT's adapters {}", fmt::join(adapters, ", ")),
               .hint = "Save each in a file of its own"});
}

void add_tensor(LoraModule& module, LoraRole role, const TensorSource& source,
                const std::string& name) {
  if (!module.names.emplace(role, name).second)
    throw Error(ErrorCode::malformed, {.subject = fmt::format("{}: {}", source.label(), name),
                                       .expected = "a module has two tensors of this kind"});
  if (role == LoraRole::alpha)
    module.alpha = read_alpha(source, name);
  else
    module.tensors.emplace(role, read_lora_tensor(source, name));
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
  return name + std::string(usual_ending(role));
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
  std::set<std::string> adapters;
  LoraFile file;
  file.label = source.label();
  for (const auto& [name, info] : source.tensors()) {
    const std::optional<LoraTensorName> said = read_tensor_name(name);
    if (!said) {
      file.others.push_back(name);
      continue;
    }
    if (!said->adapter.empty() && adapters.insert(said->adapter).second && adapters.size() > 1)
      fail_several(source, adapters);
    LoraModule& module = modules.try_emplace(said->module).first->second;
    module.name = said->module;
    add_tensor(module, said->role, source, name);
    source.wont_need(name);
  }
  for (auto& [name, module] : modules)
    if (!module.tensors.empty())
      file.modules.push_back(std::move(module));
    else
      file.lone_alphas.push_back(module.names.at(LoraRole::alpha));
  if (file.modules.empty()) fail_no_lora(source);
  read_peft_config(file, source.metadata());
  return file;
}

}  // namespace atelier
