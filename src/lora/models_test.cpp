// Tiny models with LoRAs in the trainers' own spellings, against diffusers.
#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "lora/lora.h"
#include "models/golden_files.h"
#include "models/model.h"
#include "models/text_encoder.h"

namespace atelier {
namespace {

using at::Tensor;

std::shared_ptr<const TensorSource> lora_file(const std::string& name) {
  return open_checkpoint(std::filesystem::path(ATELIER_SOURCE_DIR) / "tests" / "golden" / "lora" /
                         (name + ".safetensors"));
}

/// A part of a golden model, bound and ready to be patched.
template <class Interface>
struct Bound {
  Residency residency;
  WeightShapes weights;
  const PartDef<Interface>* def = nullptr;
  std::unique_ptr<Interface> part;

  Bound(const PartDef<Interface>& row, const std::shared_ptr<const TensorSource>& source,
        std::span<const std::string_view> prefixes)
      : def(&row) {
    const auto place = find_place(*source, prefixes, row.layouts);
    BindReport report;
    part = load_part(row, source, *place, residency, report, Compute{});
    report.throw_if_bad(source->label());
    weights = report.manifest();
  }
  LoraPart as_part(bool denoiser) const { return {def->name, denoiser, def->layouts, &weights}; }
};

/// A denoiser with any number of text encoders.
struct Model {
  explicit Model(const std::string& golden_folder, std::vector<std::string> encoders = {})
      : source(golden::source(golden_folder, "model")),
        expected(golden::source(golden_folder, "expected")),
        def(detect_model(source).def),
        unet(def->denoiser, source, def->prefixes) {
    constexpr std::string_view kBare[] = {""};
    for (size_t i = 0; i < encoders.size(); ++i)
      text.push_back(std::make_unique<Bound<TextEncoder>>(
          *def->text[i].encoder, golden::source(encoders[i], "model"), kBare));
  }

  LoraModel as_lora_model() const {
    LoraModel model{def->name, def->title, {unet.as_part(true)}};
    for (const auto& encoder : text) model.parts.push_back(encoder->as_part(false));
    return model;
  }

  void use(const Lora& lora, double strength) {
    std::vector<PatchTable> tables(1 + text.size());
    for (const Lora::Change& change : lora.changes) {
      PlacedPatch placed = change.placed;
      placed.strength = strength;
      tables[change.part][change.weight].push_back(placed);
    }
    unet.residency.set_patches(tables[0]);
    for (size_t i = 0; i < text.size(); ++i) text[i]->residency.set_patches(tables[i + 1]);
  }

  Tensor output() const {
    DiffusionInput in;
    in.x = golden::tensor(*expected, "x");
    in.timestep = golden::tensor(*expected, "timestep");
    in.context = nn::Context(golden::tensor(*expected, "context"));
    if (expected->tensors().contains("vector")) in.vector = golden::tensor(*expected, "vector");
    if (expected->tensors().contains("guidance"))
      in.guidance = golden::tensor(*expected, "guidance");
    return unet.part->forward(in);
  }

  // Every eighth position, as the golden keeps them.
  Tensor hidden(size_t i, const std::string& encoder) const {
    const Tensor tokens = golden::tensor(*golden::source(encoder, "expected"), "tokens");
    std::vector<TokenChunk> chunks(static_cast<size_t>(tokens.size(0)));
    for (size_t c = 0; c < chunks.size(); ++c)
      for (int64_t t = 0; t < tokens.size(1); ++t)
        chunks[c].ids.push_back(
            static_cast<int32_t>(tokens[static_cast<int64_t>(c)][t].item<int64_t>()));
    return text[i]
        ->part->encode(chunks, {.layer = -1, .final_norm = true})
        .hidden.slice(1, 0, {}, 8);
  }

