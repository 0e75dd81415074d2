// Defaults per model, and the memory of the phases: encode, sample, decode.
#include "app/engine/plan.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <numeric>
#include <random>

#include "app/engine/speed_probe.h"
#include "app/lora_option.h"
#include "base/error.h"
#include "base/utf8.h"
#include "device/cpu/int8.h"
#include "device/cpu/kernels.h"
#include "device/memory_info.h"
#include "nn/layers.h"

namespace atelier {
namespace {

constexpr double kStrength = 0.75;  // of a run that starts from a picture or a latent
constexpr double kPreparing = 2.2;  // times as long as reading and writing alone, about
constexpr double kModelShare = 0.7;  // of a lone layer's speed that a whole model reaches, about

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

/// Throws `unsupported` unless there are kernels for products of 8-bit integers.
void require_int8() {
  const CpuFeatures features = detect_cpu_features();
  if (cpu_int8_kernels(features)) return;
  std::string flags;
  for (const CpuFlag& flag : cpu_flags())
    if (features.*flag.value) flags += fmt::format(" {}", flag.name);
  throw Error(
      ErrorCode::unsupported,
      {.subject = "--int8",
       .expected = fmt::format("a processor that multiplies 8-bit integers ({})", cpu_int8_needs()),
       .found = fmt::format("the instruction set {} on one with{}",
                            cpu_isa_name(cpu_kernels(features).isa),
                            flags.empty() ? " none of them" : flags),
       .hint = "Without --int8 the file draws as well"});
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

/// Takes the size of a start latent; what the options say must agree with it.
void fit_to_latent(Plan& plan, const GenerateOptions& options, const Engine& engine,
                   const at::Tensor& latent) {
  const LatentFormat& format = engine.def().latent;
  const auto agree = [](std::string_view option, int64_t found, int64_t wanted, const char* what) {
    if (found != wanted)
      throw Error(ErrorCode::mismatch, {.subject = std::string(option),
                                        .expected = fmt::format("{} {}", wanted, what),
                                        .found = std::to_string(found)});
  };
  agree("--init-latent", latent.size(1), format.channels, "channels");
  plan.width = latent.size(3) * format.factor;
  plan.height = latent.size(2) * format.factor;
  agree("--width", options.width.value_or(plan.width), plan.width, "pixels, as the latent has");
  agree("--height", options.height.value_or(plan.height), plan.height, "pixels, as the latent has");
  if (latent.size(0) != 1)
    agree("--batch", options.batch, latent.size(0), "pictures, as the latent has");
}

void choose_size(Plan& plan, const GenerateOptions& options, const Engine& engine,
                 const StartPictures& start) {
  if (start.latent.defined()) return fit_to_latent(plan, options, engine, start.latent);
  plan.width = engine.native_width();
  plan.height = engine.native_height();
  const Image* like = start.init                 ? &*start.init
                      : start.control            ? &*start.control
                      : start.references.empty() ? nullptr
                                                 : &start.references.front();
  if (like && !options.width && !options.height) fit_to_picture(plan, *like);
  plan.width = options.width.value_or(plan.width);
  plan.height = options.height.value_or(plan.height);
}

/// All of it, unless a picture or latent is to shine through.
double choose_strength(const GenerateOptions& options, const StartPictures& start) {
  const bool part = options.start_step || options.no_noise || start.mask;
  const bool begun = start.init || start.latent.defined();
  return options.strength.value_or(begun && !part ? kStrength : 1);
}

/// Of all text encoders together: they are loaded at once.
Residency::Needs text_needs(Engine& engine) {
  Residency::Needs all;
  for (Component<TextEncoder>& text : engine.text()) {
    const Residency::Needs needs = text.needs();
    all.prepared += needs.prepared;
    all.stored += needs.stored;
    all.as_stored += needs.as_stored;
    all.largest = std::max(all.largest, needs.largest);
  }
  return all;
}

/// Of one call of the denoiser: its arithmetic, every weight read once, and those that are prepared
/// anew read as stored, written and read again. 0 if the arithmetic is unknown.
double call_seconds(double operations, const Compute& compute, const Residency::Needs& weights,
                    const Residency::Stay& stay) {
  if (operations == 0) return 0;
  const auto prepared = static_cast<double>(weights.prepared.count());
  const auto stored = static_cast<double>(weights.stored.count());
  const double kept = static_cast<double>(stay.prepared.count());
  const double anew = prepared > 0 ? std::max(0.0, 1 - kept / prepared) : 0;
  const double traffic = static_cast<double>(weights.as_stored.count()) + prepared +
                         kPreparing * anew * (stored + 2 * prepared);
  return operations / (kModelShare * operations_per_second(compute)) + traffic / bytes_per_second();
}

/// The prompts of a call, in tokens.
struct PromptTokens {
  int64_t longest = 0;  // as the denoiser is given them
  int64_t all = 0;
};

/// Prompts of different lengths are repeated to a common one where that is not far.
PromptTokens prompt_tokens(const GenerateOptions& options, bool negative, Engine& engine) {
  constexpr int64_t kMostRepeats = 4;
  std::optional<EmbeddingFolder> embeddings;
  if (!options.embeddings.empty()) embeddings.emplace(std::vector{options.embeddings});
  const PromptReader reader{.embeddings = embeddings ? &*embeddings : nullptr, .layer = {}};
  const std::vector<PromptEncoder> encoders = engine.prompt_encoders();
  const auto length = [&](const std::string& prompt) {
    return prompt_length(engine.def(), encoders, prompt, reader);
  };
  const int64_t other = negative ? length(options.negative) : 0;
  PromptTokens tokens{.longest = other, .all = other};
  for (const std::string& prompt : options.prompts) {
    const int64_t own = length(prompt), common = negative ? std::lcm(own, other) : own;
    const int64_t least = negative ? std::min(own, other) : own;
    const bool joined = engine.traits().prompt_repeats && common <= kMostRepeats * least;
    tokens.longest = std::max({tokens.longest, own, joined ? common : 0});
    tokens.all += own;
  }
  return tokens;
}

/// Of encoding them: a chunk's rows in the widest layer, and the states that are kept.
Bytes encoding_bytes(const PromptTokens& tokens, const Engine& engine) {
  constexpr int64_t kRows = 16;  // values for each of a state's: three of attention, eight hidden
  constexpr int64_t kClipChunk = 77;
  int64_t chunk = kClipChunk;
  for (const TextPart& part : engine.def().text)
    if (part.heavy) chunk = std::max(chunk, tokens.longest);
  return Bytes((kRows * chunk + 2 * tokens.all) * engine.traits().context_width * 4);
}

/// Latents that the samplers keep at once, the joined branches and their results among them.
Bytes latent_bytes(const GenerateOptions& options, const Engine& engine, int64_t rows,
                   int64_t columns) {
  constexpr int64_t kKept = 12;
  const int64_t channels = std::max(engine.def().latent.channels, engine.traits().in_channels);
  return Bytes(kKept * options.batch * channels * rows * columns * 4);
}

/// Peaks of the phases. Text encoders leave before the UNet comes; the UNet leaves before the last
/// picture is decoded. Where UNet and VAE would meet, since there are several pictures or one to
/// start from, and do not fit beside each other, each leaves before the other comes.
void estimate(Plan& plan, const GenerateOptions& options, Engine& engine) {
  const int64_t factor = engine.def().latent.factor;
  const Tiling tiling;
  const int64_t tile_height = options.tiled_vae ? std::min(plan.height, tiling.tile) : plan.height;
  const int64_t tile_width = options.tiled_vae ? std::min(plan.width, 2 * tiling.tile) : plan.width;
  const Vae& vae = engine.vae().get();
  Bytes coding = vae.decode_bytes(tile_height, tile_width);
  const bool encodes = !options.init_image.empty() || !options.control_image.empty() ||
                       !options.references.empty() || extra_input(engine) != ExtraInput::none;
  if (encodes) coding = std::max(coding, vae.encode_bytes(tile_height, tile_width));
  // Each picture looked at has about the area drawn.
  const int64_t areas = 1 + std::ssize(options.references);
  const int64_t branches = options.batch * (plan.settings.negative ? 2 : 1);
  const int64_t rows = areas * plan.height / factor, columns = plan.width / factor;
  const PromptTokens tokens = prompt_tokens(options, plan.settings.negative, engine);
  const DiffusionModel& denoiser = engine.unet().get();
  const Bytes step = denoiser.activation_bytes(branches, rows, columns) +
                     denoiser.prompt_bytes(branches, tokens.longest);
  // Each picture is written when it is decoded; a sheet keeps them, and is as large as all.
  const int64_t kept = options.sheet.empty() ? 1 : 2 * options.batch * plan.runs;
  const Bytes pictures = Bytes(kept * plan.width * plan.height * 3) +
                         latent_bytes(options, engine, rows, columns) + engine.loras().bytes() +
                         kProgram;
  plan.available = read_memory_info().usable_available();
  if (!options.ram.empty())
    plan.available = std::min(plan.available, parse_bytes(options.ram, "--ram"));
  const Residency::Needs text = text_needs(engine), unet = engine.unet().needs();
  const Residency::Needs vae_needs = engine.vae().needs();
  plan.text = plan_phase(text, pictures + encoding_bytes(tokens, engine), plan.available);
  plan.unet = plan_phase(unet, step + pictures, plan.available);
  plan.vae = plan_phase(vae_needs, coding + pictures, plan.available);
  const double operations = denoiser.operations(branches, rows, columns) +
                            denoiser.prompt_operations(branches, rows, columns, tokens.longest);
  plan.seconds_per_call = call_seconds(operations, engine.unet().compute(), unet, plan.unet.stay);
  const bool several = plan.runs > 1;
  const Bytes together = unet.prepared + unet.as_stored + vae_needs.prepared + pictures +
                         (several ? std::max(step, coding) : step);
  const bool meet = several || encodes;
  plan.takes_turns = meet && together > plan.available;
  plan.tight = plan.takes_turns || plan.text.stay.prepared < text.prepared ||
               plan.unet.stay.prepared < unet.prepared ||
               plan.vae.stay.prepared < vae_needs.prepared;
  plan.weights = plan.unet.stay.prepared + plan.vae.stay.prepared;
  plan.activations = std::max(step, coding);
  plan.needed = std::max({plan.text.needed, plan.unet.needed, plan.vae.needed});
  if (meet && !plan.takes_turns) plan.needed = std::max(plan.needed, together);
  plan.least = std::max({plan.text.least, plan.unet.least, plan.vae.least});
  plan.tiling_helps = !options.tiled_vae && plan.vae.needed > plan.unet.needed;
}

}  // namespace

Json loras_json(const GenerateOptions& options) {
  Json loras = Json::array();
  for (const std::string& word : options.loras) {
    const LoraOption lora = parse_lora_option(word);
    loras.push_back({{"file", valid_utf8(lora.file.filename().string())},
                     {"strength", lora.strength},
                     {"text_strength", lora.text_strength}});
    if (!lora.blocks.empty()) loras.back()["blocks"] = valid_utf8(lora.blocks);
  }
  return loras;
}

DtypeChoice dtype_choice(const GenerateOptions& o, Device device) {
  if (o.int8) require_int8();
  return {.unet = chosen(o.unet_dtype, o.dtype, device, "--unet-dtype"),
          .text = chosen(o.text_dtype, o.dtype, device, "--text-dtype"),
          .vae = chosen(o.vae_dtype, o.dtype, device, "--vae-dtype"),
          .int8 = o.int8};
}

SampleJob sample_job(const GenerateOptions& options, const Plan& plan, const Engine& engine) {
  const Settings& settings = plan.settings;
  return {.model = engine.sampling(),
          .latent = {},
          .sampler = settings.sampler,
          .scheduler = settings.scheduler,
          .steps = static_cast<int>(settings.steps),
          .denoise = plan.strength,
          .cfg = settings.cfg,
          .start_noise = options.no_noise ? StartNoise::none : StartNoise::from_seed,
          .start_at_step = static_cast<int>(options.start_step.value_or(0)),
          .end_at_step = static_cast<int>(options.end_step.value_or(settings.steps)),
          .ending = options.keep_noise ? Ending::leftover_noise : Ending::denoised};
}

Plan make_plan(const GenerateOptions& options, Engine& engine, const StartPictures& start,
               int threads) {
  Plan plan;
  check_pictures(engine, start);
  choose_size(plan, options, engine, start);
  plan.settings = choose_settings(options, engine);
  apply_shift(options, plan.width, plan.height, engine, plan.settings);
  plan.runs = static_cast<int64_t>(options.prompts.size());
  plan.strength = choose_strength(options, start);
  const SampleJob job = sample_job(options, plan, engine);
  plan.steps_per_run = std::max<int64_t>(static_cast<int64_t>(sigmas_of(job).size()) - 1, 0);
  plan.seed_chosen = !options.seed;
  plan.seed = options.seed ? *options.seed : std::random_device()();
  plan.threads = threads;
  estimate(plan, options, engine);
  return plan;
}

RunSize run_size(const Plan& plan, const GenerateOptions& options, const Engine& engine) {
  const FoundPart& part = engine.unet().found();
  std::map<std::string_view, uint64_t> bytes;
  for (const auto& [name, info] : part.source->tensors())
    if (name.starts_with(part.place.prefix)) bytes[encoding_info(info.encoding).name] += info.size;
  const auto most = std::ranges::max_element(bytes, {}, [](const auto& row) { return row.second; });
  return {.width = plan.width,
          .height = plan.height,
          .batch = options.batch,
          .encoding = most == bytes.end() ? "" : std::string(most->first),
          .could_tile = plan.tiling_helps,
          .ram = options.ram.empty() ? Bytes() : plan.available};
}

void require_memory(const Plan& plan, const GenerateOptions& options) {
  if (plan.needed <= plan.available) return;
  std::string help = options.ram.empty() ? "Draw " : "Raise --ram, draw ";
  help += "a smaller picture";
  if (options.batch > 1) help += ", a smaller --batch";
  if (!options.tiled_vae) help += ", use --tiled-vae";
  if (options.dtype == "fp32") help += ", use --dtype bf16";
  throw Error(ErrorCode::out_of_memory,
              {.subject = fmt::format("{}x{}, batch {}", plan.width, plan.height, options.batch),
               .expected = fmt::format("about {} of memory is needed and {} {}",
                                       to_string(plan.needed), to_string(plan.available),
                                       options.ram.empty() ? "is available" : "may be used"),
               .hint = help});
}

void limit_memory(const Plan& plan, Engine& engine) {
  Residency::Stay left = plan.text.stay;
  for (Component<TextEncoder>& text : engine.text()) {
    Residency::Stay stay = left;
    stay.prepared = std::min(left.prepared, text.needs().prepared);
    text.keep(stay);
    left.prepared = left.prepared - stay.prepared;
  }
  engine.unet().keep(plan.unet.stay);
  engine.vae().keep(plan.vae.stay);
}

std::vector<std::string> memory_warnings(const Plan& plan) {
  const std::pair<const PhaseMemory&, std::string_view> phases[] = {
      {plan.text, "text encoder"}, {plan.unet, "UNet"}, {plan.vae, "VAE"}};
  std::vector<std::string> lines;
  for (const auto& [phase, part] : phases)
    if (phase.from_disk())
      lines.push_back(
          fmt::format("the {}'s weights do not all fit beside what else it needs; those "
                      "that do not are read from disk again and again",
                      part));
  return lines;
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
      {"sampler", plan.settings.sampler},
      {"scheduler", plan.settings.scheduler},
      {"cfg", plan.settings.cfg},
      {"seed", plan.seed},
      {"seed_chosen", plan.seed_chosen}};
  if (!o.init_image.empty() || !o.init_latent.empty()) event["strength"] = plan.strength;
  if (plan.settings.guidance) event["guidance"] = *plan.settings.guidance;
  if (plan.settings.shift) event["shift"] = *plan.settings.shift;
  event["dtype"] = {{"unet", dtype_name(engine.unet().compute().dtype)},
                    {"text", dtype_name(engine.text().front().compute().dtype)},
                    {"vae", dtype_name(engine.vae().compute().dtype)}};
  if (engine.text().size() > 1)
    event["dtype"]["text_2"] = dtype_name(engine.text().back().compute().dtype);
  if (!o.loras.empty()) event["loras"] = loras_json(o);
  event["threads"] = plan.threads;
  if (o.int8) event["int8_layers"] = engine.unet().count_form(nn::kInt8Form);
  if (plan.seconds_per_call > 0) event["seconds_per_call"] = plan.seconds_per_call;
  event["memory"] = {{"weights", plan.weights.count()},
                     {"activations", plan.activations.count()},
                     {"needed", plan.needed.count()},
                     {"least", plan.least.count()},
                     {"available", plan.available.count()},
                     {"unet_prepared", plan.unet.stay.prepared.count()},
                     {"unet_weights", engine.unet().needs().prepared.count()}};
  return event;
}

}  // namespace atelier
