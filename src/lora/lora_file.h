// A LoRA file as its trainer wrote it: modules by the file's names, and the tensors of each.
#pragma once

#include <ATen/core/Tensor.h>

#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "formats/tensor_source.h"

namespace atelier {

/// What one tensor of a module is for.
enum class LoraRole : uint8_t {
  up,
  down,
  mid,
  up_bias,
  loha_w1_a,
  loha_w1_b,
  loha_w2_a,
  loha_w2_b,
  loha_t1,
  loha_t2,
  lokr_w1,
  lokr_w1_a,
  lokr_w1_b,
  lokr_w2,
  lokr_w2_a,
  lokr_w2_b,
  lokr_t2,
  glora_a1,
  glora_a2,
  glora_b1,
  glora_b2,
  glora_bm,
  oft_blocks,
  oft_turns,
  rescale,
  oft_vectors,
  oft_scaled,
  oft_squares,
  oft_factors,
  diff,
  diff_bias,
  set,
  set_bias,
  magnitude,  // of rows or of input channels, as its shape says
  row_magnitude,  // of rows, whatever its shape
  alpha,
};

/// The changes to one module. Tensors keep fp32, fp16 or bf16 as stored and are fp32 otherwise;
/// they are contiguous, on the CPU, not empty, and all their numbers are finite.
struct LoraModule {
  std::string name;  // as in the file, without what says the tensor's role
  std::map<LoraRole, at::Tensor> tensors;
  std::map<LoraRole, std::string> names;  // of the tensors in the file
  std::optional<double> alpha;
  bool root_rank = false;  // alpha is divided by the root of the rank (rsLoRA)
  std::optional<double> stated_rank;  // by PEFT's config
  int64_t cayley_terms = 5;  // of the series in PEFT's OFT; 0: the inverse instead

  bool has(LoraRole role) const { return tensors.contains(role); }
  /// Whether PEFT itself wrote it.
  bool by_peft() const { return name.find("base_model.") != name.npos; }
  /// The tensor in fp32. Throws `malformed` naming the module and the role if it is not there.
  at::Tensor tensor(LoraRole role) const;
  /// "module.lora_up.weight", for messages: as in the file, or as it would be.
  std::string name_of(LoraRole role) const;
};

struct LoraFile {
  std::string label;
  std::vector<LoraModule> modules;  // in the order of their names
  /// Names that end in nothing a LoRA has; a control LoRA's may be whole weights.
  std::vector<std::string> others;
  std::vector<std::string> lone_alphas;  // names of alphas whose modules have nothing else
  std::vector<std::string> warnings;  // lines for people
};

/// Sorts the tensors of `source` by module and role, and reads them. Throws `mismatch` for a file
/// without a tensor that only LoRAs have, `malformed` for one that is empty or has numbers that
/// are not finite, `unsupported` for encodings without decoder, integers without scales and several
/// of PEFT's adapters, all naming file and tensor.
LoraFile read_lora_file(const TensorSource& source);

/// A tensor of `source` under the same rules.
at::Tensor read_lora_tensor(const TensorSource& source, std::string_view name);

}  // namespace atelier
