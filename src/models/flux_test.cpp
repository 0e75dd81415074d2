// FLUX.1 against diffusers: every block and the whole, both layouts, bf16, variants told apart, and
// what is said of files and inputs that do not fit.
#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <gtest/gtest.h>

#include "models/denoiser_test.h"

namespace atelier {
namespace {

using namespace golden;

struct Case {
  const char* folder;
  int64_t channels;
  double guidance;
};

class Flux : public ::testing::TestWithParam<Case> {
 protected:
  std::shared_ptr<const TensorSource> weights = source(GetParam().folder, "model");
  std::shared_ptr<const TensorSource> expected = source(GetParam().folder, "expected");
  at::Tensor want(const std::string& name) { return tensor(*expected, name); }
};

TEST_P(Flux, IsRecognised) {
  const Detected found = detect_model(weights);
  EXPECT_EQ(found.def->name, GetParam().folder);
  EXPECT_EQ(found.def->latent.channels, 16);
  const auto net = load(weights);
  const ModelTraits& traits = net->model->traits();
  EXPECT_EQ(traits.in_channels, GetParam().channels);
  EXPECT_EQ(traits.out_channels, 16);
  EXPECT_EQ(traits.context_width, want("context").size(2));
  EXPECT_EQ(traits.vector_width, want("vector").size(1));
  EXPECT_EQ(traits.guidance, GetParam().guidance);
  EXPECT_EQ(traits.output, OutputKind::flow);
}

TEST_P(Flux, AgreesWithDiffusersBlockByBlock) {
  DiffusionInput in = input(*expected);
  size_t blocks = 0;
  in.observe = [&](std::string_view block, const at::Tensor& output) {
    ++blocks;
    EXPECT_TRUE(close(output, want(std::string(block)), 1e-4)) << block;
  };
  const at::Tensor output = load(weights)->model->forward(in);
  EXPECT_TRUE(close(output, want("output"), 1e-4));
  size_t kept = 0;
  for (const auto& [name, info] : expected->tensors()) kept += name.find("_blocks.") != name.npos;
  EXPECT_EQ(blocks, kept);
  EXPECT_EQ(output.scalar_type(), at::kFloat);
}

TEST_P(Flux, InTheDiffusersLayoutGivesTheSameBytes) {
  const auto other = renamed(*weights, GetParam().folder);
  EXPECT_EQ(detect_model(other).denoiser.layout->name, "diffusers");
  for (const at::ScalarType dtype : {at::kFloat, at::kBFloat16}) {
    const at::Tensor a = load(weights, dtype)->model->forward(input(*expected));
    const at::Tensor b = load(other, dtype)->model->forward(input(*expected));
    EXPECT_TRUE(at::equal(a, b));
  }
}

TEST_P(Flux, InBf16StaysNearFp32) {
  const auto net = load(weights, at::kBFloat16);
  EXPECT_TRUE(close(net->model->forward(input(*expected)), want("output"), 3e-2));
}

TEST_P(Flux, RepeatsToTheByteOnAnyNumberOfThreads) {
  const auto net = load(weights, at::kBFloat16);
  const DiffusionInput in = input(*expected);
  const at::Tensor x = in.x.clone();
  const int before = at::get_num_threads();
  at::set_num_threads(1);
  const at::Tensor one = net->model->forward(in);
  at::set_num_threads(2);
  const at::Tensor two = net->model->forward(in);
  at::set_num_threads(before);
  EXPECT_TRUE(at::equal(one, two));
  EXPECT_TRUE(at::equal(in.x, x));
}

DiffusionInput element(const DiffusionInput& both, int64_t i) {
  DiffusionInput one = both;
  one.x = both.x.narrow(0, i, 1);
  one.timestep = both.timestep.narrow(0, i, 1);
  one.context = nn::Context(both.context.embedding().narrow(0, i, 1));
  one.vector = both.vector.narrow(0, i, 1);
  if (both.guidance.defined()) one.guidance = both.guidance.narrow(0, i, 1);
  return one;
}

TEST_P(Flux, ABatchElementIsWhatItIsAlone) {
  const auto net = load(weights);
  const DiffusionInput both = input(*expected);
  const at::Tensor output = net->model->forward(both);
  for (int64_t i = 0; i < 2; ++i)
    EXPECT_TRUE(close(net->model->forward(element(both, i)), output.narrow(0, i, 1), 1e-5));
}

TEST_P(Flux, AnOddPictureGoesOnWithItsFirstRowAndColumn) {
  const auto net = load(weights);
  DiffusionInput in = input(*expected);
  in.x.select(2, in.x.size(2) - 1).copy_(in.x.select(2, 0));
  in.x.select(3, in.x.size(3) - 1).copy_(in.x.select(3, 0));
  const at::Tensor even = net->model->forward(in);
  in.x = in.x.narrow(2, 0, in.x.size(2) - 1).narrow(3, 0, in.x.size(3) - 1);
  const at::Tensor odd = net->model->forward(in);
  EXPECT_TRUE(at::equal(odd, even.narrow(2, 0, odd.size(2)).narrow(3, 0, odd.size(3))));
}

TEST_P(Flux, FindsItsPositionsAgainForEveryShape) {
  const auto net = load(weights);
  const DiffusionInput in = input(*expected);
  const at::Tensor first = net->model->forward(in);
  DiffusionInput turned = in;
  turned.x = in.x.transpose(2, 3);
  net->model->forward(turned);
  EXPECT_TRUE(at::equal(net->model->forward(in), first));
}

INSTANTIATE_TEST_SUITE_P(Golden, Flux,
                         ::testing::Values(Case{"flux_dev", 16, 3.5}, Case{"flux_schnell", 16, 0},
                                           Case{"flux_fill", 96, 3.5}),
                         [](const auto& test) { return std::string(test.param.folder); });

TEST(FluxFiles, AreFoundUnderEveryPrefix) {
  const auto weights = source("flux_schnell", "model");
  for (const std::string prefix : {"model.diffusion_model.", "transformer.", "diffusion_model.",
                                   "model.model.", "net.", "model.", ""}) {
    const auto checkpoint = prefixed(*weights, prefix);
    EXPECT_EQ(detect_model(checkpoint).denoiser.prefix, prefix);
    EXPECT_NO_THROW(load(checkpoint));
  }
}

TEST(FluxFiles, OfCannyAndDepthHaveTwiceTheInputs) {
  const auto weights = editable(*source("flux_dev", "model"));
  const at::Tensor inputs = weights->tensor("img_in.weight");
  weights->put("img_in.weight", at::cat({inputs, at::zeros_like(inputs)}, 1));
  EXPECT_EQ(detect_model(weights).def->name, "flux_control");
  const auto net = load(weights);
  EXPECT_EQ(net->model->traits().in_channels, 32);
  const auto expected = source("flux_dev", "expected");
  DiffusionInput in = input(*expected);
  in.concat = at::randn_like(in.x);
  EXPECT_TRUE(close(net->model->forward(in), tensor(*expected, "output"), 1e-4));
}

TEST(FluxFiles, OfFillJoinPictureAndMaskToTheLatent) {
  const auto expected = source("flux_fill", "expected");
  const auto net = load(source("flux_fill", "model"));
  DiffusionInput in = input(*expected);
  in.concat = in.x.narrow(1, 16, 80);
  in.x = in.x.narrow(1, 0, 16);
  EXPECT_TRUE(close(net->model->forward(in), tensor(*expected, "output"), 1e-4));
}

TEST(FluxFiles, DifferInNoiseLevels) {
  const ModelDef& dev = *detect_model(source("flux_dev", "model")).def;
  EXPECT_EQ(dev.noise_levels, NoiseLevels::flux);
  EXPECT_EQ(dev.noise_shift, 1.15);
  const ModelDef& schnell = *detect_model(source("flux_schnell", "model")).def;
  EXPECT_EQ(schnell.noise_levels, NoiseLevels::flow);
  EXPECT_EQ(schnell.noise_shift, 1);
  EXPECT_EQ(schnell.timestep_scale, 1);
}

TEST(FluxFiles, ThatLackHaveTooMuchOrMisfitAreToldWhole) {
  const auto weights = editable(*source("flux_schnell", "model"));
  weights->remove("single_blocks.0.linear2.bias");
  weights->put("double_blocks.0.txt_mlp.0.weight", at::zeros({128, 31}));
  weights->put("somebody.elses", at::zeros({2}));
  const std::string text = message([&] { load(weights); }, ErrorCode::mismatch);
  for (const char* part :
       {"3 tensors", "missing single_blocks.0.linear2.bias [32]",
        "double_blocks.0.txt_mlp.0.weight: file has [128, 31]", "unused somebody.elses"})
    EXPECT_NE(text.find(part), std::string::npos) << part << "\n" << text;
}

TEST(FluxFiles, InTheDiffusersLayoutNameTheSourceTheyLack) {
  const auto weights = renamed(*source("flux_schnell", "model"), "flux_schnell");
  weights->remove("single_transformer_blocks.0.proj_mlp.bias");
  const std::string text = message([&] { load(weights); }, ErrorCode::mismatch);
  EXPECT_NE(text.find("missing single_transformer_blocks.0.proj_mlp.bias"), text.npos) << text;
}

TEST(FluxFiles, WhoseHeadsOrOutputsFitNoConfigAreRefused) {
  const auto refused = [](const char* name, at::IntArrayRef shape) {
    const auto weights = editable(*source("flux_schnell", "model"));
    weights->put(name, at::zeros(shape));
    const std::string text = message([&] { load(weights); }, ErrorCode::mismatch);
    EXPECT_NE(text.find(name), text.npos) << text;
  };
  refused("double_blocks.0.img_attn.norm.query_norm.scale", {16});
  refused("double_blocks.0.img_attn.norm.query_norm.scale", {64});
  refused("double_blocks.0.img_attn.norm.query_norm.scale", {});
  refused("final_layer.linear.weight", {63, 32});
}

TEST(FluxFiles, OfOtherModelsWithLikeBlocksAreNamed) {
  const auto weights = editable(*source("flux_schnell", "model"));
  weights->remove("vector_in.in_layer.weight");
  weights->put("distilled_guidance_layer.in_proj.weight", at::zeros({4, 4}));
  EXPECT_NE(message([&] { detect_model(weights); }, ErrorCode::unsupported).find("a Chroma model"),
            std::string::npos);
  const auto control = editable(*source("flux_dev", "model"));
  control->remove("final_layer.linear.weight");
  control->put("controlnet_blocks.0.weight", at::zeros({4, 4}));
  EXPECT_NE(message([&] { detect_model(control); }, ErrorCode::unsupported).find("a ControlNet"),
            std::string::npos);
}

TEST(FluxFiles, MayCallTheScalesOfNormsWeights) {
  const auto plain = source("flux_dev", "model");
  const auto renamed = std::make_shared<MemorySource>("model.safetensors");
  for (const auto& [name, info] : plain->tensors()) {
    std::string other = name;
    if (const size_t at = other.find("_norm.scale"); at != other.npos)
      other.replace(at, std::string::npos, "_norm.weight");
    renamed->put(other, tensor(*plain, name));
  }
  const auto expected = source("flux_dev", "expected");
  EXPECT_EQ(detect_model(renamed).def, detect_model(plain).def);
  EXPECT_TRUE(at::equal(load(renamed)->model->forward(input(*expected)),
                        load(plain)->model->forward(input(*expected))));
}

TEST(FluxInputs, WithoutGuidanceAreToldTheUsual) {
  const auto net = load(source("flux_dev", "model"));
  DiffusionInput in = input(*source("flux_dev", "expected"));
  in.guidance = at::full({2}, 3.5);
  const at::Tensor told = net->model->forward(in);
  in.guidance = at::Tensor();
  EXPECT_TRUE(at::equal(net->model->forward(in), told));
  in.guidance = at::full({2}, 1.0);
  EXPECT_FALSE(at::equal(net->model->forward(in), told));
}

// What the model makes of the golden's input while it looks at `references`.
at::Tensor looking_at(const std::vector<at::Tensor>& references) {
  static const auto net = load(source("flux_dev", "model"));
  DiffusionInput in = input(*source("flux_dev", "expected"));
  in.references = references;
  return net->model->forward(in);
}

TEST(FluxInputs, ReferencesAreLaidOutSideBySideAsOnePicture) {
  const at::Tensor wide = at::randn({1, 16, 8, 6});
  const at::Tensor above = wide.narrow(2, 0, 4), below = wide.narrow(2, 4, 4);
  EXPECT_TRUE(at::equal(looking_at({above, below}), looking_at({wide})));
  const at::Tensor tall = at::randn({1, 16, 10, 8});
  const at::Tensor left = tall.narrow(3, 0, 4), right = tall.narrow(3, 4, 4);
  EXPECT_TRUE(close(looking_at({left, right}), looking_at({tall}), 1e-5));
  EXPECT_FALSE(close(looking_at({right, left}), looking_at({tall}), 1e-3));
  EXPECT_FALSE(close(looking_at({}), looking_at({tall}), 1e-3));
}

TEST(FluxInputs, ThatDoNotFitAreRefused) {
  const auto expected = source("flux_dev", "expected");
  const auto net = load(source("flux_dev", "model"));
  const auto refused = [&](auto&& change) {
    DiffusionInput in = input(*expected);
    change(in);
    return message([&] { net->model->forward(in); }, ErrorCode::mismatch);
  };
  refused([](DiffusionInput& in) { in.x = in.x.narrow(1, 0, 4); });
  refused([](DiffusionInput& in) { in.context = {}; });
  refused([](DiffusionInput& in) { in.vector = at::Tensor(); });
  refused([](DiffusionInput& in) { in.guidance = in.guidance.narrow(0, 0, 1); });
  refused([](DiffusionInput& in) { in.references = {at::zeros({1, 4, 2, 2})}; });
  refused([](DiffusionInput& in) { in.references = {at::zeros({2, 16, 2, 2})}; });
}

}  // namespace
}  // namespace atelier
