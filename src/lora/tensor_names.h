// What the name of a tensor in a LoRA says: whose it is and what it is for.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "lora/lora_file.h"

namespace atelier {

struct LoraTensorName {
  std::string module;
  LoraRole role;
  std::string adapter;  // PEFT's name for the whole LoRA; mostly left out
};

/// Nothing for a name that ends in nothing a LoRA has.
std::optional<LoraTensorName> read_tensor_name(std::string_view name);

/// The ending of a role in messages.
std::string_view usual_ending(LoraRole role);

}  // namespace atelier
