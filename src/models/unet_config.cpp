// The UNet's config from the shapes of its tensors.
#include <optional>

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

// Norms have 32 groups, and heads divide the width of a stage that attends.
bool can_hold(const UNetConfig& c, int64_t width, int64_t depth) {
  return width % 32 == 0 && (depth == 0 || width % c.heads(width).count == 0);
}

// Follows the channels through the stages as `UNet` will, so that a file that does not fit
// together is refused here and not in the middle of a step.
bool widths_follow(const UNetConfig& c) {
  if (c.output.size() != c.input.size() + 1 || !can_hold(c, c.base, 0)) return false;
  std::vector<int64_t> skips{c.base};
  for (const UNetStage& s : c.input) {
    if (s.in != skips.back() || !can_hold(c, s.out, s.depth)) return false;
    skips.push_back(s.out);
  }
  int64_t width = c.middle_width;
  if (width != skips.back() || !can_hold(c, width, c.middle_depth)) return false;
  for (size_t i = 0; i < c.output.size(); ++i) {
    const UNetStage& s = c.output[i];
    if (s.kind == UNetStage::Kind::halving || s.in != width + skips.back()) return false;
    if (!can_hold(c, s.in, 0) || !can_hold(c, s.out, s.depth)) return false;
    if (s.upsample && i + 1 == c.output.size()) return false;
    skips.pop_back();
    width = s.out;
  }
  return width == c.base;
}

}  // namespace

std::optional<Scope> find_transformer(const Scope& w) {
  const auto holds = [](const Scope& s) {
    return s.has("proj_in.weight") && s.has("transformer_blocks.0.attn2.to_k.weight");
  };
  if (const Scope middle = w / "middle_block" / "1"; holds(middle)) return middle;
  for (int64_t i = 1; (w / "input_blocks" / i).has("0.in_layers.0.weight") ||
                      (w / "input_blocks" / i).has("0.op.weight");
       ++i)
    if (const Scope stage = w / "input_blocks" / i / "1"; holds(stage)) return stage;
  return {};
}

int64_t read_vector_width(const Scope& w) {
  const bool takes_vector = w.has("label_emb.0.0.weight");
  return takes_vector ? checked_shape(w, "label_emb.0.0.weight", 2)[1] : 0;
}

int64_t read_context_width(const Scope& transformer) {
  return checked_shape(transformer, "transformer_blocks.0.attn2.to_k.weight", 2)[1];
}

bool has_wide_heads(const Scope& w, const Scope& transformer) {
  constexpr int64_t kOpenClipWidth = 1024;  // of the prompts of Stable Diffusion 2.x
  return transformer.shape("proj_in.weight").size() == 2 || read_vector_width(w) > 0 ||
         read_context_width(transformer) == kOpenClipWidth;
}

UNetConfig read_unet_config(const Scope& w) {
  UNetConfig c;
  const Shape stem = checked_shape(w, "input_blocks.0.0.weight", 4);
  c.base = stem[0];
  c.traits.in_channels = stem[1];
  c.traits.out_channels = checked_shape(w, "out.2.weight", 4)[0];
  c.traits.vector_width = read_vector_width(w);
  c.embedding = checked_shape(w, "time_embed.0.weight", 2)[0];
  c.input = read_stages(w / "input_blocks", 1);
  c.output = read_stages(w / "output_blocks", 0);
  c.middle_width = checked_shape(w, "middle_block.0.in_layers.0.weight", 1)[0];
  c.middle_depth = w.count("middle_block.1.transformer_blocks", "norm1.weight");
  if (const std::optional<Scope> transformer = find_transformer(w)) {
    c.traits.context_width = read_context_width(*transformer);
    if (has_wide_heads(w, *transformer)) c.head_channels = 64;
  }
  if (!widths_follow(c))
    throw Error(ErrorCode::mismatch,
                {.subject = w.keys().source()->label(),
                 .expected = "the widths of the UNet's blocks do not follow from one another",
                 .hint = "The file may be pruned or damaged"});
  return c;
}

}  // namespace atelier
