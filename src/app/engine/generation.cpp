// The phases of a call: read pictures, open the model, plan, encode prompts, load, draw. Longer
// than most: one function for each phase, and the record of settings that goes into pictures.
#include "app/engine/generation.h"

#include <ATen/Parallel.h>
#include <fmt/format.h>

#include <algorithm>

#include "app/engine/contact_sheet.h"
#include "app/engine/not_finite.h"
#include "app/lora_option.h"
#include "app/option_checks.h"
#include "app/output_checks.h"
#include "base/error.h"
#include "base/mapped_file.h"
#include "base/utf8.h"
#include "device/cpu/allocation.h"
#include "device/cpu/features.h"
#include "device/memory_info.h"
#include "device/torch_allocator.h"
#include "nn/layers.h"
#include "pipeline/image_tensor.h"
#include "pipeline/latent_file.h"
#include "sampling/sample.h"

namespace atelier {
namespace {

// How pleasing pictures are to be, as the refiner was told in training.
constexpr double kPositiveScore = 6, kNegativeScore = 2.5;

ModelFiles model_files(const GenerateOptions& o) {
  return {.model = o.model,
          .vae = o.vae,
          .text_encoders = o.text_encoders,
          .clip_l = o.clip_l,
          .clip_g = o.clip_g,
          .t5 = o.t5,
          .t5_tokenizer = o.t5_tokenizer};
}

Image read_image(const std::filesystem::path& path) {
  return decode_image(MappedFile::open(path).bytes(), path.string());
}

}  // namespace

Generation::Generation(const GenerateOptions& options, EngineHost& host,
                       StepClock::Clock::time_point started)
    : options_(options), host_(host), started_(started), files_(options) {}

void Generation::phase(const char* name) {
  check_stop();
  host_.event({{"event", "phase"}, {"name", name}});
}

void Generation::check_stop() const {
  if (!host_.stop().stop_requested()) return;
  const std::string kept = written_.empty()
                               ? "nothing was written"
                               : fmt::format("{} finished picture{} kept", written_.size(),
                                             written_.size() == 1 ? " was" : "s were");
  throw Error(ErrorCode::cancelled, {.expected = "stopped by Ctrl-C; " + kept});
}

void Generation::run() {
  const int threads = choose_threads();
  at::set_num_threads(threads);
  use_arena_for_tensors();
  read_inputs();
  warn_of_options();
  const Device device;
  engine_.emplace(model_files(options_), device, dtype_choice(options_, device));
  read_loras();
  if (!options_.preview_decoder.empty()) begin_preview();
  plan_ = make_plan(options_, *engine_, pictures_, threads);
  check_names();
  host_.event(plan_event(plan_, options_, *engine_));
  for (const std::string& line : idle_options(options_, *engine_, plan_.settings)) warn(line);
  require_memory(plan_, options_);
  limit_memory(plan_, *engine_);
  for (const std::string& line : memory_warnings(plan_)) warn(line);
  if (options_.int8 && engine_->unet().count_form(nn::kInt8Form) == 0)
    warn("--int8 changes nothing: no layer of the denoiser is stored as Q8_0");
  prepare_files();
  if (!options_.collect_imatrix.empty()) begin_collecting();
  encode_prompts();
  load_model();
  clock_.emplace(plan_.runs * plan_.steps_per_run);
  // An estimate of next to nothing says nothing of a step's other costs.
  constexpr double kLeastEstimate = 0.1;
  slow_.emplace(run_size(plan_, options_, *engine_),
                plan_.seconds_per_call < kLeastEstimate ? 0 : plan_.seconds_per_call);
  for (size_t run = 0; run < options_.prompts.size(); ++run) draw_run(run);
  if (!options_.sheet.empty()) write_sheet();
  if (!options_.collect_imatrix.empty()) write_importance();
  finish();
}

void Generation::read_inputs() {
  if (!options_.init_image.empty()) pictures_.init = read_image(options_.init_image);
  if (!options_.mask.empty()) pictures_.mask = read_image(options_.mask);
  if (!options_.control_image.empty()) pictures_.control = read_image(options_.control_image);
  for (const std::filesystem::path& file : options_.references)
    pictures_.references.push_back(read_image(file));
  if (!options_.init_latent.empty()) pictures_.latent = load_latent(options_.init_latent);
  std::error_code none;
  if (std::filesystem::exists(options_.collect_imatrix, none))
    importance_ = ImportanceMatrix::load(options_.collect_imatrix);
}

void Generation::read_loras() {
  std::vector<LoraUse> uses;
  for (const std::string& word : options_.loras) {
    LoraOption lora = parse_lora_option(word);
    uses.push_back(
        {std::move(lora.file), lora.strength, lora.text_strength, std::move(lora.blocks)});
  }
  for (const LoraWarning& told : engine_->set_loras(uses)) warn(told.message, told.items);
}

void Generation::warn(const std::string& message, const std::vector<std::string>& items) {
  if (!warned_.insert(message).second) return;
  Json event = {{"event", "warning"}, {"message", message}};
  if (!items.empty()) event["items"] = items;
  host_.event(event);
}

void Generation::warn_of_options() {
  const auto names_embedding = [](const std::string& prompt) {
    return prompt.find("embedding:") != prompt.npos;
  };
  if (options_.embeddings.empty() && (std::ranges::any_of(options_.prompts, names_embedding) ||
                                      names_embedding(options_.negative)))
    warn("embedding:NAME is read as plain words, since no folder was named with --embeddings");
  warn_of_lora_words();
}

void Generation::warn_of_lora_words() {
  const auto names_lora = [](const std::string& prompt) {
    return prompt.find("<lora:") != prompt.npos;
  };
  if (std::ranges::any_of(options_.prompts, names_lora) || names_lora(options_.negative))
    warn("<lora:NAME:STRENGTH> is read as plain words; use --lora FILE:STRENGTH instead");
}

int Generation::choose_threads() {
  constexpr int kMostPerCore = 4;  // beyond that the system may refuse to make them
  const int cores = detect_cpu_features().usable_threads(), most = kMostPerCore * cores;
  if (options_.threads <= 0) return cores;
  const auto asked = static_cast<int>(options_.threads), threads = std::min(asked, most);
  if (asked > cores)
    warn(fmt::format("--threads {}: only {} can run at once, more of them slow each other down{}",
                     asked, cores, threads < asked ? fmt::format("; {} are used", threads) : ""));
  return threads;
}

void Generation::begin_preview() {
  preview_.emplace(*engine_, options_.preview, options_.preview_decoder);
}

void Generation::check_names() {
  std::vector<Written> files = written_files(options_);
  for (int64_t run = 0; run < plan_.runs; ++run)
    for (int64_t i = 0; i < options_.batch; ++i) {
      OutFacts facts = out_facts(static_cast<size_t>(run));
      facts.index = run * options_.batch + i + 1;
      files.push_back({fill_out_pattern(options_.out, facts), "--out", options_.overwrite});
    }
  check_outputs(options_, files);
}

void Generation::prepare_files() {
  prepare_folder_of(fill_out_pattern(options_.out, out_facts(0)), "--out");
  if (!options_.sheet.empty()) prepare_folder_of(options_.sheet, "--sheet");
  if (!options_.preview.empty()) prepare_folder_of(options_.preview, "--preview");
  if (!options_.save_latent.empty()) prepare_folder_of(options_.save_latent, "--save-latent");
  if (!options_.collect_imatrix.empty())
    prepare_folder_of(options_.collect_imatrix, "--collect-imatrix");
}

void Generation::encode_prompts() {
  phase("loading text encoder");
  for (Component<TextEncoder>& text : engine_->text())
    text.load([&](double) { return !host_.stop().stop_requested(); });
  phase("encoding prompts");
  std::optional<EmbeddingFolder> embeddings;
  if (!options_.embeddings.empty()) embeddings.emplace(std::vector{options_.embeddings});
  PromptReader reader{.embeddings = embeddings ? &*embeddings : nullptr, .layer = {}};
  if (options_.clip_skip) reader.layer = -static_cast<int>(*options_.clip_skip);
  for (const std::string& prompt : options_.prompts)
    positive_.push_back(encode(prompt, reader, kPositiveScore));
  if (plan_.settings.negative) negative_ = encode(options_.negative, reader, kNegativeScore);
  for (Component<TextEncoder>& text : engine_->text()) leave(text);
}

template <class Part>
void Generation::leave(Component<Part>& part) {
  part.release();
  // The heap of one phase would lie beside the mapped weights of the next.
  if (plan_.tight) trim_allocator();
}

Conditioning Generation::encode(const std::string& prompt, const PromptReader& reader,
                                double score) {
  const EncodedPrompt encoded =
      encode_prompt(engine_->def(), engine_->prompt_encoders(), prompt, reader);
  for (const std::string& warning : encoded.warnings) warn(warning);
  const PictureMeasures measures{.width = plan_.width,
                                 .height = plan_.height,
                                 .target_width = plan_.width,
                                 .target_height = plan_.height,
                                 .score = score};
  Conditioning result = condition(engine_->def(), encoded, measures);
  result.guidance = plan_.settings.guidance;
  return result;
}

void Generation::load_model() {
  const auto width = static_cast<int32_t>(plan_.width), height = static_cast<int32_t>(plan_.height);
  fit_pictures(pictures_, width, height);
  if (pictures_.init || pictures_.control || !pictures_.references.empty())
    phase("encoding picture");
  start_ = start_latent(*engine_, pictures_, options_.batch, plan_.height, plan_.width, tiling());
  if (!options_.preview.empty() && !preview_) begin_preview();
  if (plan_.takes_turns) leave(engine_->vae());
  load_unet();
}

void Generation::load_unet() {
  phase("loading UNet");
  engine_->unet().load([&](double) { return !host_.stop().stop_requested(); });
  check_stop();
}

void Generation::draw_run(size_t run) {
  if (run > 0 && plan_.takes_turns) load_unet();
  const at::Tensor latent = sample_run(run);
  const bool last = run + 1 == options_.prompts.size();
  if (last || plan_.takes_turns) leave(engine_->unet());
  if (!options_.save_latent.empty()) {
    const std::filesystem::path file = files_.free_name(options_.save_latent);
    save_latent(file, engine_->to_vae_space(latent));
    host_.event({{"event", "latent"},
                 {"file", file.string()},
                 {"run", run + 1},
                 {"shape", latent.sizes().vec()}});
  }
  phase("decoding");
  write_pictures(run, latent);
  if (plan_.takes_turns) leave(engine_->vae());
}

at::Tensor Generation::sample_run(size_t run) {
  check_stop();
  host_.event({{"event", "start"},
               {"run", run + 1},
               {"runs", plan_.runs},
               {"prompt", options_.prompts[run]},
               {"steps", plan_.steps_per_run},
               {"seconds", StepClock::seconds_since(started_)}});
  SampleJob job = sample_job(options_, plan_, *engine_);
  job.latent = start_.latent;
  job.seed = plan_.seed;
  job.mask = start_.mask;
  const ModelCall network = model_call(
      engine_->unet().get(), {positive_[run], negative_, start_.concat, start_.references});
  const ModelCall timed = [&](const ModelInput& input) {
    const StepClock::Inside inside(*clock_);
    ++calls_;
    return network(input);
  };
  clock_->begin_run();
  slow_->begin(read_vitals());
  try {
    const Sampled sampled =
        sample(job, timed, [&](const Step& step) { on_step(run, step); }, host_.stop());
    clock_->end_run();
    return sampled.latent;
  } catch (const Error& error) {
    if (error.code() == ErrorCode::cancelled) check_stop();
    throw;
  }
}

void Generation::on_step(size_t run, const Step& step) {
  const double seconds = clock_->end_step();
  const Vitals now = read_vitals();  // of the same time: an event may have to wait for its reader
  host_.event({{"event", "step"},
               {"run", run + 1},
               {"runs", plan_.runs},
               {"step", step.index + 1},
               {"steps", step.count},
               {"sigma", step.sigma},
               {"seconds", seconds},
               {"seconds_per_step", clock_->median()},
               {"seconds_left", clock_->left()}});
  if (auto event = slow_->step(seconds, std::exchange(calls_, 0), now)) {
    (*event)["run"] = run + 1;
    (*event)["step"] = step.index + 1;
    host_.event(*event);
  }
  if (!preview_) return;
  preview_->write(step.denoised);
  host_.event(
      {{"event", "preview"}, {"file", preview_->file().string()}, {"step", step.index + 1}});
}

OutFacts Generation::out_facts(size_t run) const {
  OutFacts facts{.model = options_.model.filename().stem().string(),
                 .prompt = options_.prompts[run],
                 .seed = plan_.seed,
                 .index = static_cast<int64_t>(written_.size()) + 1,
                 .width = plan_.width,
                 .height = plan_.height,
                 .steps = plan_.settings.steps,
                 .cfg = plan_.settings.cfg,
                 .sampler = plan_.settings.sampler,
                 .scheduler = plan_.settings.scheduler};
  if (facts.model.empty())  // "folder/"
    facts.model = options_.model.parent_path().filename().string();
  return facts;
}

PictureFacts Generation::facts_of(size_t run, int64_t batch_index) const {
  return {.prompt = options_.prompts[run],
          .negative = options_.negative,
          .batch_index = batch_index,
          .out = out_facts(run),
          .more = used_settings()};
}

Json Generation::used_settings() const {
  const GenerateOptions& o = options_;
  Json used = {{"batch", o.batch},
               {"dtype", dtype_name(engine_->unet().compute().dtype)},
               {"text_dtype", dtype_name(engine_->text().front().compute().dtype)},
               {"vae_dtype", dtype_name(engine_->vae().compute().dtype)}};
  if (engine_->text().size() > 1)
    used["text_2_dtype"] = dtype_name(engine_->text().back().compute().dtype);
  if (plan_.settings.guidance) used["guidance"] = *plan_.settings.guidance;
  if (plan_.settings.shift) used["shift"] = *plan_.settings.shift;
  if (o.base_shift) used["base_shift"] = *o.base_shift;
  if (o.max_shift) used["max_shift"] = *o.max_shift;
  if (o.clip_skip) used["clip_skip"] = *o.clip_skip;
  if (!o.init_image.empty() || !o.init_latent.empty()) used["strength"] = plan_.strength;
  if (o.start_step) used["start_step"] = *o.start_step;
  if (o.end_step) used["end_step"] = *o.end_step;
  for (const auto& [key, set] :
       {std::pair("no_noise", o.no_noise), std::pair("keep_noise", o.keep_noise),
        std::pair("tiled_vae", o.tiled_vae), std::pair("int8", o.int8)})
    if (set) used[key] = true;
  for (const auto& [key, path] :
       {std::pair("init_image", &o.init_image), std::pair("init_latent", &o.init_latent),
        std::pair("mask", &o.mask), std::pair("control_image", &o.control_image),
        std::pair("vae", &o.vae), std::pair("clip_l", &o.clip_l), std::pair("clip_g", &o.clip_g),
        std::pair("t5", &o.t5), std::pair("t5_tokenizer", &o.t5_tokenizer)})
    if (!path->empty()) used[key] = valid_utf8(path->filename().string());
  for (const auto& [key, files] :
       {std::pair("text_encoders", &o.text_encoders), std::pair("references", &o.references)})
    for (const std::filesystem::path& file : *files)
      used[key].push_back(valid_utf8(file.filename().string()));
  if (!o.loras.empty()) used["loras"] = loras_json(o);
  used["version"] = fmt::format("atelier {}", ATELIER_VERSION);
  return used;
}

void Generation::write_pictures(size_t run, const at::Tensor& latent) {
  for (int64_t i = 0; i < latent.size(0); ++i) {
    check_stop();
    const at::Tensor picture =
        decode_latent(*engine_, latent.narrow(0, i, 1), tiling(), [&] { check_stop(); });
    if (const auto warning = not_finite_warning(*engine_, latent[i], picture)) warn(*warning);
    Image image = to_image(picture[0]);
    if (pictures_.mask) image = composite(image, *pictures_.init, *pictures_.mask);
    const PictureFacts facts = facts_of(run, i);
    const std::string file = files_.write(image, facts).string();
    written_.push_back(file);
    host_.event({{"event", "image"},
                 {"file", file},
                 {"index", facts.out.index},
                 {"run", run + 1},
                 {"batch_index", i},
                 {"seed", plan_.seed},
                 {"prompt", facts.prompt},
                 {"width", image.width},
                 {"height", image.height}});
    if (!options_.sheet.empty()) drawn_.push_back(std::move(image));
  }
}

void Generation::write_sheet() {
  const int32_t columns = sheet_columns(plan_.runs, options_.batch);
  const std::filesystem::path file =
      files_.write_as(options_.sheet, contact_sheet(drawn_, columns));
  const auto rows = (static_cast<int32_t>(drawn_.size()) + columns - 1) / columns;
  host_.event({{"event", "sheet"}, {"file", file.string()}, {"columns", columns}, {"rows", rows}});
}

/// Has every part that can be quantised watched; text encoders' entries stand behind their names.
void Generation::begin_collecting() {
  const auto watch = [&](auto& part, const auto& def, std::string prefix) {
    if (!def.quantisation.empty())
      part.observe(&collectors_.emplace_back(importance_, std::move(prefix)));
  };
  const ModelDef& def = engine_->def();
  watch(engine_->unet(), def.denoiser, "");
  for (size_t i = 0; i < def.text.size(); ++i)
    watch(engine_->text()[i], *def.text[i].encoder, fmt::format("{}.", def.text[i].encoder->name));
}

void Generation::write_importance() {
  importance_.save(options_.collect_imatrix);
  host_.event({{"event", "imatrix"},
               {"file", options_.collect_imatrix.string()},
               {"weights", importance_.size()}});
}

void Generation::finish() {
  host_.event({{"event", "done"},
               {"images", written_},
               {"seconds", StepClock::seconds_since(started_)},
               {"seconds_per_step", clock_->median()},
               {"seconds_outside_steps", clock_->outside_per_step()},
               {"peak_memory", read_process_memory().peak.count()}});
}

}  // namespace atelier
