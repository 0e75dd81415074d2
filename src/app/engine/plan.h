// What a run will do and need, worked out before any weight is read.
#pragma once

#include <cstdint>

#include "app/engine/settings.h"
#include "app/engine/slow_step.h"
#include "app/generate_options.h"
#include "base/bytes.h"
#include "base/json.h"
#include "memory/plan.h"
#include "pipeline/engine.h"
#include "pipeline/start_latent.h"
#include "sampling/sample.h"

namespace atelier {

/// What libtorch, the program and the vocabulary take, whatever is drawn.
inline constexpr Bytes kProgram = 192_MiB;

/// The dtypes asked for on the command line; "auto" leaves them open. Throws `unsupported` for one
/// that `device` could only imitate a thousand times slower, and for --int8 where there are no
/// kernels for it.
DtypeChoice dtype_choice(const GenerateOptions& options, Device device);

/// The LoRAs asked for as events and pictures tell them: file names and strengths.
Json loras_json(const GenerateOptions& options);

/// Everything about a call that is settled before it begins.
struct Plan {
  int64_t width = 0, height = 0;
  int64_t runs = 1;  // prompts
  Settings settings;
  int64_t steps_per_run = 0;  // as the scheduler gives them
  double strength = 1;
  uint64_t seed = 0;
  bool seed_chosen = false;
  int threads = 1;
  Bytes weights, activations, needed, least, available;
  PhaseMemory text, unet, vae;
  bool takes_turns = false;  // UNet and VAE are never in memory together
  bool tight = false;  // a part has to leave, or weights are prepared anew for each use
  bool tiling_helps = false;  // decoding needs most, and is not tiled
  double seconds_per_call = 0;  // of the denoiser, estimated; 0: unknown
};

/// Chooses what the options leave open, draws a random seed if none is given, and has `engine` take
/// the noise levels asked for. Throws `mismatch` for a start latent of other channels, size or
/// batch and for pictures the model does not take; and as `choose_settings` and `apply_shift`.
Plan make_plan(const GenerateOptions& options, Engine& engine, const StartPictures& start,
               int threads);

/// The sampler's job but for latent, seed and mask. `engine` is kept by reference.
SampleJob sample_job(const GenerateOptions& options, const Plan& plan, const Engine& engine);

/// What a run that is too slow could do with less of.
RunSize run_size(const Plan& plan, const GenerateOptions& options, const Engine& engine);

/// Throws `out_of_memory` with the figures and what would help if the plan cannot fit.
void require_memory(const Plan& plan, const GenerateOptions& options);

/// Tells each component how much of its weights may stay in memory.
void limit_memory(const Plan& plan, Engine& engine);

/// One line for each part whose weights have to be read from disk again and again.
std::vector<std::string> memory_warnings(const Plan& plan);

/// The "plan" event.
Json plan_event(const Plan& plan, const GenerateOptions& options, Engine& engine);

}  // namespace atelier
