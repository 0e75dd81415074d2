// The LoRAs an engine uses: which files, how strongly, and what they make of its weights.
#pragma once

#include <filesystem>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "lora/lora.h"

namespace atelier {

/// One LoRA as a user asks for it. Strengths may be negative; 1 is what its maker meant.
struct LoraUse {
  std::filesystem::path file;
  double strength = 1;  // of changes to the denoiser
  double text_strength = 1;  // of changes to text encoders
  std::string blocks = {};  // as `BlockStrengths` reads them; empty: all alike
};

/// Files read for one model, kept while they are in use. One thread at a time.
class LoraShelf {
 public:
  /// What `uses` come to: a table for each part of the model.
  struct Result {
    std::vector<PatchTable> tables;
    std::vector<LoraWarning> warnings;  // of files that were not in use before
  };
  /// Reads the files that are not known yet and forgets those no longer named. LoRAs count in the
  /// order given. Throws as `read_lora` and `BlockStrengths`; then nothing has changed.
  Result use(std::span<const LoraUse> uses, const LoraModel& model);
  /// A file in use.
  const Lora& lora(const std::filesystem::path& file) const { return *files_.at(file); }
  /// Memory of the files in use.
  Bytes bytes() const;

 private:
  std::map<std::filesystem::path, std::shared_ptr<const Lora>> files_;
};

}  // namespace atelier
