// One sampling job, from a latent and a seed to the finished latent. Read this header first.
#pragma once

#include <climits>
#include <cstdint>
#include <stop_token>
#include <string>
#include <vector>

#include "sampling/guidance.h"
#include "sampling/model_sampling.h"
#include "sampling/sampler.h"

namespace atelier {

/// What the latent starts from besides itself.
enum class StartNoise { from_seed, none };

/// How a job that stops before the schedule's end leaves its latent.
enum class Ending { denoised, leftover_noise };

/// What a job wants; names and meanings are those of ComfyUI's KSampler (Advanced).
struct SampleJob {
  const ModelSampling& model;
  Tensor latent;  // [B, C, (T,) h, w] in the model's space (scaled in), float32
  uint64_t seed = 0;
  std::string sampler = "euler";
  std::string scheduler = "normal";
  int steps = 20;  // 1 to 10000
  double denoise = 1;  // 0 to 1: the share of the way that is done
  double cfg = 8;
  Tensor mask = {};  // where to repaint; undefined: everywhere
  std::vector<int64_t> batch_index = {};  // the noise each batch element gets; empty: in order
  StartNoise start_noise = StartNoise::from_seed;
  int start_at_step = 0;
  int end_at_step = INT_MAX;  // beyond the last step: to the end
  Ending ending = Ending::denoised;
};

struct Sampled {
  Tensor latent;  // in the model's space
  Tensor denoised;  // the model's last answer; `latent` if no step was done
};

/// The sigmas that the job visits, fewer than two if it does nothing. Steps of no length, which
/// schedules of more steps than the model has sigmas contain, are left out. Throws
/// `invalid_argument` on unknown names and on numbers out of range.
std::vector<float> sigmas_of(const SampleJob& job);

/// Runs the job. Every random number comes from the seed: the start noise from the seed itself,
/// ancestral noise from seed + 1, Brownian noise from a tree over the sigmas; same job and same
/// answers of `call` give the same bytes, whatever the number of threads. `on_step` is told each
/// step as it begins. A job without steps returns its latent as it is.
/// Throws what `sigmas_of` throws, `mismatch` on a latent, mask or output of a wrong shape,
/// `cancelled` before the next evaluation once `stop` is requested, and what `call` throws.
/// Any thread; calls `call` and `on_step` on it.
Sampled sample(const SampleJob& job, const ModelCall& call, const StepCallback& on_step = {},
               std::stop_token stop = {});

}  // namespace atelier
