// Every sampler against golden/sampling/samplers.json: diffusion and flow, results and model calls.
#include <gtest/gtest.h>

#include <map>

#include "sampling/golden_test.h"
#include "sampling/integrators.h"
#include "sampling/schedulers.h"

namespace atelier {
namespace {

constexpr std::array<int64_t, 4> kShape{1, 4, 8, 8};
constexpr uint64_t kSeed = 1234;
constexpr int kSteps = 6;

/// The toy model of the recording: cond = 0.9 g x + 0.1, uncond = 0.8 g x, cfg 2.
Denoise toy(const ModelSampling& model, int& calls) {
  return [&model, &calls](const Tensor& x, double sigma) {
    ++calls;
    const double one = 1 - sigma;
    const double g = model.is_flow() ? one / (one * one + sigma * sigma) : 1 / (1 + sigma * sigma);
    const Tensor cond = x * (0.9 * g) + 0.1, uncond = x * (0.8 * g);
    return Denoised{extrapolate(uncond, cond, 2), uncond};
  };
}

struct Setting {
  const char* name;
  ModelSamplingParams params;
  const char* scheduler;
};

/// Float32 rounding of a few steps; the reference loses more where it subtracts nearly equal
/// float32 numbers (UniPC's and DDPM's marginals) or lets errors choose the steps.
double tolerance(std::string_view sampler) {
  const std::map<std::string_view, double> loose{
      {"dpm_adaptive", 1e-4}, {"uni_pc", 5e-5}, {"uni_pc_bh2", 5e-5}, {"ddpm", 1e-5}};
  const auto found = loose.find(sampler);
  return found == loose.end() ? 3e-6 : found->second;
}

void expect_all_golden(const Setting& setting) {
  const Json goldens = golden::read("samplers.json");
  const Json& entries = goldens.at(setting.name);
  ASSERT_EQ(entries.size(), samplers().size() + 1);
  const ModelSampling model(setting.params);
  for (const Sampler& sampler : samplers()) {
    SCOPED_TRACE(sampler.name);
    const Json& entry = entries.at(std::string(sampler.name));
    std::vector<float> sigmas = job_sigmas(model, find_scheduler(setting.scheduler), kSteps, 1,
                                           sampler.traits.drop_penultimate);
    if (sampler.traits.final_sigma > 0) sigmas.back() = sampler.traits.final_sigma;
    const Tensor noise = initial_noise(kShape, kSeed);
    const auto source = noise_source(sampler, kShape, kSeed, sigmas);
    int calls = 0;
    const Denoise denoise = toy(model, calls);
    const StepCallback silent;
    const SamplerContext context{denoise, model, source.get(), silent};
    const Tensor x =
        sampler.integrate(context, model.start(sigmas[0], noise, at::zeros_like(noise)), sigmas);
    EXPECT_EQ(calls, entry.at("model_calls").get<int>());
    golden::expect_entry(model.finish(sigmas.back(), x), entry, tolerance(sampler.name));
  }
}

TEST(Samplers, EqualEveryGoldenResultOnADiffusionModel) {
  expect_all_golden({"eps", {}, "karras"});
}

TEST(Samplers, EqualEveryGoldenResultOnAFlowModel) {
  expect_all_golden({"flow",
                     {.prediction = Prediction::flow, .table = SigmaTable::flux, .shift = 1.15},
                     "simple"});
}

TEST(Samplers, AreTheNamesOfTheGoldens) {
  const Json goldens = golden::read("samplers.json");
  size_t i = 0;
  for (const auto& [name, entry] : goldens.at("eps").items()) {
    if (name == "_sigmas") continue;
    ASSERT_LT(i, samplers().size());
    EXPECT_EQ(samplers()[i++].name, name);
  }
  EXPECT_EQ(i, samplers().size());
}

}  // namespace
}  // namespace atelier
