// The UNet of Stable Diffusion as a config and a constructor; its families are rows in
// stable_diffusion.cpp.
#pragma once

#include <memory>
#include <optional>
#include <vector>

#include "models/model.h"

namespace atelier {

/// What one numbered input or output block holds, as the file has it.
struct UNetStage {
  enum class Kind { blocks, halving } kind = Kind::blocks;
  int64_t in = 0, out = 0;
  int64_t depth = 0;  // transformer blocks after the residual block
  int64_t upsample = 0;  // place of the upsampling convolution in the stage; 0 if none
};

struct UNetConfig {
  ModelTraits traits;
  int64_t base = 0, embedding = 0;
  int64_t middle_width = 0, middle_depth = 0;  // depth 0: a lone residual block
  int64_t head_channels = 0;  // 0: eight heads at every width
  bool fp32_scores = false;
  std::vector<UNetStage> input, output;  // without input block 0, the first convolution
  nn::Heads heads(int64_t width) const {
    const int64_t count = head_channels ? std::max<int64_t>(1, width / head_channels) : 8;
    return {.count = count, .fp32 = fp32_scores};
  }
};

/// The first place with a transformer, below which its shapes are read; none in a file that is no
/// UNet of this kind.
std::optional<Scope> find_transformer(const Scope& w);
int64_t read_context_width(const Scope& transformer);
/// Whether heads have 64 channels, and not a stage eight of them: in Stable Diffusion 2.x and XL.
/// Their releases project by matrices into transformers and out, which some converters write as
/// convolutions; then the width of the prompt or a vector tells.
bool has_wide_heads(const Scope& w, const Scope& transformer);
/// Inputs of the vector's embedding, or 0.
int64_t read_vector_width(const Scope& w);

/// Reads the config from shapes. Throws `mismatch` if a needed tensor is absent or the blocks'
/// widths do not follow from one another.
UNetConfig read_unet_config(const Scope& w);

/// Binds a UNet of this config.
std::unique_ptr<DiffusionModel> make_unet(UNetConfig config, const Scope& w);

}  // namespace atelier
