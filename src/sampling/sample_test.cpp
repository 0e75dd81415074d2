// Whole jobs: guidance, seeds, masks, start and end steps, cancelling, and wrong input.
#include "sampling/sample.h"

#include <ATen/Parallel.h>
#include <gtest/gtest.h>

#include "base/error.h"
#include "sampling/noise_mask.h"
#include "sampling/schedulers.h"

namespace atelier {
namespace {

constexpr std::array<int64_t, 4> kShape{1, 4, 8, 8};

const ModelSampling& eps_model() {
  static const ModelSampling model{ModelSamplingParams{}};
  return model;
}

const ModelSampling& flow_model() {
  static const ModelSampling model{
      ModelSamplingParams{.prediction = Prediction::flow, .table = SigmaTable::flow, .shift = 3}};
  return model;
}

/// A smooth stand-in for a network; the branches differ.
Tensor network(const ModelInput& input) {
  std::vector<Tensor> outputs;
  for (const Branch branch : input.branches)
    outputs.push_back(at::tanh(input.x * (branch == Branch::cond ? 0.9 : 0.7)) +
                      1e-4 * input.timestep);
  return at::cat(outputs);
}

SampleJob job_of(const ModelSampling& model, std::string_view sampler = "euler") {
  return {.model = model,
          .latent = at::zeros(kShape),
          .seed = 3,
          .sampler = std::string(sampler),
          .steps = 6,
          .cfg = 2};
}

ErrorCode code_of(const std::function<void()>& action) {
  try {
    action();
  } catch (const Error& error) {
    return error.code();
  }
  ADD_FAILURE() << "nothing was thrown";
  return ErrorCode::internal;
}

TEST(Guidance, EvaluatesUncondFirstAndCombinesDenoisedAnswers) {
  std::vector<Branch> seen;
  const ModelCall call = [&](const ModelInput& input) {
    seen.assign(input.branches.begin(), input.branches.end());
    EXPECT_NEAR(input.x.abs().max().item<double>(), 1 / std::sqrt(1 + 4.0), 1e-6);
    EXPECT_EQ(input.timestep, eps_model().timestep(2));
    return at::cat({at::full(kShape, 0.25), at::full(kShape, 0.5)});
  };
  const Denoise denoise = guided(eps_model(), call, 3, false, {});
  const Denoised answer = denoise(at::ones(kShape), 2);
  EXPECT_EQ(seen, (std::vector<Branch>{Branch::uncond, Branch::cond}));
  EXPECT_NEAR(answer.uncond[0][0][0][0].item<double>(), 0.5, 1e-6);
  EXPECT_NEAR(answer.guided[0][0][0][0].item<double>(), 0.5 + 3 * (0.0 - 0.5), 1e-6);
}

TEST(Guidance, LeavesTheNegativeOutAtOneUnlessTheSamplerNeedsIt) {
  size_t branches = 0;
  const ModelCall call = [&](const ModelInput& input) {
    branches = input.branches.size();
    EXPECT_EQ(input.branches.back(), Branch::cond);
    return network(input);
  };
  SampleJob job = job_of(eps_model());
  for (const auto& [cfg, sampler, expected] :
       std::vector<std::tuple<double, const char*, size_t>>{{1, "euler", 1},
                                                            {1 + 1e-10, "euler", 1},
                                                            {1 + 1e-6, "euler", 2},
                                                            {0, "euler", 2},
                                                            {1, "euler_cfg_pp", 2},
                                                            {1, "dpmpp_2m_cfg_pp", 2}}) {
    job.cfg = cfg;
    job.sampler = sampler;
    sample(job, call);
    EXPECT_EQ(branches, expected) << sampler << " " << cfg;
  }
}

TEST(Guidance, TakesOutputsOfOtherTypesAndLayouts) {
  const SampleJob job = job_of(eps_model());
  const Tensor expected = sample(job, network).latent;
  const Tensor last = sample(job, [](const ModelInput& input) {
                        return network(input).contiguous(at::MemoryFormat::ChannelsLast);
                      }).latent;
  EXPECT_TRUE(last.equal(expected));
  const Tensor rough =
      sample(job, [](const ModelInput& input) { return network(input).to(at::kBFloat16); }).latent;
  EXPECT_LT((rough - expected).abs().max().item<double>(), 0.3);
}

TEST(Guidance, RefusesAnOutputOfAnotherShape) {
  EXPECT_EQ(
      code_of([] { sample(job_of(eps_model()), [](const ModelInput& input) { return input.x; }); }),
      ErrorCode::mismatch);
}

TEST(Sample, SameJobGivesTheSameBytesForEverySamplerAndNumberOfThreads) {
  const int threads = at::get_num_threads();
  for (const Sampler& sampler : samplers()) {
    for (const ModelSampling* model : {&eps_model(), &flow_model()}) {
      SampleJob job = job_of(*model, sampler.name);
      const Tensor first = sample(job, network).latent;
      at::set_num_threads(1);
      EXPECT_TRUE(sample(job, network).latent.equal(first)) << sampler.name;
      at::set_num_threads(threads);
      job.seed = 4;
      EXPECT_FALSE(sample(job, network).latent.equal(first)) << sampler.name;
    }
  }
}

TEST(Sample, DrawsAncestralNoiseFromTheNextSeed) {
  const SampleJob job = job_of(eps_model(), "euler_ancestral");
  const std::vector<float> sigmas = sigmas_of(job);
  const ModelCall call = network;
  const StepCallback silent;
  const Denoise denoise = guided(job.model, call, job.cfg, false, {});
  AncestralNoise next(kShape, job.seed + 1);
  const SamplerContext context{denoise, job.model, &next, silent};
  const Tensor start = job.model.start(sigmas[0], initial_noise(kShape, job.seed), job.latent);
  EXPECT_TRUE(sample(job, network)
                  .latent.equal(find_sampler(job.sampler).integrate(context, start, sigmas)));
}

// Batch elements meet only in dpm_adaptive's error estimate; stochastic samplers draw per batch.
TEST(Sample, ABatchElementEqualsTheSameElementAlone) {
  for (const Sampler& sampler : samplers()) {
    if (sampler.traits.noise != NoiseKind::none || sampler.name == "dpm_adaptive") continue;
    SampleJob batch = job_of(eps_model(), sampler.name);
    batch.latent = at::zeros({3, 4, 8, 8});
    SampleJob alone = job_of(eps_model(), sampler.name);
    alone.batch_index = {2};
    EXPECT_TRUE(sample(batch, network).latent[2].equal(sample(alone, network).latent[0]))
        << sampler.name;
  }
}

TEST(Sample, TwoHalvesWithLeftoverNoiseAreTheWhole) {
  for (const ModelSampling* model : {&eps_model(), &flow_model()}) {
    const SampleJob whole = job_of(*model);
    SampleJob first = whole, second = whole;
    first.end_at_step = 3;
    first.ending = Ending::leftover_noise;
    second.start_at_step = 3;
    second.start_noise = StartNoise::none;
    second.latent = sample(first, network).latent;
    EXPECT_EQ(sigmas_of(first).back(), sigmas_of(second).front());
    const Tensor halves = sample(second, network).latent, all = sample(whole, network).latent;
    EXPECT_LT((halves - all).abs().max().item<double>(), 1e-5);
  }
}

TEST(Sample, AnEarlyEndWithoutLeftoverNoiseGoesToZero) {
  SampleJob job = job_of(eps_model());
  job.end_at_step = 3;
  EXPECT_EQ(sigmas_of(job).size(), 4u);
  EXPECT_EQ(sigmas_of(job).back(), 0.0f);
  const Sampled result = sample(job, network);
  EXPECT_TRUE(result.latent.equal(result.denoised));
}

TEST(Sample, WithoutStepsReturnsTheLatentAsItIs) {
  for (const auto& change : std::vector<std::function<void(SampleJob&)>>{
           [](SampleJob& job) { job.start_at_step = 6; },
           [](SampleJob& job) { job.start_at_step = 1000; },
           [](SampleJob& job) { job.end_at_step = 0; },
           [](SampleJob& job) { job.start_at_step = job.end_at_step = 3; },
           [](SampleJob& job) { job.denoise = 0; }}) {
    SampleJob job = job_of(eps_model());
    job.latent = initial_noise(kShape, 77);
    change(job);
    const Sampled result = sample(job, [](const ModelInput&) -> Tensor {
      ADD_FAILURE() << "the model was called";
      return {};
    });
    EXPECT_TRUE(result.latent.equal(job.latent));
    EXPECT_TRUE(result.denoised.equal(job.latent));
  }
}

TEST(Sample, PartialDenoiseStaysNearerToTheLatent) {
  SampleJob job = job_of(eps_model());
  job.latent = initial_noise(kShape, 99) * 2;
  job.cfg = 1;
  const ModelCall knows = [&](const ModelInput& input) {  // eps towards 0
    return input.x * std::sqrt(1 + input.sigma * input.sigma) / input.sigma * 0.5;
  };
  const auto distance = [&](double denoise) {
    job.denoise = denoise;
    return (sample(job, knows).latent - job.latent).norm().item<double>();
  };
  EXPECT_LT(distance(0.2), distance(0.6));
  EXPECT_LT(distance(0.6), distance(1));
}

TEST(NoiseMask, KeepsTheLatentOutsideExactlyAndOnesChangeNothing) {
  for (const char* sampler : {"euler", "ddim", "dpmpp_2m_sde", "euler_ancestral"}) {
    SampleJob job = job_of(eps_model(), sampler);
    job.latent = initial_noise(kShape, 5);
    const Tensor free = sample(job, network).latent;
    job.mask = at::ones({8, 8});
    EXPECT_TRUE(sample(job, network).latent.equal(free)) << sampler;
    job.mask = at::zeros({8, 8});
    job.mask.narrow(1, 0, 4).fill_(1);
    const Tensor half = sample(job, network).latent;
    EXPECT_TRUE(half.narrow(3, 4, 4).equal(job.latent.narrow(3, 4, 4))) << sampler;
    EXPECT_FALSE(half.narrow(3, 0, 4).equal(job.latent.narrow(3, 0, 4))) << sampler;
  }
}

TEST(NoiseMask, ShowsTheModelTheLatentWithNoiseOutside) {
  SampleJob job = job_of(eps_model());
  job.latent = initial_noise(kShape, 5);
  job.mask = at::zeros({8, 8});
  const auto shown = [&](const char* sampler) {
    job.sampler = sampler;
    Tensor first;
    sample(job, [&](const ModelInput& input) {
      if (!first.defined()) first = input.x * std::sqrt(1 + input.sigma * input.sigma);
      return network(input);
    });
    return first;
  };
  const double sigma = sigmas_of(job)[0];
  const auto expected = [&](uint64_t seed) {
    return job.latent + sigma * initial_noise(kShape, seed);
  };
  EXPECT_LT((shown("euler") - expected(job.seed)).abs().max().item<double>(), 1e-4);
  EXPECT_LT((shown("ddim") - expected(job.seed + 1)).abs().max().item<double>(), 1e-4);
}

TEST(NoiseMask, FitsMasksOfAnySizeAndBatch) {
  const std::vector<int64_t> latent{3, 4, 8, 6}, video{1, 16, 5, 8, 6};
  EXPECT_EQ(fit_mask(at::ones({64, 48}), latent).sizes(), at::IntArrayRef(latent));
  EXPECT_EQ(fit_mask(at::ones({2, 64, 48}), latent).sizes(), at::IntArrayRef(latent));
  EXPECT_EQ(fit_mask(at::ones({5, 1, 7, 9}), latent).sizes(), at::IntArrayRef(latent));
  EXPECT_EQ(fit_mask(at::ones({64, 48}), video).sizes(), at::IntArrayRef(video));
  EXPECT_EQ(fit_mask(at::ones({2, 64, 48}), video).sizes(), at::IntArrayRef(video));
  Tensor two = at::zeros({2, 1, 8, 6});
  two[1].fill_(1);
  const Tensor fitted = fit_mask(two, latent);
  EXPECT_EQ(fitted[0].sum().item<double>(), 0);
  EXPECT_EQ(fitted[1].sum().item<double>(), 4 * 8 * 6);
  EXPECT_EQ(fitted[2].sum().item<double>(), 0);
  for (const Tensor& bad : {at::ones({8}), at::ones({0, 8}), at::ones({1, 1, 1, 8, 6})})
    EXPECT_EQ(code_of([&] { fit_mask(bad, latent); }), ErrorCode::mismatch);
}

TEST(Sample, StaysFiniteWithMoreStepsThanSigmas) {
  for (const Sampler& sampler : samplers()) {
    for (const ModelSampling* model : {&eps_model(), &flow_model()}) {
      SampleJob job = job_of(*model, sampler.name);
      job.scheduler = "simple";
      job.steps = 1100;
      job.end_at_step = 40;
      EXPECT_TRUE(sample(job, network).latent.isfinite().all().item<bool>())
          << sampler.name << (model->is_flow() ? " flow" : " eps");
    }
  }
}

TEST(Sample, StopsBeforeTheNextEvaluation) {
  for (const Sampler& sampler : samplers()) {
    std::stop_source stop;
    int calls = 0;
    const auto run = [&] {
      sample(
          job_of(eps_model(), sampler.name),
          [&](const ModelInput& input) {
            if (++calls == 3) stop.request_stop();
            return network(input);
          },
          {}, stop.get_token());
    };
    EXPECT_EQ(code_of(run), ErrorCode::cancelled) << sampler.name;
    EXPECT_EQ(calls, 3) << sampler.name;
  }
}

TEST(Sample, TellsEveryStepOnceAndInOrder) {
  for (const Sampler& sampler : samplers()) {
    std::vector<int> steps;
    sample(job_of(eps_model(), sampler.name), network, [&](const Step& step) {
      EXPECT_EQ(step.count, 6);
      EXPECT_EQ(step.x.sizes(), step.denoised.sizes());
      steps.push_back(step.index);
    });
    EXPECT_TRUE(std::is_sorted(steps.begin(), steps.end())) << sampler.name;
    EXPECT_EQ(steps.front(), 0) << sampler.name;
    EXPECT_LT(steps.back(), 6) << sampler.name;
    const bool own_steps = sampler.name == "dpm_fast" || sampler.name == "dpm_adaptive";
    if (own_steps) continue;
    EXPECT_EQ(steps, (std::vector<int>{0, 1, 2, 3, 4, 5})) << sampler.name;
  }
}

TEST(Sample, RefusesWhatMakesNoSenseBeforeTheModelIsCalled) {
  using Change = std::function<void(SampleJob&)>;
  const std::vector<std::pair<ErrorCode, Change>> cases{
      {ErrorCode::invalid_argument, [](SampleJob& job) { job.sampler = "eular"; }},
      {ErrorCode::invalid_argument, [](SampleJob& job) { job.scheduler = ""; }},
      {ErrorCode::invalid_argument, [](SampleJob& job) { job.steps = 0; }},
      {ErrorCode::invalid_argument, [](SampleJob& job) { job.cfg = NAN; }},
      {ErrorCode::invalid_argument, [](SampleJob& job) { job.start_at_step = -1; }},
      {ErrorCode::invalid_argument, [](SampleJob& job) { job.end_at_step = -1; }},
      {ErrorCode::invalid_argument, [](SampleJob& job) { job.batch_index = {0, 1}; }},
      {ErrorCode::mismatch, [](SampleJob& job) { job.latent = Tensor(); }},
      {ErrorCode::mismatch, [](SampleJob& job) { job.latent = at::zeros({4, 8}); }},
      {ErrorCode::mismatch, [](SampleJob& job) { job.latent = at::zeros({0, 4, 8, 8}); }},
      {ErrorCode::mismatch, [](SampleJob& job) { job.latent = at::zeros(kShape, at::kInt); }},
      {ErrorCode::mismatch, [](SampleJob& job) { job.mask = at::ones({8}); }},
  };
  for (size_t i = 0; i < cases.size(); ++i) {
    SampleJob job = job_of(eps_model());
    cases[i].second(job);
    EXPECT_EQ(code_of([&] { sample(job, [](const ModelInput&) -> Tensor { throw 1; }); }),
              cases[i].first)
        << "case " << i;
  }
}

TEST(Sample, SuggestsTheNearestSampler) {
  try {
    find_sampler("dpmpp_2mm");
    FAIL();
  } catch (const Error& error) {
    EXPECT_STREQ(error.what(),
                 "sampler: there is none called 'dpmpp_2mm'. Did you mean 'dpmpp_2m'?");
  }
}

TEST(DpmAdaptive, GivesUpOnAModelWithoutFiniteAnswers) {
  EXPECT_EQ(code_of([] {
              sample(job_of(eps_model(), "dpm_adaptive"),
                     [](const ModelInput& input) { return network(input) * NAN; });
            }),
            ErrorCode::unsupported);
}

}  // namespace
}  // namespace atelier
