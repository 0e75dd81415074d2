// The UNet families against diffusers: every block and the whole, both layouts, bf16, detection,
// and what is said of files and inputs that do not fit.
#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <ATen/record_function.h>
#include <gtest/gtest.h>

#include <fmt/format.h>

#include "base/error.h"
#include "device/cpu/kernels.h"
#include "formats/merged_source.h"
#include "models/denoiser_test.h"
#include "models/model.h"

namespace atelier {
namespace {

using namespace golden;

struct Case {
  const char* folder;
  const char* family;
  int64_t channels = 4;
};

class UNet : public ::testing::TestWithParam<Case> {
 protected:
  std::shared_ptr<const TensorSource> weights = golden::source(GetParam().folder, "model");
  std::shared_ptr<const TensorSource> expected = golden::source(GetParam().folder, "expected");
  at::Tensor want(const std::string& name) { return golden::tensor(*expected, name); }
};

TEST_P(UNet, IsRecognised) {
  EXPECT_EQ(detect_model(weights).def->name, GetParam().family);
  const auto net = load(weights);
  EXPECT_EQ(net->model->traits().in_channels, GetParam().channels);
  EXPECT_EQ(net->model->traits().context_width, want("context").size(2));
}

TEST_P(UNet, AgreesWithDiffusersBlockByBlock) {
  DiffusionInput in = input(*expected);
  int blocks = 0;
  in.observe = [&](std::string_view block, const at::Tensor& output) {
    ++blocks;
    const at::Tensor kept = output.narrow(0, 0, 1).slice(1, 0, output.size(1), 4);
    EXPECT_TRUE(golden::close(kept, want(std::string(block)), 1e-4)) << block;
  };
  const at::Tensor output = load(weights)->model->forward(in);
  EXPECT_TRUE(golden::close(output, want("output"), 1e-4));
  EXPECT_GE(blocks, 5);
  EXPECT_EQ(output.scalar_type(), at::kFloat);
  EXPECT_FALSE(output.is_inference());
}

TEST_P(UNet, InTheDiffusersLayoutGivesTheSameBytes) {
  const auto other = golden::renamed(*weights, GetParam().folder);
  EXPECT_EQ(detect_model(other).denoiser.layout->name, "diffusers");
  for (const at::ScalarType dtype : {at::kFloat, at::kBFloat16}) {
    const at::Tensor a = load(weights, dtype)->model->forward(input(*expected));
    const at::Tensor b = load(other, dtype)->model->forward(input(*expected));
    EXPECT_TRUE(at::equal(a, b));
  }
}

TEST_P(UNet, InBf16StaysNearFp32) {
  const auto net = load(weights, at::kBFloat16);
  EXPECT_TRUE(golden::close(net->model->forward(input(*expected)), want("output"), 3e-2));
}

/// Arithmetic of the kernels that run while it lives, as they record it themselves.
class Counted {
 public:
  Counted() {
    gflop = 0;
    handle_ = at::addThreadLocalCallback(
        at::RecordFunctionCallback([](const at::RecordFunction& record) {
          const std::string name = record.name();
          if (const size_t comma = name.rfind(", "); name.ends_with(" GFLOP"))
            gflop += std::stod(name.substr(comma + 2));
          return std::unique_ptr<at::ObserverContext>();
        }).scopes({at::RecordScope::USER_SCOPE}));
  }
  ~Counted() { at::removeCallback(handle_); }
  static thread_local double gflop;

