// Schedulers: which sigmas a job of n steps visits.
#pragma once

#include <span>
#include <string_view>
#include <vector>

#include "sampling/model_sampling.h"

namespace atelier {

/// One scheduler: its name in ComfyUI, and its rule for `steps` >= 1.
/// The rule gives falling sigmas that end in 0; a few give one value more or fewer than steps + 1.
struct Scheduler {
  std::string_view name;
  std::vector<float> (*sigmas)(const ModelSampling& model, int steps);
};

/// All of them, in the order ComfyUI lists them.
std::span<const Scheduler> schedulers();

/// Throws `invalid_argument` with the nearest name if there is none called `name`.
const Scheduler& find_scheduler(std::string_view name);

/// The sigmas of a job that does the last `denoise` (0 to 1) of the way in `steps` steps: the last
/// steps + 1 of a schedule of int(steps / denoise) steps; empty if `denoise` is 0.
/// `drop_penultimate` makes the schedule one step longer and leaves its last sigma above 0 out, as
/// samplers that look half a step ahead need it. Throws `invalid_argument` if steps is not 1 to
/// 10000, denoise is not 0 to 1, or the whole schedule would exceed a million steps.
std::vector<float> job_sigmas(const ModelSampling& model, const Scheduler& scheduler, int steps,
                              double denoise, bool drop_penultimate);

}  // namespace atelier
