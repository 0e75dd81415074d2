// What PEFT's config says beside a LoRA's tensors.
#pragma once

#include "lora/lora_file.h"

namespace atelier {

/// Sets what the metadata entry `lora_adapter_metadata` says of modules: alpha, ranks and how OFT
/// is to be read. An entry that is no JSON object is left out, with a line in `file.warnings`.
void read_peft_config(LoraFile& file, const Metadata& metadata);

}  // namespace atelier