 private:
  at::CallbackHandle handle_;
};
thread_local double Counted::gflop = 0;

TEST_P(UNet, KnowsHowMuchItComputes) {
  if (cpu_kernels(detect_cpu_features()).isa < CpuIsa::avx512)
    GTEST_SKIP() << "the library's kernels, which record nothing, do some of it";
  const auto net = load(weights);
  DiffusionInput in = input(*expected);
  in.x = in.x.repeat({1, 1, 4, 4});  // large enough for the kernels' figures, of a millionth
  const Counted counted;
  net->model->forward(in);
  const double said = net->model->operations(in.x.size(0), in.x.size(2), in.x.size(3));
  EXPECT_NEAR(said * 1e-9 / counted.gflop, 1, 0.25);
}

TEST_P(UNet, RepeatsToTheByteAndLeavesItsInputAlone) {
  const auto net = load(weights, at::kBFloat16);
  const DiffusionInput in = input(*expected);
  const at::Tensor x = in.x.clone();
  const at::Tensor first = net->model->forward(in);
  EXPECT_TRUE(at::equal(net->model->forward(in), first));
  EXPECT_TRUE(at::equal(in.x, x));
}

TEST_P(UNet, GivesTheSameBytesOnOneThreadAsOnTwo) {
  const auto net = load(weights, at::kBFloat16);
  const int before = at::get_num_threads();
  at::set_num_threads(1);
  const at::Tensor one = net->model->forward(input(*expected));
  at::set_num_threads(2);
  const at::Tensor two = net->model->forward(input(*expected));
  at::set_num_threads(before);
  EXPECT_TRUE(at::equal(one, two));
}

TEST_P(UNet, ABatchElementIsWhatItIsAlone) {
  const auto net = load(weights);
  const DiffusionInput both = input(*expected);
  DiffusionInput second = both;
  second.x = both.x.narrow(0, 1, 1);
  second.timestep = both.timestep.narrow(0, 1, 1);
  second.context = nn::Context(both.context.embedding().narrow(0, 1, 1));
  if (both.vector.defined()) second.vector = both.vector.narrow(0, 1, 1);
  EXPECT_TRUE(
      golden::close(net->model->forward(second), net->model->forward(both).narrow(0, 1, 1), 1e-5));
}

INSTANTIATE_TEST_SUITE_P(Golden, UNet,
                         ::testing::Values(Case{"unet_sd1", "sd1"}, Case{"unet_inpaint", "sd1", 9},
                                           Case{"unet_sd2", "sd2"}, Case{"unet_sdxl", "sdxl"},
                                           Case{"unet_refiner", "sdxl_refiner"}),
                         [](const auto& test) { return std::string(test.param.folder); });

TEST(UNetFiles, AreFoundUnderEveryPrefix) {
  const auto weights = golden::source("unet_inpaint", "model");
  for (const std::string prefix : {"model.diffusion_model.", "unet.", "diffusion_model.",
                                   "model.model.", "net.", "model.", ""}) {
    const auto checkpoint = prefixed(*weights, prefix);
    EXPECT_EQ(detect_model(checkpoint).denoiser.prefix, prefix);
    EXPECT_NO_THROW(load(checkpoint));
  }
}

TEST(UNetFiles, JoinMaskAndPictureToTheLatent) {
  const auto expected = golden::source("unet_inpaint", "expected");
  const auto net = load(golden::source("unet_inpaint", "model"));
  DiffusionInput in = input(*expected);
  in.concat = in.x.narrow(1, 4, 5);
  in.x = in.x.narrow(1, 0, 4);
  EXPECT_TRUE(golden::close(net->model->forward(in), golden::tensor(*expected, "output"), 1e-4));
}

TEST(UNetFiles, OfSd2TellVPredictionByTheirLastNorm) {
  const auto weights = golden::editable(*golden::source("unet_sd2", "model"));
  const std::string bias = "output_blocks.1.1.transformer_blocks.0.norm1.bias";
  const at::Tensor spread = at::linspace(-1, 1, 32);
  weights->put(bias, spread * 0.2);  // standard deviation 0.119
  EXPECT_EQ(load(weights)->model->traits().output, OutputKind::v);
  weights->put(bias, spread * 0.1);
  EXPECT_EQ(load(weights)->model->traits().output, OutputKind::eps);
}

TEST(UNetFiles, OfXlSayInMarksHowTheyWereTrained) {
  const auto plain = prefixed(*golden::source("unet_sdxl", "model"), "model.diffusion_model.");
  EXPECT_EQ(load(plain)->model->traits().output, OutputKind::eps);
  plain->put("v_pred", at::zeros({0}));
  EXPECT_EQ(load(plain)->model->traits().output, OutputKind::v);
  EXPECT_FALSE(load(plain)->model->traits().zero_terminal_snr);
  plain->put("ztsnr", at::zeros({0}));
  EXPECT_TRUE(load(plain)->model->traits().zero_terminal_snr);
  plain->put("edm_mean", at::zeros({4}));
  EXPECT_THROW(load(plain), Error);
}

TEST(UNetFiles, OfAFolderAreTrainedAsItsSchedulerSays) {
  const auto unet = golden::source("unet_sd1", "model");
  const auto traits = [&](const std::string& config) {
    const auto folder = std::make_shared<MergedSource>(
        "folder", "diffusers folder", std::vector<SourcePart>{{"unet.", unet}},
        Metadata{{"scheduler/scheduler_config.json", config}});
    return load(folder)->model->traits();
  };
  EXPECT_EQ(traits("{}").output, OutputKind::eps);
  const ModelTraits v =
      traits(R"({"prediction_type": "v_prediction", "rescale_betas_zero_snr": true})");
  EXPECT_EQ(v.output, OutputKind::v);
  EXPECT_TRUE(v.zero_terminal_snr);
  EXPECT_THROW(traits(R"({"prediction_type": "sample"})"), Error);
}

TEST(UNetFiles, ThatLackHaveTooMuchOrMisfitAreToldWhole) {
  const auto weights = golden::editable(*golden::source("unet_inpaint", "model"));
  weights->remove("input_blocks.1.0.in_layers.2.bias");
  weights->put("middle_block.0.emb_layers.1.weight", at::zeros({32, 31}));
  weights->put("somebody.elses", at::zeros({2}));
  const std::string text = message([&] { load(weights); }, ErrorCode::mismatch);
  for (const char* part :
       {"3 tensors", "missing input_blocks.1.0.in_layers.2.bias [32]",
        "middle_block.0.emb_layers.1.weight: file has [32, 31]", "unused somebody.elses"})
    EXPECT_NE(text.find(part), std::string::npos) << part << "\n" << text;
}

TEST(UNetFiles, WhoseBlocksDoNotFollowFromOneAnotherAreRefused) {
  const auto weights = golden::editable(*golden::source("unet_sd1", "model"));
  for (const auto& [name, info] : TensorTable(weights->tensors()))
    if (name.starts_with("output_blocks.5.")) weights->remove(name);
  message([&] { load(weights); }, ErrorCode::mismatch);
}

TEST(UNetFiles, WhoseWidthsNormsCannotGroupAreRefused) {
  const auto weights = golden::editable(*golden::source("unet_inpaint", "model"));
  for (const auto& [name, info] : TensorTable(weights->tensors())) {
    Shape shape = info.shape;
    for (int64_t& extent : shape) extent = extent % 32 == 0 ? extent / 32 * 40 : extent;
    weights->put(name, at::zeros(shape));
  }
  message([&] { load(weights); }, ErrorCode::mismatch);
}

TEST(UNetFiles, OfOtherKindsAreNamed) {
  const auto lora = std::make_shared<MemorySource>("style.safetensors");
  lora->put("lora_unet_down_blocks_0.lora_up.weight", at::zeros({4, 4}));
  const auto control = std::make_shared<MemorySource>("edges.safetensors");
  control->put("zero_convs.0.0.weight", at::zeros({4, 4}));
  const auto told = [](const auto& source, std::initializer_list<const char*> parts) {
    const std::string text = message([&] { detect_model(source); }, ErrorCode::unsupported);
    for (const char* part : parts)
      EXPECT_NE(text.find(part), std::string::npos) << part << "\n" << text;
  };
  told(lora, {"style.safetensors", "a diffusion model", "looks like a LoRA", "--lora"});
  told(control,
       {"edges.safetensors", "Stable Diffusion XL", "FLUX.1 dev", "looks like a ControlNet"});
}

TEST(UNetInputs, ThatDoNotFitAreRefused) {
  const auto expected = golden::source("unet_sdxl", "expected");
  const auto net = load(golden::source("unet_sdxl", "model"));
  const auto refused = [&](auto&& change) {
    DiffusionInput in = input(*expected);
    change(in);
    return message([&] { net->model->forward(in); }, ErrorCode::mismatch);
  };
  refused([](DiffusionInput& in) { in.x = in.x.narrow(1, 0, 3); });
  refused([](DiffusionInput& in) { in.timestep = in.timestep.narrow(0, 0, 1); });
  refused([](DiffusionInput& in) { in.context = {}; });
  refused([](DiffusionInput& in) { in.context = nn::Context(at::zeros({2, 5, 47})); });
  refused([](DiffusionInput& in) { in.vector = at::Tensor(); });
}

TEST(Models, HaveWhatTheEngineAsksOfThem) {
  for (const ModelDef* def : all_models()) {
    EXPECT_FALSE(def->title.empty());
    EXPECT_GT(def->latent.scale, 0) << def->name;
    EXPECT_FALSE(def->text.empty()) << def->name;
    EXPECT_FALSE(def->vae_prefixes.empty()) << def->name;
    EXPECT_FALSE(def->dtypes.empty()) << def->name;
  }
}

}  // namespace
}  // namespace atelier
