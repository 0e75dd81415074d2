// From the tensors a module has to the kind of change it is.
#include "lora/change.h"

#include <ATen/ATen.h>
#include <fmt/format.h>

#include <cmath>

#include "base/error.h"

namespace atelier {
namespace {

constexpr int64_t kMostRank = 32768;
constexpr int64_t kMostFolded = 1 << 28;  // numbers of a core's product

ChangePtr build_lora(const LoraModule& m, const WeightForm&) { return make_lora(m); }
ChangePtr build_loha(const LoraModule& m, const WeightForm&) { return make_loha(m); }
ChangePtr build_lokr(const LoraModule& m, const WeightForm&) { return make_lokr(m); }
ChangePtr build_oft(const LoraModule& m, const WeightForm&) { return make_oft(m); }
ChangePtr build_turns(const LoraModule& m, const WeightForm&) { return make_first_oft(m); }
ChangePtr build_diff(const LoraModule& m, const WeightForm&) {
  return make_difference(m.tensors.at(LoraRole::diff));
}
ChangePtr build_set(const LoraModule& m, const WeightForm&) {
  return make_replacement(m.tensors.at(LoraRole::set));
}

/// A module is of every kind whose sign it has; the rows of one kind stand together. What takes the
/// weight's place comes first.
struct Kind {
  std::string_view name;
  LoraRole sign;
  ChangePtr (*build)(const LoraModule& module, const WeightForm& form);
};
constexpr Kind kKinds[] = {
    {"whole weight", LoraRole::set, build_set},
    {"LoRA", LoraRole::up, build_lora},
    {"LoRA", LoraRole::down, build_lora},
    {"LoHa", LoraRole::loha_w1_a, build_loha},
    {"LoKr", LoraRole::lokr_w1, build_lokr},
    {"LoKr", LoraRole::lokr_w1_a, build_lokr},
    {"GLoRA", LoraRole::glora_a1, make_glora},
    {"OFT", LoraRole::oft_blocks, build_oft},
    {"OFT", LoraRole::oft_turns, build_turns},
    {"OFT", LoraRole::oft_vectors, make_input_oft},
    {"OFT", LoraRole::oft_squares, make_older_peft_oft},
    {"full difference", LoraRole::diff, build_diff},
};

// A product's bias counts with the product's scale.
double bias_scale(const LoraModule& module) {
  return scale_of(module, module.tensor(LoraRole::down).size(0));
}

ChangePtr bias_change(const LoraModule& module) {
  std::vector<ChangePtr> parts;
  if (module.has(LoraRole::set_bias))
    parts.push_back(make_replacement(module.tensors.at(LoraRole::set_bias)));
  if (module.has(LoraRole::up_bias))
    parts.push_back(make_difference(module.tensors.at(LoraRole::up_bias), bias_scale(module)));
  if (module.has(LoraRole::diff_bias))
    parts.push_back(make_difference(module.tensors.at(LoraRole::diff_bias)));
  return make_several(std::move(parts), module);
}

}  // namespace

ModuleChanges make_changes(const LoraModule& module, const WeightForm& form) {
  ModuleChanges changes;
  std::vector<ChangePtr> parts;
  for (const Kind& kind : kKinds) {
    if (!module.has(kind.sign)) continue;
    if (!changes.kinds.empty() && changes.kinds.back() == kind.name) continue;
    changes.kinds.push_back(kind.name);
    parts.push_back(kind.build(module, form));
  }
  changes.weight = make_several(std::move(parts), module);
  if (changes.weight && (module.has(LoraRole::magnitude) || module.has(LoraRole::row_magnitude))) {
    changes.weight = make_dora(std::move(changes.weight), module, form.kernel);
    changes.kinds = {"DoRA"};
  }
  changes.bias = bias_change(module);
  if (!changes.weight && !changes.bias)
    throw Error(ErrorCode::malformed, {.subject = module.name_of(module.tensors.begin()->first),
                                       .expected = "lacks the tensors that belong with it"});
  return changes;
}

at::Tensor as_matrix(const at::Tensor& tensor) {
  if (tensor.dim() == 0) return tensor.view({1, 1});
  return tensor.view({tensor.size(0), tensor.numel() / tensor.size(0)});
}

at::Tensor through_core(const LoraModule& module, LoraRole mid, LoraRole down) {
  const at::Tensor core = module.tensor(mid), below = as_matrix(module.tensor(down));
  require(core.dim() >= 2 && core.size(1) == below.size(0), module, mid,
          fmt::format("[rank, {}, kernel]", below.size(0)));
  const int64_t rank = core.size(0), kernel = core.numel() / rank / core.size(1);
  require(rank * kernel <= kMostFolded / below.size(1), module, mid, "a smaller core");
  const at::Tensor taps = core.reshape({rank, core.size(1), kernel}).transpose(1, 2);
  return at::matmul(taps, below).transpose(1, 2).reshape({rank, below.size(1) * kernel});
}

at::Tensor tucker(const at::Tensor& t, const at::Tensor& a, const at::Tensor& b) {
  const int64_t kernel = t.numel() / t.size(0) / t.size(1);
  const at::Tensor taps = t.reshape({t.size(0), t.size(1), kernel}).permute({2, 0, 1});
  const at::Tensor product = at::matmul(at::matmul(a.t(), taps), b);  // [kernel, rows, in]
  return product.permute({1, 2, 0}).reshape({a.size(1), b.size(1) * kernel});
}

at::Tensor cayley(const at::Tensor& q) {
  const at::Tensor one = at::eye(q.size(-1));
  return at::matmul(one + q, at::linalg_inv(one - q));
}

double scale_of(const LoraModule& module, int64_t rank) {
  if (rank > kMostRank)
    throw Error(ErrorCode::unsupported, {.subject = module.name,
                                         .expected = fmt::format("a rank up to {}", kMostRank),
                                         .found = std::to_string(rank),
                                         .hint = "Tools that resize LoRAs can lower it"});
  if (!module.alpha) return 1;
  const auto wide = static_cast<double>(rank);
  return *module.alpha / (module.root_rank ? std::sqrt(wide) : wide);
}

void require(bool ok, const LoraModule& module, LoraRole role, std::string_view expected) {
  if (ok) return;
  std::string found;
  if (const auto tensor = module.tensors.find(role); tensor != module.tensors.end())
    found = to_string(tensor->second.sizes().vec());
  throw Error(ErrorCode::malformed, {.subject = module.name_of(role),
                                     .expected = std::string(expected),
                                     .found = std::move(found)});
}

Bytes bytes_of(std::initializer_list<at::Tensor> tensors) {
  int64_t bytes = 0;
  for (const at::Tensor& tensor : tensors)
    if (tensor.defined()) bytes += static_cast<int64_t>(tensor.nbytes());
  return Bytes(bytes);
}

}  // namespace atelier
