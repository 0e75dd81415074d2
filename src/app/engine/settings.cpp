// Defaults by model, and the shift of noise levels by the picture's size.
#include "app/engine/settings.h"

#include <fmt/format.h>

#include <cmath>

#include "app/option_checks.h"
#include "base/error.h"
#include "sampling/sampler.h"

namespace atelier {
namespace {

// Made to look at other pictures, Kontext was trained with less guidance than dev, whose names and
// shapes it has.
constexpr double kReferenceGuidance = 2.5;
constexpr double kBaseShift = 0.5, kMaxShift = 1.15;
constexpr double kPixelsPerToken = 256;

double default_guidance(const GenerateOptions& options, const Engine& engine) {
  return options.references.empty() ? engine.def().defaults.guidance : kReferenceGuidance;
}

std::string or_default(const std::string& named, std::string_view otherwise) {
  return named.empty() ? std::string(otherwise) : named;
}

}  // namespace

Settings choose_settings(const GenerateOptions& options, const Engine& engine) {
  const SamplingDefaults& own = engine.def().defaults;
  Settings settings{.steps = options.steps.value_or(own.steps),
                    .cfg = options.cfg.value_or(own.cfg),
                    .sampler = or_default(options.sampler, own.sampler),
                    .scheduler = or_default(options.scheduler, own.scheduler),
                    .guidance = {},
                    .shift = {}};
  check_steps(options, settings.steps);
  if (engine.traits().guidance != 0)
    settings.guidance = options.guidance.value_or(default_guidance(options, engine));
  settings.negative =
      std::abs(settings.cfg - 1) >= 1e-9 || find_sampler(settings.sampler).traits.needs_uncond;
  return settings;
}

void apply_shift(const GenerateOptions& options, int64_t width, int64_t height, Engine& engine,
                 Settings& settings) {
  const bool by_size = options.base_shift || options.max_shift;
  if (!by_size && !options.shift) return;
  const std::string_view option = options.shift       ? "--shift"
                                  : options.max_shift ? "--max-shift"
                                                      : "--base-shift";
  const auto refuse = [&](std::string statement) {
    throw Error(ErrorCode::invalid_argument,
                {.subject = std::string(option), .expected = std::move(statement)});
  };
  if (!engine.sampling().is_flow())
    refuse(fmt::format("the noise levels of {} have no shift", engine.def().title));
  double shift = options.shift.value_or(0);
  if (by_size)
    shift = shift_by_size(options.base_shift.value_or(kBaseShift),
                          options.max_shift.value_or(kMaxShift),
                          static_cast<double>(width * height) / kPixelsPerToken);
  if (!(shift > 0))
    refuse(fmt::format("gives a picture of {}x{} a shift of {:g}, which is not above 0", width,
                       height, shift));
  engine.set_noise_shift(by_size ? NoiseLevels::flux : engine.def().noise_levels, shift);
  settings.shift = shift;
}

std::vector<std::string> idle_options(const GenerateOptions& options, const Engine& engine,
                                      const Settings& settings) {
  std::vector<std::string> lines;
  if (options.guidance && !settings.guidance)
    lines.push_back(fmt::format("--guidance: {} is told no scale; use --cfg", engine.def().title));
  if (!options.negative.empty() && !settings.negative)
    lines.push_back(fmt::format("the negative prompt does not count at --cfg {:g}", settings.cfg));
  return lines;
}

}  // namespace atelier
