// Strengths of single blocks, as users of "LoRA block weight" write them.
#pragma once

#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "lora/targets.h"

namespace atelier {

/// The block a weight of a denoiser belongs to: "IN04", "M00", "OUT11" in UNets, "D00", "S37" in
/// FLUX, and "BASE" for all outside of blocks and for text encoders.
std::string block_of(std::string_view weight);

/// Factors by block; blocks that are not named have factor 1.
class BlockStrengths {
 public:
  BlockStrengths() = default;
  /// Either numbers alone, one for BASE and then one for each of the model's blocks in order (for
  /// Stable Diffusion also the shorter lists of blocks that have attention), or NAME=NUMBER and
  /// FIRST-LAST=NUMBER, where NAME may be only the letters; all separated by commas. `model` is the
  /// name of the model's family, `weights` are those of its denoiser. Throws `invalid_argument`
  /// naming what is wrong.
  BlockStrengths(std::string_view text, std::string_view model, const WeightShapes& weights);
  /// Of a denoiser's weight by its model's name.
  double of(std::string_view weight) const;
  /// Of what lies outside of the denoiser's blocks, text encoders included.
  double base() const;
  bool operator==(const BlockStrengths&) const = default;

 private:
  double strength(std::string_view block) const;
  std::map<std::string, double, std::less<>> strengths_;
};

}  // namespace atelier
