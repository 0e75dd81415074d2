// Roles of tensors: a table of names in every layout, and that the layouts of a model agree.
#include "models/quant_rules.h"

#include <ATen/ATen.h>
#include <fmt/format.h>

#include "models/golden_files.h"

namespace atelier {
namespace {

using R = QuantRole;

/// The model's own layout, or diffusers'.
std::shared_ptr<const TensorSource> model(const std::string& golden, bool diffusers) {
  const auto own = golden::source(golden, golden == "tiny_sd" ? "unet" : "model");
  return diffusers ? golden::renamed(*own, golden) : own;
}

/// A tiny T5 as llama.cpp names it.
std::shared_ptr<const TensorSource> llama_t5() {
  constexpr std::pair<std::string_view, std::string_view> kPieces[] = {
      {"encoder.block.", "enc.blk."},
      {"encoder.final_layer_norm", "enc.output_norm"},
      {"layer.0.SelfAttention.relative_attention_bias", "attn_rel_b"},
      {"layer.0.SelfAttention.", "attn_"},
      {"layer.0.layer_norm", "attn_norm"},
      {"layer.1.layer_norm", "ffn_norm"},
      {"layer.1.DenseReluDense.wi_0", "ffn_gate"},
      {"layer.1.DenseReluDense.wi_1", "ffn_up"},
      {"layer.1.DenseReluDense.wo", "ffn_down"},
      {"shared", "token_embd"}};
  const auto own = golden::source("t5", "model");
  auto result = std::make_shared<MemorySource>();
  for (const auto& [name, info] : own->tensors()) {
    std::string renamed = name;
    for (const auto& [from, to] : kPieces)
      if (const size_t at = renamed.find(from); at != renamed.npos)
        renamed.replace(at, from.size(), to);
    result->put(renamed, golden::tensor(*own, name));
  }
  return result;
}

struct Row {
  std::string_view model, own, other;  // names in the model's own layout and in the other one
  QuantRole role;
};

constexpr Row kRows[] = {
    {"flux_dev", "img_in.weight", "x_embedder.weight", R::keep},
    {"flux_dev", "txt_in.weight", "context_embedder.weight", R::keep},
    {"flux_dev", "time_in.in_layer.weight", "time_text_embed.timestep_embedder.linear_1.weight",
     R::keep},
    {"flux_dev", "vector_in.out_layer.weight", "time_text_embed.text_embedder.linear_2.weight",
     R::keep},
    {"flux_dev", "guidance_in.in_layer.weight", "time_text_embed.guidance_embedder.linear_1.weight",
     R::keep},
    {"flux_dev", "final_layer.linear.weight", "proj_out.weight", R::keep},
    {"flux_dev", "final_layer.adaLN_modulation.1.weight", "norm_out.linear.weight", R::keep},
    {"flux_dev", "double_blocks.0.img_attn.qkv.weight", "transformer_blocks.0.attn.to_q.weight",
     R::fused},
    {"flux_dev", "double_blocks.0.img_attn.qkv.weight", "transformer_blocks.0.attn.to_v.weight",
     R::fused},
    {"flux_dev", "double_blocks.1.txt_attn.qkv.weight",
     "transformer_blocks.1.attn.add_v_proj.weight", R::fused},
    {"flux_dev", "double_blocks.0.img_attn.proj.weight",
     "transformer_blocks.0.attn.to_out.0.weight", R::plain},
    {"flux_dev", "double_blocks.0.img_mod.lin.weight", "transformer_blocks.0.norm1.linear.weight",
     R::plain},
    {"flux_dev", "double_blocks.0.img_mlp.0.weight", "transformer_blocks.0.ff.net.0.proj.weight",
     R::plain},
    {"flux_dev", "double_blocks.0.img_mlp.2.weight", "transformer_blocks.0.ff.net.2.weight",
     R::down},
    {"flux_dev", "double_blocks.0.txt_mlp.2.weight", "transformer_blocks.0.ff_context.net.2.weight",
     R::down},
    {"flux_dev", "single_blocks.0.linear1.weight", "single_transformer_blocks.0.attn.to_v.weight",
     R::plain},
    {"flux_dev", "single_blocks.0.linear1.weight", "single_transformer_blocks.0.proj_mlp.weight",
     R::plain},
    {"flux_dev", "single_blocks.0.linear2.weight", "single_transformer_blocks.0.proj_out.weight",
     R::plain},
    {"flux_schnell", "final_layer.linear.weight", "proj_out.weight", R::keep},
    {"flux_fill", "img_in.weight", "x_embedder.weight", R::keep},
    {"unet_sd1", "time_embed.0.weight", "time_embedding.linear_1.weight", R::keep},
    {"unet_sd1", "input_blocks.0.0.weight", "conv_in.weight", R::keep},
    {"unet_sd1", "out.2.weight", "conv_out.weight", R::keep},
    {"unet_sd1", "input_blocks.1.0.emb_layers.1.weight",
     "down_blocks.0.resnets.0.time_emb_proj.weight", R::keep},
    {"unet_sd1", "input_blocks.1.0.out_layers.3.weight", "down_blocks.0.resnets.0.conv2.weight",
     R::plain},
    {"unet_sd1", "output_blocks.2.0.in_layers.2.weight", "up_blocks.1.resnets.0.conv1.weight",
     R::plain},
    {"unet_sdxl", "label_emb.0.2.weight", "add_embedding.linear_2.weight", R::keep},
    {"unet_sdxl", "middle_block.1.transformer_blocks.0.attn1.to_v.weight",
     "mid_block.attentions.0.transformer_blocks.0.attn1.to_v.weight", R::value},
    {"unet_sdxl", "middle_block.1.transformer_blocks.0.attn2.to_v.weight",
     "mid_block.attentions.0.transformer_blocks.0.attn2.to_v.weight", R::value},
    {"unet_sdxl", "middle_block.1.transformer_blocks.0.attn1.to_out.0.weight",
     "mid_block.attentions.0.transformer_blocks.0.attn1.to_out.0.weight", R::plain},
    {"unet_sdxl", "middle_block.1.transformer_blocks.0.ff.net.2.weight",
     "mid_block.attentions.0.transformer_blocks.0.ff.net.2.weight", R::down},
    {"unet_sdxl", "middle_block.1.proj_out.weight", "mid_block.attentions.0.proj_out.weight",
     R::plain},
    {"t5", "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight",
     "enc.blk.0.attn_rel_b.weight", R::keep},
    {"t5", "encoder.block.0.layer.0.SelfAttention.q.weight", "enc.blk.0.attn_q.weight", R::plain},
    {"t5", "encoder.block.0.layer.0.SelfAttention.v.weight", "enc.blk.0.attn_v.weight", R::value},
    {"t5", "encoder.block.0.layer.1.DenseReluDense.wi_0.weight", "enc.blk.0.ffn_gate.weight",
     R::plain},
    {"t5", "encoder.block.0.layer.1.DenseReluDense.wo.weight", "enc.blk.0.ffn_down.weight",
     R::down},
    {"t5", "shared.weight", "token_embd.weight", R::plain},
};

TEST(QuantRules, GiveTensorsTheirRolesInEveryLayout) {
  std::map<std::string_view, std::array<QuantPart, 2>> parts;
  std::map<std::string_view, std::array<std::shared_ptr<const TensorSource>, 2>> sources;
  for (const Row& row : kRows) {
    SCOPED_TRACE(row.own);
    if (!parts.contains(row.model)) {
      const std::string name(row.model);
      sources[row.model] = {model(name, false), name == "t5" ? llama_t5() : model(name, true)};
      for (size_t i = 0; i < 2; ++i) parts[row.model][i] = quantisable_part(sources[row.model][i]);
    }
    for (size_t i = 0; i < 2; ++i) {
      const std::string_view name = i == 0 ? row.own : row.other;
      EXPECT_TRUE(sources[row.model][i]->tensors().contains(name)) << name;
      EXPECT_EQ(quant_role(parts[row.model][i], name), row.role) << name;
    }
  }
}

// Every tensor of the model, by its own name.
TEST(QuantRules, AgreeInAllLayoutsOfAModel) {
  for (const std::string name : {"flux_dev", "flux_schnell", "flux_fill", "unet_sd1", "unet_sd2",
                                 "unet_sdxl", "unet_refiner", "tiny_sd", "t5"}) {
    SCOPED_TRACE(name);
    const QuantPart own = quantisable_part(model(name, false));
    const auto other = name == "t5" ? llama_t5() : model(name, true);
    const QuantPart part = quantisable_part(other);
    EXPECT_EQ(part.name, own.name);
    EXPECT_NE(part.layout, own.layout);
    for (const auto& [stored, info] : other->tensors()) {
      const auto of = part.tensors.find(stored);
      ASSERT_NE(of, part.tensors.end()) << stored;
      EXPECT_EQ(quant_role(part, stored), quant_role(own, of->second.name)) << stored;
    }
  }
}

// Whole checkpoints and folders have prefixes; what lies beside the denoiser stays.
TEST(QuantRules, CountOnlyWithinThePart) {
  const auto flux = model("flux_schnell", true);
  auto whole = std::make_shared<MemorySource>();
  for (const auto& [name, info] : flux->tensors())
    whole->put("transformer." + name, golden::tensor(*flux, name));
  whole->put("vae.decoder.conv_in.weight", at::zeros({64, 64}));
  const QuantPart part = quantisable_part(whole);
  EXPECT_EQ(part.prefix, "transformer.");
  EXPECT_EQ(quant_role(part, "transformer.proj_out.weight"), R::keep);
  EXPECT_EQ(quant_role(part, "transformer.transformer_blocks.0.ff.net.2.weight"), R::down);
  EXPECT_EQ(quant_role(part, "vae.decoder.conv_in.weight"), R::keep);
}

TEST(QuantRules, OfJoinedTensorsAreFused) {
  const std::string block = "transformer.resblocks.0.attn.";
  QuantPart part = quantisable_part(golden::source("clip_l", "model"));
  for (const char* of : {"q", "k", "v"})
    part.tensors.emplace(
        block + "in_proj_weight",
        ModelTensor{fmt::format("text_model.encoder.layers.0.self_attn.{}_proj.weight", of)});
  EXPECT_EQ(quant_role(part, block + "in_proj_weight"), R::fused);
}

struct Unknown {
  std::string_view name;
  QuantRole role;
};

// Names of other architectures, as their releases have them.
constexpr Unknown kUnknown[] = {
    {"adaln_single.linear.weight", R::keep},
    {"caption_projection.linear_1.weight", R::keep},
    {"patchify_proj.weight", R::keep},
    {"scale_shift_table", R::keep},
    {"transformer_blocks.0.scale_shift_table", R::keep},
    {"positional_encoding", R::keep},
    {"register_tokens", R::keep},
    {"init_x_linear.weight", R::keep},
    {"cond_seq_linear.weight", R::keep},
    {"final_linear.weight", R::keep},
    {"modF.1.weight", R::keep},
    {"context_refiner.0.attention.qkv.weight", R::keep},
    {"noise_refiner.1.feed_forward.w2.weight", R::keep},
    {"double_stream_blocks.0.block.ff_i.gate.weight", R::keep},
    {"time_projection.1.weight", R::keep},
    {"img_emb.emb_pos", R::keep},
    {"head.head.weight", R::keep},
    {"pos_embedder.seq", R::keep},
    {"x_embedder.proj.1.weight", R::keep},
    {"y_embedder.mlp.2.weight", R::keep},
    {"vector_in.in_layer.weight", R::keep},
    {"proj_out.weight", R::keep},
    {"encoder.block.3.layer.0.SelfAttention.relative_attention_bias.weight", R::keep},
    {"double_layers.0.attn.w1v.weight", R::value},
    {"blocks.0.self_attn.v.weight", R::value},
    {"blocks.0.cross_attn.v.weight", R::value},
    {"encoder.block.3.layer.0.SelfAttention.v.weight", R::value},
    {"layers.0.attention.qkv.weight", R::fused},
    {"joint_blocks.0.x_block.attn.qkv.weight", R::fused},
    {"blocks.0.ffn.2.weight", R::down},
    {"blocks.0.mlp.layer2.weight", R::down},
    {"layers.0.feed_forward.w2.weight", R::down},
    {"double_stream_blocks.0.block.ff_i.experts.3.w2.weight", R::down},
    {"double_stream_blocks.0.block.ff_i.experts.3.w1.weight", R::plain},
    {"blocks.0.self_attn.q.weight", R::plain},
    {"blocks.0.ffn.0.weight", R::plain},
    {"single_transformer_blocks.3.proj_out.weight", R::plain},
    {"layers.0.attention.out.weight", R::plain},
};

TEST(QuantRules, OfUnknownModelsGoByTheUsualNames) {
  auto source = std::make_shared<MemorySource>();
  source->put("blocks.0.weight", at::zeros({4}));
  const QuantPart part = quantisable_part(source);
  EXPECT_EQ(part.name, "unknown");
  for (const Unknown& row : kUnknown) EXPECT_EQ(quant_role(part, row.name), row.role) << row.name;
}

}  // namespace
}  // namespace atelier
