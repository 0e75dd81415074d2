// How a run is sampled: what the options say, and the model's own way where they say nothing.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "app/generate_options.h"
#include "pipeline/engine.h"

namespace atelier {

/// The options of sampling with nothing left open.
struct Settings {
  int64_t steps = 20;
  double cfg = 7;
  std::string sampler, scheduler;
  std::optional<double> guidance;  // of models that are told a scale
  std::optional<double> shift;  // of the noise levels, where the options ask for one
  bool negative = true;  // whether the negative prompt counts
};

/// Throws `invalid_argument` where no step is left between --start-step and --end-step.
Settings choose_settings(const GenerateOptions& options, const Engine& engine);

/// Gives `engine` the noise levels that --shift, or --base-shift and --max-shift for a picture of
/// this size, ask for, and records the shift. Throws `invalid_argument` naming the option for a
/// model whose noise levels have no shift, or a shift that is not positive.
void apply_shift(const GenerateOptions& options, int64_t width, int64_t height, Engine& engine,
                 Settings& settings);

/// What the user named that this model takes no notice of, one line each.
std::vector<std::string> idle_options(const GenerateOptions& options, const Engine& engine,
                                      const Settings& settings);

}  // namespace atelier
