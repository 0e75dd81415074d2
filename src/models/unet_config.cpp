// The UNet's config from the shapes of its tensors.
#include "base/error.h"
#include "models/config_reading.h"
#include "models/unet.h"

namespace atelier {
namespace {

UNetStage read_stage(const Scope& w) {
  UNetStage stage;
  if (w.has("0.op.weight")) {
    const Shape halving = checked_shape(w, "0.op.weight", 4);
    return {.kind = UNetStage::Kind::halving, .in = halving[1], .out = halving[0]};
  }
  stage.in = checked_shape(w, "0.in_layers.0.weight", 1)[0];
  stage.out = checked_shape(w, "0.out_layers.3.weight", 4)[0];
  stage.depth = w.count("1.transformer_blocks", "norm1.weight");
  for (const int64_t place : {1, 2})
    if (w.has(std::to_string(place) + ".conv.weight")) stage.upsample = place;
  return stage;
}

std::vector<UNetStage> read_stages(const Scope& w, int64_t first) {
  std::vector<UNetStage> stages;
  for (int64_t i = first;; ++i) {
    const Scope stage = w / i;
    if (!stage.has("0.op.weight") && !stage.has("0.in_layers.0.weight")) return stages;
    stages.push_back(read_stage(stage));
  }
}

// Follows the channels through the stages as `UNet` will, so that a file that does not fit
// together is refused here and not in the middle of a step.
void check_widths(const UNetConfig& c, const std::string& label) {
  std::vector<int64_t> skips{c.base};
  bool fits = c.output.size() == c.input.size() + 1;
  int64_t width = c.base;
  for (const UNetStage& s : c.input) {
    fits = fits && s.in == width;
    skips.push_back(width = s.out);
  }
  for (size_t i = 0; fits && i < c.output.size(); ++i) {
    fits = c.output[i].in == width + skips.back() &&
           (i + 1 < c.output.size() || !c.output[i].upsample);
    skips.pop_back();
    width = c.output[i].out;
  }
  if (!fits || width != c.base)
    throw Error(ErrorCode::mismatch, {.subject = label,
                                      .expected = "the widths of the UNet's blocks do not follow "
                                                  "from one another",
                                      .hint = "The file may be pruned or damaged"});
}

}  // namespace

UNetConfig read_unet_config(const Scope& w) {
  UNetConfig c;
  const Shape stem = checked_shape(w, "input_blocks.0.0.weight", 4);
  c.base = stem[0];
  c.traits.in_channels = stem[1];
  c.traits.out_channels = checked_shape(w, "out.2.weight", 4)[0];
  c.embedding = checked_shape(w, "time_embed.0.weight", 2)[0];
  if (w.has("label_emb.0.0.weight"))
    c.traits.vector_width = checked_shape(w, "label_emb.0.0.weight", 2)[1];
  c.input = read_stages(w / "input_blocks", 1);
  c.output = read_stages(w / "output_blocks", 0);
  check_widths(c, w.keys().source()->label());
  c.middle_depth = w.count("middle_block.1.transformer_blocks", "norm1.weight");
  c.traits.context_width =
      checked_shape(w / "middle_block.1.transformer_blocks.0", "attn2.to_k.weight", 2)[1];
  // Releases whose projections are matrices have heads of 64 channels, the others eight heads.
  if (w.shape("middle_block.1.proj_in.weight").size() == 2) c.head_channels = 64;
  return c;
}

}  // namespace atelier
