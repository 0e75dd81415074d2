// One --lora of the command line: FILE[:strength[:text strength]][:blocks=LIST].
#pragma once

#include <filesystem>
#include <string>
#include <string_view>

namespace atelier {

/// A LoRA as asked for. `blocks` is what stands behind "blocks=", not looked at.
struct LoraOption {
  std::filesystem::path file;
  double strength = 1, text_strength = 1;
  std::string blocks;
};

/// Takes the option's word apart. Colons may be part of the file's name: what names a file as it
/// stands is one, else the strengths are the last numbers. The text encoders' strength is the
/// first if it is not given. Throws `invalid_argument` for an empty name and for strengths beyond
/// -100 to 100.
LoraOption parse_lora_option(std::string_view word);

}  // namespace atelier
