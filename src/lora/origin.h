// What model a LoRA was made for, as far as its names, shapes and metadata tell.
#pragma once

#include <string>

#include "lora/lora_file.h"

namespace atelier {

/// "one for FLUX.1", or "one for an unknown model".
std::string lora_origin(const LoraFile& file, const Metadata& metadata);

}  // namespace atelier
