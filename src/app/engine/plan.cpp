// Defaults per model, and the memory of the phases: encode, sample, decode.
#include "app/engine/plan.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <random>

#include "base/error.h"
#include "device/memory_info.h"
#include "sampling/sample.h"

namespace atelier {
namespace {

constexpr double kStrength = 0.75;  // of a run that starts from a picture
constexpr Bytes kProgram = 256_MiB;  // libtorch, the program, the vocabulary

std::optional<at::ScalarType> chosen(const std::string& own, const std::string& common,
                                     Device device, std::string_view option) {
  const std::string& name = own.empty() ? common : own;
  if (name == "auto") return {};
  const at::ScalarType dtype = parse_dtype(name);
  if (dtype == at::kHalf && !computes_natively(device, dtype))
    throw Error(ErrorCode::unsupported,
                {.subject = std::string(own.empty() ? "--dtype" : option),
                 .expected = fmt::format("fp16 is not native on {} and would be imitated, far too "
                                         "slowly to be of use",
                                         to_string(device)),
                 .hint = "Use bf16, fp32 or auto; fp16 files work with all of them"});
  return dtype;
}

/// The model's area in the picture's proportions, in steps the size options allow.
void fit_to_picture(Plan& plan, const Image& picture) {
  constexpr double kStep = 8;
  const double area = static_cast<double>(plan.width) * static_cast<double>(plan.height);
  const double scale = std::sqrt(area / (static_cast<double>(picture.width) * picture.height));
  const auto side = [&](int32_t pixels) {
    const double wanted = std::round(pixels * scale / kStep) * kStep;
    return static_cast<int64_t>(std::clamp(wanted, 16.0, 16384.0));
  };
  plan.width = side(picture.width);
  plan.height = side(picture.height);
}

void choose_size(Plan& plan, const GenerateOptions& options, const Engine& engine,
                 const Image* picture) {
  plan.width = engine.native_width();
  plan.height = engine.native_height();
  if (picture && !options.width && !options.height) fit_to_picture(plan, *picture);
  plan.width = options.width.value_or(plan.width);
  plan.height = options.height.value_or(plan.height);
}

int64_t steps_of(const GenerateOptions& options, const Engine& engine, double strength) {
  const SampleJob job{.model = engine.sampling(),
                      .latent = {},
                      .sampler = options.sampler,
                      .scheduler = options.scheduler,
                      .steps = static_cast<int>(options.steps),
                      .denoise = strength,
                      .cfg = options.cfg};
  return std::max<int64_t>(static_cast<int64_t>(sigmas_of(job).size()) - 1, 0);
}

/// Peaks of the phases. Text encoders leave before the UNet comes; the UNet leaves before the last
/// picture is decoded.
void estimate(Plan& plan, const GenerateOptions& options, Engine& engine) {
  const int64_t factor = engine.def().latent.factor;
  const int64_t branches = std::abs(options.cfg - 1) < 1e-9 ? 1 : 2;
  const Tiling tiling;
  const int64_t tile_height = options.tiled_vae ? std::min(plan.height, tiling.tile) : plan.height;
  const int64_t tile_width = options.tiled_vae ? std::min(plan.width, 2 * tiling.tile) : plan.width;
  const Vae& vae = engine.vae().get();
  Bytes coding = vae.decode_bytes(tile_height, tile_width);
  if (!options.init_image.empty())
    coding = std::max(coding, vae.encode_bytes(tile_height, tile_width));
  const Bytes step = engine.unet().get().activation_bytes(
      options.batch * branches, plan.height / factor, plan.width / factor);
  const Engine::WeightBytes& weights = engine.weight_bytes();
  const Bytes pictures(options.batch * plan.runs * plan.width * plan.height * 3);
  const Bytes kept = plan.runs > 1 ? weights.unet : Bytes();
  plan.weights = weights.unet + weights.vae;
  plan.activations = std::max(step, coding);
  plan.needed = std::max({weights.text, weights.unet + step, kept + weights.vae + coding}) +
                pictures + kProgram;
  plan.available = read_memory_info().usable_available();
}

}  // namespace

DtypeChoice dtype_choice(const GenerateOptions& o, Device device) {
  return {.unet = chosen(o.unet_dtype, o.dtype, device, "--unet-dtype"),
          .text = chosen(o.text_dtype, o.dtype, device, "--text-dtype"),
          .vae = chosen(o.vae_dtype, o.dtype, device, "--vae-dtype")};
}

Plan make_plan(const GenerateOptions& options, Engine& engine, const Image* picture, int threads) {
  Plan plan;
  choose_size(plan, options, engine, picture);
  plan.runs = static_cast<int64_t>(options.prompts.size());
  if (picture) plan.strength = options.strength.value_or(options.mask.empty() ? kStrength : 1);
  plan.steps_per_run = steps_of(options, engine, plan.strength);
  plan.seed_chosen = !options.seed;
  plan.seed = options.seed ? *options.seed : std::random_device()();
  plan.threads = threads;
  estimate(plan, options, engine);
  return plan;
}

void require_memory(const Plan& plan, const GenerateOptions& options) {
  if (plan.needed <= plan.available) return;
  std::string help = "Draw a smaller picture";
  if (options.batch > 1) help += ", a smaller --batch";
  if (!options.tiled_vae) help += ", use --tiled-vae";
  if (options.dtype == "fp32") help += ", use --dtype bf16";
  throw Error(ErrorCode::out_of_memory,
              {.subject = fmt::format("{}x{}, batch {}", plan.width, plan.height, options.batch),
               .expected = fmt::format("about {} of memory is needed and {} is available",
                                       to_string(plan.needed), to_string(plan.available)),
               .hint = help});
}

Json plan_event(const Plan& plan, const GenerateOptions& o, Engine& engine) {
  Json event = {
      {"event", "plan"},
      {"model",
       {{"file", o.model.string()}, {"family", engine.def().name}, {"name", engine.def().title}}},
      {"width", plan.width},
      {"height", plan.height},
      {"batch", o.batch},
      {"runs", plan.runs},
      {"steps", plan.steps_per_run},
      {"sampler", o.sampler},
      {"scheduler", o.scheduler},
      {"cfg", o.cfg},
      {"seed", plan.seed},
      {"seed_chosen", plan.seed_chosen}};
  if (!o.init_image.empty()) event["strength"] = plan.strength;
  event["dtype"] = {{"unet", dtype_name(engine.unet().compute().dtype)},
                    {"text", dtype_name(engine.text().front().compute().dtype)},
                    {"vae", dtype_name(engine.vae().compute().dtype)}};
  event["threads"] = plan.threads;
  event["memory"] = {{"weights", plan.weights.count()},
                     {"activations", plan.activations.count()},
                     {"needed", plan.needed.count()},
                     {"available", plan.available.count()}};
  return event;
}

}  // namespace atelier
