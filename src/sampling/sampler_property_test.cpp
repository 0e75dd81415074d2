// What must hold of samplers on a model whose exact solution is known: normally distributed
// pictures of deviation kData, for which denoised = share(sigma) * x.
#include <gtest/gtest.h>

#include <set>

#include "sampling/integrators.h"
#include "sampling/schedulers.h"

namespace atelier {
namespace {

constexpr double kData = 0.7;
constexpr std::array<int64_t, 4> kShape{1, 4, 32, 32};
constexpr uint64_t kSeed = 21;

const ModelSamplingParams kFlow{
    .prediction = Prediction::flow, .table = SigmaTable::flow, .shift = 3};

double picture_weight(const ModelSampling& model, double sigma) {
  return model.is_flow() ? 1 - sigma : 1;
}

/// The deviation of x at sigma.
double deviation(const ModelSampling& model, double sigma) {
  return std::hypot(picture_weight(model, sigma) * kData, sigma);
}

/// E[picture | x], which is what an ideal network answers.
Tensor ideal(const ModelSampling& model, const Tensor& x, double sigma) {
  const double d = deviation(model, sigma);
  return x * (picture_weight(model, sigma) * kData * kData / (d * d));
}

struct Outcome {
  std::vector<float> sigmas;
  Tensor x;
};

/// Starts from x of the right deviation and goes to the end of the schedule.
Outcome run(const Sampler& sampler, const ModelSampling& model, const char* scheduler, int steps,
            const Denoise& denoise) {
  const SamplerTraits& traits = sampler.traits;
  std::vector<float> sigmas =
      job_sigmas(model, find_scheduler(scheduler), steps, 1, traits.drop_penultimate);
  sigmas.erase(std::unique(sigmas.begin(), sigmas.end()), sigmas.end());
  if (traits.final_sigma > 0) sigmas.back() = traits.final_sigma;
  const auto source = noise_source(sampler, kShape, kSeed + 1, sigmas);
  const StepCallback silent;
  const SamplerContext context{denoise, model, source.get(), silent};
  const Tensor start = initial_noise(kShape, kSeed) * deviation(model, sigmas[0]);
  return {sigmas, sampler.integrate(context, start, sigmas)};
}

Denoise ideal_denoise(const ModelSampling& model) {
  return [&model](const Tensor& x, double sigma) {
    const Tensor answer = ideal(model, x, sigma);
    return Denoised{answer, answer};
  };
}

/// The largest error of a run against the exact solution of the ODE, relative to kData.
double error_of(const Sampler& sampler, const ModelSampling& model, int steps) {
  const Outcome result = run(sampler, model, "karras", steps, ideal_denoise(model));
  const double scale = kData / deviation(model, result.sigmas[0]);
  const Tensor start = initial_noise(kShape, kSeed) * deviation(model, result.sigmas[0]);
  return (result.x - start * scale).abs().max().item<double>() /
         (initial_noise(kShape, kSeed) * kData).abs().max().item<double>();
}

TEST(Samplers, WithoutNoiseConvergeToTheExactSolution) {
  for (const ModelSamplingParams& params : {ModelSamplingParams{}, kFlow}) {
    const ModelSampling model(params);
    for (const Sampler& sampler : samplers()) {
      if (sampler.traits.noise != NoiseKind::none) continue;
      const double coarse = error_of(sampler, model, 10), fine = error_of(sampler, model, 320);
      // dpm_adaptive chooses its own steps, for a tolerance of 5 %, whatever the schedule.
      if (sampler.name == "dpm_adaptive") {
        EXPECT_LT(fine, 0.05);
        continue;
      }
      EXPECT_LT(fine, 0.01) << sampler.name << (model.is_flow() ? " flow" : " eps");
      // What is left then is the last step to 0, which is of first order for all.
      EXPECT_LT(fine, std::max(coarse, 0.002)) << sampler.name;
    }
  }
}

TEST(Samplers, OfHigherOrderNeedFewerSteps) {
  const ModelSampling model{ModelSamplingParams{}};
  const double euler = error_of(find_sampler("euler"), model, 40);
  for (const char* name : {"heun", "dpm_2", "lms", "dpmpp_2m", "ipndm_v", "deis", "res_multistep",
                           "uni_pc", "uni_pc_bh2", "dpm_fast"})
    EXPECT_LT(error_of(find_sampler(name), model, 40), euler / 2) << name;
}

/// Stochastic samplers that are right in the limit. lcm expects a model that jumps to the picture
/// itself, not to its mean; dpmpp_2s_ancestral_cfg_pp mixes two answers of different sigmas; and
/// three add a diffusion model's noise to flow models too, as ComfyUI's do.
bool keeps_distribution(const Sampler& sampler, const ModelSampling& model) {
  const std::set<std::string_view> never{"lcm", "dpmpp_2s_ancestral_cfg_pp"};
  const std::set<std::string_view> not_flow{"ddpm", "res_multistep_ancestral",
                                            "res_multistep_ancestral_cfg_pp"};
  return sampler.traits.noise != NoiseKind::none && !never.contains(sampler.name) &&
         !(model.is_flow() && not_flow.contains(sampler.name));
}

TEST(Samplers, WithNoiseKeepTheDistributionOfThePictures) {
  for (const ModelSamplingParams& params : {ModelSamplingParams{}, kFlow}) {
    const ModelSampling model(params);
    for (const Sampler& sampler : samplers()) {
      if (!keeps_distribution(sampler, model)) continue;
      const Outcome result = run(sampler, model, "sgm_uniform", 150, ideal_denoise(model));
      const double spread = result.x.std().item<double>();
      EXPECT_NEAR(spread / kData, 1, 0.04) << sampler.name << (model.is_flow() ? " flow" : " eps");
      EXPECT_NEAR(result.x.mean().item<double>(), 0, 0.03) << sampler.name;
    }
  }
}

TEST(Lcm, KeepsTheDistributionUnderAConsistencyModel) {
  for (const ModelSamplingParams& params : {ModelSamplingParams{}, kFlow}) {
    const ModelSampling model(params);
    const Denoise jump = [&](const Tensor& x, double sigma) {
      return Denoised{x * (kData / deviation(model, sigma)), {}};
    };
    const Outcome result = run(find_sampler("lcm"), model, "sgm_uniform", 8, jump);
    EXPECT_NEAR(result.x.std().item<double>() / kData, 1, 0.03);
  }
}

TEST(Samplers, ReachAConstantPictureInAnyNumberOfSteps) {
  for (const ModelSamplingParams& params : {ModelSamplingParams{}, kFlow}) {
    const ModelSampling model(params);
    const Tensor picture = initial_noise(kShape, 8);
    const Denoise knows = [&](const Tensor&, double) { return Denoised{picture, picture}; };
    for (const Sampler& sampler : samplers()) {
      for (const Scheduler& scheduler : schedulers()) {
        for (const int steps : {1, 2, 3, 5}) {
          const Outcome result = run(sampler, model, scheduler.name.data(), steps, knows);
          // These two end at the smallest sigma above 0 and keep what noise is there.
          const bool ends_early = sampler.name == "dpm_fast" || sampler.name == "dpm_adaptive";
          const double rest = ends_early ? *(result.sigmas.end() - 2) : 0;
          EXPECT_LT((result.x - picture).abs().max().item<double>(), 0.01 + 8 * rest)
              << sampler.name << " " << scheduler.name << " " << steps;
        }
      }
    }
  }
}

}  // namespace
}  // namespace atelier