  std::shared_ptr<const TensorSource> source, expected;
  const ModelDef* def;
  Bound<DiffusionModel> unet;
  std::vector<std::unique_ptr<Bound<TextEncoder>>> text;
};

struct Case {
  std::string lora, model;
  std::vector<std::string> encoders = {};
  size_t changes_at_least = 10;
};

class Models : public ::testing::TestWithParam<Case> {};

TEST_P(Models, DrawAsTheReferenceWithTheSameLora) {
  const Case& c = GetParam();
  Model model(c.model, c.encoders);
  const Tensor plain = model.output();
  const auto lora = read_lora(*lora_file(c.lora), model.as_lora_model());
  EXPECT_GE(lora->changes.size(), c.changes_at_least);
  for (const LoraWarning& warning : lora->warnings) ADD_FAILURE() << warning.message;
  const auto want = lora_file(c.lora + "_expected");
  model.use(*lora, std::stod(want->metadata().at("strength")));
  const Tensor changed = model.output();
  EXPECT_TRUE(golden::close(changed, golden::tensor(*want, "output"), 1e-4));
  EXPECT_GT(golden::relative_error(plain, changed), 0.01);
  for (size_t i = 0; i < c.encoders.size(); ++i)
    EXPECT_TRUE(golden::close(model.hidden(i, c.encoders[i]),
                              golden::tensor(*want, i == 0 ? "text" : "text_2"), 1e-4));
  model.use({}, 1);
  EXPECT_TRUE(at::equal(model.output(), plain));
}

INSTANTIATE_TEST_SUITE_P(
    Lora, Models,
    ::testing::Values(Case{"sd1_kohya", "unet_sd1", {"clip_l"}, 50},
                      Case{"sd2_kohya", "unet_sd2", {"clip_h"}, 20},
                      Case{"sdxl_kohya", "unet_sdxl", {"clip_l", "clip_g"}, 50},
                      Case{"flux_diffusers", "flux_dev"}, Case{"flux_kohya", "flux_dev"},
                      Case{"flux_xlabs", "flux_dev"}, Case{"flux_control", "flux_dev"}),
    [](const auto& test) { return test.param.lora; });

// One file's tensors under the names another trainer would have given them.
std::shared_ptr<MemorySource> respelled(const TensorSource& file,
                                        const std::function<std::string(std::string)>& spell) {
  auto result = std::make_shared<MemorySource>(file.label());
  for (const auto& [name, info] : file.tensors())
    result->put(spell(name), golden::tensor(file, name));
  return result;
}

void replace(std::string& text, std::string_view from, std::string_view to) {
  for (size_t at; (at = text.find(from)) != text.npos;) text.replace(at, from.size(), to);
}

TEST(Spellings, OfOneLoraMeanTheSame) {
  Model model("flux_dev");
  const auto file = lora_file("flux_diffusers");
  const auto reference = read_lora(*file, model.as_lora_model());
  const std::function<std::string(std::string)> spellings[] = {
      [](std::string name) { return "base_model.model." + name; },
      [](std::string name) {
        replace(name, "transformer.", "lora_transformer_");  // also inside: undone below
        replace(name, "_blocks.", "_blocks_");
        std::string stem = name.substr(
            0, name.find(".lora_A") == name.npos ? name.find(".lora_B") : name.find(".lora_A"));
        const std::string rest = name.substr(stem.size());
        std::ranges::replace(stem, '.', '_');
        return stem + (rest == ".lora_A.weight" ? ".lora_down.weight" : ".lora_up.weight");
      },
      [](std::string name) {
        replace(name, "lora_A.weight", "lora.down.weight");
        replace(name, "lora_B.weight", "lora.up.weight");
        return name;
      },
      [](std::string name) {
        replace(name, "lora_A.weight", "lora_A.default.weight");
        return name;
      },
  };
  for (const auto& spell : spellings) {
    const auto lora = read_lora(*respelled(*file, spell), model.as_lora_model());
    ASSERT_EQ(lora->changes.size(), reference->changes.size());
    EXPECT_TRUE(lora->warnings.empty());
    std::set<std::pair<std::string, int64_t>> places, wanted;
    for (const auto& change : lora->changes)
      places.insert({change.weight, change.placed.first_row});
    for (const auto& change : reference->changes)
      wanted.insert({change.weight, change.placed.first_row});
    EXPECT_EQ(places, wanted);
  }
}

TEST(Spellings, OfOneWeightMeanTheSameOne) {
  struct Row {
    std::string golden, encoder, weight;
    std::vector<std::string> stems;
  };
  const Row rows[] = {
      {"unet_sd2",
       "clip_h",
       "text_model.encoder.layers.0.self_attn.q_proj.weight",
       {"lora_te_text_model_encoder_layers_0_self_attn_q_proj",
        "text_encoder.text_model.encoder.layers.0.self_attn.q_proj",
        "text_encoder.base_model.model.text_model.encoder.layers.0.self_attn.q_proj",
        "base_model.model.text_encoder.text_model.encoder.layers.0.self_attn.q_proj",
        "text_encoders.clip_h.transformer.text_model.encoder.layers.0.self_attn.q_proj",
        "clip_h.transformer.text_model.encoder.layers.0.self_attn.q_proj"}},
      {"unet_sd1",
       "clip_l",
       "middle_block.1.transformer_blocks.0.attn1.to_q.weight",
       {"lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_q",
        "unet.base_model.model.mid_block.attentions.0.transformer_blocks.0.attn1.to_q",
        "base_model.model.mid_block.attentions.0.transformer_blocks.0.attn1.to_q"}},
      {"flux_dev",
       "",
       "double_blocks.0.img_attn.proj.weight",
       {"transformer.transformer_blocks.0.attn.to_out.0",
        "transformer.base_model.model.transformer_blocks.0.attn.to_out.0"}}};
  for (const Row& row : rows) {
    const std::vector<std::string> encoders(row.encoder.empty() ? 0 : 1, row.encoder);
    const Model model(row.golden, encoders);
    const bool text = row.weight.starts_with("text_model");
    const Shape shape = (text ? model.text[0]->weights : model.unet.weights).at(row.weight);
    for (const std::string& stem : row.stems) {
      MemorySource file("one.safetensors");
      file.put(stem + ".lora_A.weight", at::ones({1, shape[1]}));
      file.put(stem + ".lora_B.weight", at::ones({shape[0], 1}));
      const auto lora = read_lora(file, model.as_lora_model());
      ASSERT_EQ(lora->changes.size(), 1U) << stem;
      EXPECT_EQ(lora->changes[0].weight, row.weight) << stem;
      EXPECT_EQ(lora->changes[0].part, text ? 1U : 0U) << stem;
    }
  }
}

TEST(Spellings, OfEarlyAttentionProcessorsAreKnown) {
  Model model("unet_sd1", {"clip_l"});
  MemorySource file("early.safetensors");
  const auto put = [&](const std::string& name, int64_t rows, int64_t columns) {
    file.put(name + ".up.weight", at::ones({rows, 1}));
    file.put(name + ".down.weight", at::ones({1, columns}));
  };
  const std::string block = "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.processor.";
  for (const char* leaf : {"to_q_lora", "to_k_lora", "to_v_lora", "to_out_lora"})
    put(block + leaf, 32, 32);
  put("text_encoder.text_model.encoder.layers.0.self_attn.to_q_lora", 32, 32);
  put("text_encoder.text_model.encoder.layers.1.self_attn.out_proj.lora_linear_layer", 32, 32);
  const auto lora = read_lora(file, model.as_lora_model());
  EXPECT_TRUE(lora->warnings.empty());
  std::set<std::string> weights;
  for (const auto& change : lora->changes) weights.insert(change.weight);
  const std::string own = "input_blocks.1.1.transformer_blocks.0.attn1.";
  EXPECT_EQ(weights,
            (std::set<std::string>{own + "to_q.weight", own + "to_k.weight", own + "to_v.weight",
                                   own + "to_out.0.weight",
                                   "text_model.encoder.layers.0.self_attn.q_proj.weight",
                                   "text_model.encoder.layers.1.self_attn.out_proj.weight"}));
}

TEST(Spellings, OfT5AreKnown) {
  Model model("flux_dev");
  constexpr std::string_view kBare[] = {""};
  const Bound<TextEncoder> t5(t5xxl_encoder, golden::source("t5", "model"), kBare);
  LoraModel with_t5 = model.as_lora_model();
  with_t5.parts.push_back(t5.as_part(false));
  const std::string name = "encoder.block.0.layer.0.SelfAttention.q.weight";
  const Shape shape = t5.weights.at(name);
  for (const char* stem :
       {"lora_te3_encoder_block_0_layer_0_SelfAttention_q",
        "lora_te2_encoder_block_0_layer_0_SelfAttention_q",
        "text_encoder_2.encoder.block.0.layer.0.SelfAttention.q",
        "text_encoders.t5xxl.transformer.encoder.block.0.layer.0.SelfAttention.q",
        "t5xxl.transformer.enc.blk.0.attn_q"}) {
    MemorySource file("t5.safetensors");
    file.put(std::string(stem) + ".lora_up.weight", at::ones({shape[0], 1}));
    file.put(std::string(stem) + ".lora_down.weight", at::ones({1, shape[1]}));
    const auto lora = read_lora(file, with_t5);
    ASSERT_EQ(lora->changes.size(), 1U) << stem;
    EXPECT_EQ(lora->changes[0].weight, name);
    EXPECT_EQ(lora->changes[0].part, 1U);
  }
}

TEST(Spellings, OfOpenClipAreTakenApartAndTransposed) {
  Model model("unet_sdxl", {"clip_l", "clip_g"});
  MemorySource file("open_clip.safetensors");
  const std::string head = "conditioner.embedders.1.model.";
  file.put(head + "transformer.resblocks.0.attn.in_proj.lora_up.weight", at::ones({96, 1}));
  file.put(head + "transformer.resblocks.0.attn.in_proj.lora_down.weight", at::ones({1, 32}));
  file.put(head + "text_projection.lora_up.weight", at::ones({32, 1}));
  file.put(head + "text_projection.lora_down.weight", at::ones({1, 48}));
  file.put("lora_te2_text_projection.lora_up.weight", at::ones({48, 1}));
  file.put("lora_te2_text_projection.lora_down.weight", at::ones({1, 32}));
  const auto lora = read_lora(file, model.as_lora_model());
  EXPECT_TRUE(lora->warnings.empty()) << lora->warnings.front().message;
  std::multiset<std::string> weights;
  for (const auto& change : lora->changes) {
    EXPECT_EQ(change.part, 2U);
    weights.insert(change.weight);
  }
  const std::string own = "text_model.encoder.layers.0.self_attn.";
  EXPECT_EQ(weights, (std::multiset<std::string>{own + "q_proj.weight", own + "k_proj.weight",
                                                 own + "v_proj.weight", "text_projection.weight",
                                                 "text_projection.weight"}));
}

}  // namespace
}  // namespace atelier
