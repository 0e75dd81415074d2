// Whole runs of FLUX.1 against diffusers, its editing variants included.
#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <filesystem>

#include "pipeline/tiny_flux_test.h"

namespace atelier {
namespace {

using golden::TinyFlux;
namespace fs = std::filesystem;

TEST_F(TinyFlux, FromSeparateFilesDrawsWhatDiffusersDoes) {
  const Result result = run(files(), {.guidance = 2.5, .batch = 2});
  EXPECT_TRUE(
      golden::close(result.prompt.context.slice(1, 0, {}, 8), want("context.positive"), 1e-4));
  EXPECT_EQ(result.prompt.context.size(1), 256);
  EXPECT_TRUE(golden::close(result.prompt.vector, want("vector.positive"), 1e-4));
  EXPECT_TRUE(golden::close(result.latent, want("dev"), 1e-3));
  EXPECT_TRUE(golden::close(result.decoded, want("decoded"), 1e-3));
}

TEST_F(TinyFlux, TakesPromptsOfAnyLength) {
  const Result result = run(files(), {.prompt = fact("long")});
  EXPECT_EQ(result.prompt.context.size(1), want("length.long").item<int64_t>());
  EXPECT_TRUE(golden::close(result.prompt.context.slice(1, 0, {}, 16), want("context.long"), 1e-4));
  EXPECT_TRUE(golden::close(result.latent, want("long"), 1e-3));
}

TEST_F(TinyFlux, TakesANegativePromptWithItsOwnGuidance) {
  const Result result = run(files(), {.negative = fact("negative"), .cfg = 2});
  EXPECT_TRUE(golden::close(result.latent, want("negative"), 1e-3));
}

TEST_F(TinyFlux, FillRepaintsWhatIsUnderTheMask) {
  const fs::path model = write("fill.safetensors", *transformer("fill"));
  // Diffusers starts from noise alone, so the picture comes in as channels only.
  Engine engine(files(model), Device{},
                {.unet = at::kFloat, .text = at::kFloat, .vae = at::kFloat});
  EXPECT_EQ(extra_input(engine), ExtraInput::fill);
  EXPECT_EQ(engine.def().defaults.guidance, 30);
  Run how{.guidance = 30, .pictures = {.init = image("image"), .mask = image("mask")}};
  const StartLatent start = start_latent(engine, how.pictures, 1, 48, 64, VaeTiling::off);
  EXPECT_EQ(start.concat.sizes(), at::IntArrayRef({1, 80, 6, 8}));
  EXPECT_TRUE(golden::close(run(files(model), how).latent, want("fill"), 1e-3));
}

TEST_F(TinyFlux, CannyAndDepthDrawAfterAPicture) {
  const fs::path model = write("control.safetensors", *transformer("control"));
  const Run how{.guidance = 30, .pictures = {.control = image("image")}};
  EXPECT_TRUE(golden::close(run(files(model), how).latent, want("control"), 1e-3));
  EXPECT_THROW(run(files(model), {}), Error);
  EXPECT_THROW(run(files(), how), Error);
}

TEST_F(TinyFlux, KontextLooksAtAPictureOfAnotherSize) {
  const Run how{.guidance = 2.5, .pictures = {.references = {image("reference")}}};
  EXPECT_TRUE(golden::close(run(files(), how).latent, want("kontext"), 1e-3));
  EXPECT_GT(golden::relative_error(run(files(), {.guidance = 2.5}).latent, want("kontext")), 1e-2);
}

TEST_F(TinyFlux, AnEmptyLatentStaysEmpty) {
  const Engine engine(files(), Device{});
  const at::Tensor empty = at::zeros({1, 16, 2, 2});
  EXPECT_TRUE(at::equal(engine.to_model_space(empty), empty));
  const at::Tensor one = at::ones({1, 16, 2, 2});
  EXPECT_TRUE(at::allclose(engine.to_model_space(one), (one - 0.1159) * 0.3611));
  EXPECT_TRUE(at::allclose(engine.to_vae_space(engine.to_model_space(one)), one));
}

}  // namespace
}  // namespace atelier
