// Sigma tables and schedulers against golden/sampling/sigmas.json, and their edges.
#include "sampling/model_sampling.h"

#include <gtest/gtest.h>

#include <functional>
#include <map>
#include <set>

#include "base/error.h"
#include "sampling/beta_quantile.h"
#include "sampling/golden_test.h"
#include "sampling/schedulers.h"

namespace atelier {
namespace {

const std::map<std::string, ModelSamplingParams> kModels{
    {"sd15_eps", {}},
    {"sd_zsnr_v", {.prediction = Prediction::v, .table = SigmaTable::zero_terminal}},
    {"sd3_flow_shift3", {.prediction = Prediction::flow, .table = SigmaTable::flow, .shift = 3}},
    {"wan_flow_shift8", {.prediction = Prediction::flow, .table = SigmaTable::flow, .shift = 8}},
    {"auraflow_shift1.73_mult1",
     {.prediction = Prediction::flow, .table = SigmaTable::flow, .shift = 1.73, .multiplier = 1}},
    {"flux_dev_shift1.15",
     {.prediction = Prediction::flow, .table = SigmaTable::flux, .shift = 1.15}},
    {"flux_schnell_shift1_mult1",
     {.prediction = Prediction::flow, .table = SigmaTable::flow, .shift = 1, .multiplier = 1}},
};

/// Two units in the last place of a float32.
constexpr double kTight = 2.4e-7;
/// Exponentials of float32 logarithms: five units.
constexpr double kSchedule = 6e-7;

ModelSampling model(const std::string& name) { return ModelSampling(kModels.at(name)); }

TEST(ModelSampling, EqualsTheGoldenTables) {
  const Json all = golden::read("sigmas.json");
  ASSERT_EQ(all.size(), kModels.size());
  for (const auto& [name, entry] : all.items()) {
    SCOPED_TRACE(name);
    const ModelSampling sampling = model(name);
    EXPECT_EQ(sampling.sigmas().size(), entry.at("num_sigmas").get<size_t>());
    const double smallest = entry.at("sigma_min"), largest = entry.at("sigma_max");
    EXPECT_NEAR(sampling.sigma_min(), smallest, kTight * smallest);
    EXPECT_NEAR(sampling.sigma_max(), largest, kTight * largest);
    for (const auto& [percent, sigma] : entry.at("percent_to_sigma").items())
      EXPECT_NEAR(sampling.percent_to_sigma(std::stod(percent)), sigma.get<double>(),
                  kTight * sigma.get<double>())
          << percent;
  }
}

TEST(Schedulers, EqualEveryGoldenSchedule) {
  size_t checked = 0;
  const Json all = golden::read("sigmas.json");
  for (const auto& [name, entry] : all.items()) {
    const ModelSampling sampling = model(name);
    for (const Scheduler& scheduler : schedulers()) {
      for (const int steps : {4, 20}) {
        const std::string key = std::string(scheduler.name) + "_" + std::to_string(steps);
        SCOPED_TRACE(name + " " + key);
        const auto expected = entry.at(key).get<std::vector<double>>();
        const std::vector<float> sigmas = scheduler.sigmas(sampling, steps);
        ASSERT_EQ(sigmas.size(), expected.size());
        for (size_t i = 0; i < expected.size(); ++i)
          EXPECT_NEAR(sigmas[i], expected[i], kSchedule * expected[i]) << i;
        ++checked;
      }
    }
  }
  EXPECT_EQ(checked, 7u * 9u * 2u);
}

TEST(Schedulers, FallToZeroForAnyNumberOfSteps) {
  for (const auto& [name, params] : kModels) {
    const ModelSampling sampling(params);
    for (const Scheduler& scheduler : schedulers()) {
      for (const int steps : {1, 2, 3, 7, 999, 1500, 10000}) {
        SCOPED_TRACE(name + " " + std::string(scheduler.name) + " " + std::to_string(steps));
        const std::vector<float> sigmas = scheduler.sigmas(sampling, steps);
        ASSERT_GE(sigmas.size(), 2u);
        EXPECT_EQ(sigmas.back(), 0.0f);
        EXPECT_TRUE(std::isfinite(sigmas.front()));
        EXPECT_GT(sigmas.front(), 0.0f);
        EXPECT_TRUE(std::is_sorted(sigmas.rbegin(), sigmas.rend()));
      }
    }
  }
}

TEST(Schedulers, OfPartialDenoiseAreTheTailOfALongerOne) {
  const ModelSampling sampling = model("sd15_eps");
  const Scheduler& karras = find_scheduler("karras");
  const std::vector<float> whole = karras.sigmas(sampling, 20);
  const std::vector<float> half = job_sigmas(sampling, karras, 10, 0.5, false);
  EXPECT_EQ(half, std::vector<float>(whole.end() - 11, whole.end()));
  EXPECT_EQ(job_sigmas(sampling, karras, 20, 0.99995, false), whole);
  EXPECT_TRUE(job_sigmas(sampling, karras, 20, 0, false).empty());
}

TEST(Schedulers, LeaveThePenultimateSigmaOutOfOneStepMore) {
  const ModelSampling sampling = model("sd15_eps");
  const Scheduler& normal = find_scheduler("normal");
  std::vector<float> expected = normal.sigmas(sampling, 7);
  expected.erase(expected.end() - 2);
  EXPECT_EQ(job_sigmas(sampling, normal, 6, 1, true), expected);
  EXPECT_EQ(job_sigmas(sampling, normal, 1, 1, true).size(), 2u);
}

TEST(Schedulers, RefuseStepsAndDenoiseOutOfRange) {
  const ModelSampling sampling = model("sd15_eps");
  const Scheduler& simple = find_scheduler("simple");
  for (const int steps : {0, -1, 10001})
    EXPECT_THROW(job_sigmas(sampling, simple, steps, 1, false), Error) << steps;
  for (const double denoise : {-0.1, 1.1, double{NAN}, 1e-9})
    EXPECT_THROW(job_sigmas(sampling, simple, 20, denoise, false), Error) << denoise;
}

TEST(Schedulers, SuggestTheNearestName) {
  try {
    find_scheduler("karas");
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::invalid_argument);
    EXPECT_STREQ(error.what(), "scheduler: there is none called 'karas'. Did you mean 'karras'?");
  }
}

TEST(ModelSampling, FindsTheNearestTimestepOfASigma) {
  const ModelSampling sampling = model("sd15_eps");
  for (const size_t i : {0u, 1u, 500u, 998u, 999u})
    EXPECT_EQ(sampling.timestep(sampling.sigmas()[i]), static_cast<double>(i));
  EXPECT_EQ(sampling.timestep(0), 0);
  EXPECT_EQ(sampling.timestep(1e9), 999);
  EXPECT_EQ(model("sd3_flow_shift3").timestep(0.5), 500);
  EXPECT_EQ(model("flux_dev_shift1.15").timestep(0.5), 0.5);
}

TEST(ModelSampling, OfKarrasStyleSpacesItsTableByTheLogarithm) {
  const ModelSampling edm(
      {.prediction = Prediction::edm, .table = SigmaTable::continuous_edm, .sigma_data = 0.5});
  EXPECT_NEAR(edm.sigma_min(), 0.002, 1e-9);
  EXPECT_NEAR(edm.sigma_max(), 80, 1e-5);
  EXPECT_NEAR(edm.sigma(edm.timestep(3.7)), 3.7, 1e-6);
  EXPECT_NEAR(edm.percent_to_sigma(0.5), std::sqrt(0.002 * 80), 1e-9);
}

// A network that knows the answer must give the clean picture back, whatever its output means.
TEST(ModelSampling, RecoversThePictureFromAPerfectOutput) {
  const double sigma = 1.7, clean = 0.4, noise = -0.9, d = 0.5;
  for (const Prediction prediction : {Prediction::eps, Prediction::v, Prediction::edm}) {
    const ModelSampling sampling({.prediction = prediction, .sigma_data = d});
    const double x = clean + sigma * noise, root = std::hypot(sigma, d);
    const std::map<Prediction, double> outputs{
        {Prediction::eps, noise},
        {Prediction::v, (noise * d * d - sigma * clean) / (d * root)},
        {Prediction::edm, (sigma * clean - noise * d * d) / (d * root)}};
    const Preconditioning p = sampling.preconditioning(sigma);
    EXPECT_NEAR(p.in * root, 1, 1e-12);
    EXPECT_NEAR(p.skip * x + p.out * outputs.at(prediction), clean, 1e-12);
  }
  const ModelSampling flow = model("sd3_flow_shift3");
  const double x = 0.3 * noise + 0.7 * clean;
  const Preconditioning p = flow.preconditioning(0.3);
  EXPECT_NEAR(p.skip * x + p.out * (noise - clean), clean, 1e-12);
}

TEST(ModelSampling, RefusesParametersThatMeanNothing) {
  EXPECT_THROW(ModelSampling({.shift = 0}), Error);
  EXPECT_THROW(ModelSampling({.shift = INFINITY}), Error);
  EXPECT_THROW(ModelSampling({.multiplier = -1}), Error);
  EXPECT_THROW(ModelSampling({.sigma_min = 1, .sigma_max = 1}), Error);
}

TEST(ModelSampling, HalfLogSnrAndSigmaAreInverse) {
  for (const char* name : {"sd15_eps", "sd3_flow_shift3"}) {
    const ModelSampling sampling = model(name);
    for (const double sigma : {0.01, 0.5, 0.99})
      EXPECT_NEAR(sampling.sigma_of_half_log_snr(sampling.half_log_snr(sigma)), sigma, 1e-12);
  }
}

TEST(BetaQuantile, InvertsTheCumulativeFunctionAndKnownValues) {
  EXPECT_NEAR(beta_quantile(0.5, 0.6, 0.6), 0.5, 1e-14);
  EXPECT_NEAR(beta_quantile(0.3, 1, 1), 0.3, 1e-14);
  EXPECT_NEAR(beta_quantile(0.25, 2, 1), 0.5, 1e-14);
  EXPECT_NEAR(beta_quantile(0.25, 0.5, 0.5), std::pow(std::sin(M_PI / 8), 2), 1e-14);
  for (int i = 0; i <= 1000; ++i)
    EXPECT_NEAR(beta_cumulative(beta_quantile(i / 1000.0, 0.6, 0.6), 0.6, 0.6), i / 1000.0, 1e-13);
}

}  // namespace
}  // namespace atelier
