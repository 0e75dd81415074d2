// LoRAs: files read once and matched to a model's weights. Read this header first.
#pragma once

#include <filesystem>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/bytes.h"
#include "lora/targets.h"
#include "memory/patch.h"

namespace atelier {

/// A part of a model as LoRAs see it. What it refers to must outlive the matching.
struct LoraPart {
  std::string_view name;  // "clip_l"; of a denoiser any
  bool denoiser = false;
  std::span<const KeyLayout> layouts;
  const WeightShapes* weights = nullptr;
};

/// A model as LoRAs see it: any number of parts, one of them the denoiser.
struct LoraModel {
  std::string_view name;  // "sdxl"
  std::string_view title;  // "Stable Diffusion XL", for messages
  std::vector<LoraPart> parts;
};

/// What was left out of a file, for people.
struct LoraWarning {
  std::string message;  // a line
  std::vector<std::string> items;  // all it is about where it names only the first few, else none
};

/// One file's changes to one model, in memory. Immutable: safe from any thread.
struct Lora {
  struct Change {
    size_t part = 0;  // of LoraModel::parts
    std::string weight;  // by the model's name
    PlacedPatch placed;  // at strength 1
  };
  std::string label;  // the file
  std::vector<Change> changes;
  std::map<std::string, int64_t> kinds;  // modules by kind: {"LoRA", 192}
  std::vector<LoraWarning> warnings;
  Bytes bytes;  // memory the changes hold
};

/// Reads all of `source` and finds the weights it changes. Names that mean nothing in this model
/// and changes made for weights of other sizes are left out and told in `warnings`. Throws
/// `mismatch` for a file that is no LoRA or one for another architecture (fewer than half of its
/// modules for the denoiser, or of all if it has none, fit), `malformed` for tensors that
/// contradict one another or are not finite, and `unsupported` for what cannot be computed; always
/// with the label.
std::shared_ptr<const Lora> read_lora(const TensorSource& source, const LoraModel& model);
/// The same for a safetensors, torch or GGUF file; throws as `open_checkpoint` besides.
std::shared_ptr<const Lora> read_lora(const std::filesystem::path& file, const LoraModel& model);

}  // namespace atelier
