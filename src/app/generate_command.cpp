// `atelier generate`: declares the options, checks them, and hands over to the engine.
#include <fmt/format.h>

#include <array>
#include <chrono>
#include <cstdio>

#include "app/command_line.h"
#include "app/commands.h"
#include "app/engine_loader.h"
#include "app/interrupt.h"
#include "app/option_checks.h"
#include "app/out_pattern.h"
#include "app/progress.h"
#include "base/error.h"
#include "base/log.h"
#include "base/one_line.h"
#include "base/standard_streams.h"
#include "device/cpu/allocation.h"
#include "sampling/names.h"

namespace atelier {
namespace {

constexpr std::array<std::string_view, 4> kDtypes = {"auto", "fp32", "bf16", "fp16"};

/// Passes events on to the display, with the stop request of Ctrl-C.
class CommandHost final : public EngineHost {
 public:
  CommandHost(EventPrinter& printer, bool json, std::stop_token stop)
      : printer_(printer), json_(json), stop_(std::move(stop)) {}
  void event(const Json& event) override {
    printer_.event(event);
    if (json_ && event.value("event", "") == "error")
      put(stderr, fmt::format("error: {}\n", one_line(event.value("message", ""))));
  }
  std::stop_token stop() const override { return stop_; }

 private:
  EventPrinter& printer_;
  bool json_;
  std::stop_token stop_;
};

void declare_files(CommandLine& line, GenerateOptions& o, std::filesystem::path& unet) {
  line.group("Model");
  line.path("-m,--model", "FILE|FOLDER", o.model,
            "checkpoint: a .safetensors, .ckpt or .gguf file, or a diffusers folder");
  line.path("--unet", "FILE", unet,
            "the same for a file that holds the diffusion model alone, as those of FLUX do");
  line.path("--vae", "FILE", o.vae, "take the VAE from this file instead");
  line.path("--clip-l", "FILE", o.clip_l, "take the text encoder CLIP-L from this file");
  line.path("--clip-g", "FILE", o.clip_g, "take the text encoder OpenCLIP-G from this file");
  line.path("--t5", "FILE", o.t5, "take the text encoder T5 from this file");
  line.path("--t5-tokenizer", "FILE", o.t5_tokenizer,
            "T5's spiece.model or tokenizer.json (default: in the model, or beside its files)");
  line.paths("--text-encoder", "FILE...", o.text_encoders,
             "take the text encoders from these files instead, in any order");
  line.path("--embeddings", "DIR", o.embeddings,
            "folder of textual inversions, used in prompts as embedding:NAME");
  line.texts("--lora", "FILE[:S[:T]]", o.loras,
             "LoRA to draw with, at strength S (1), in text encoders T (as S); may be repeated. "
             ":blocks=LIST behind it sets strengths of single blocks, see docs/lora.md");
}

void declare_inputs(CommandLine& line, GenerateOptions& o) {
  line.group("Prompt");
  line.texts("-p,--prompt", "TEXT", o.prompts,
             "what to draw; (word:1.2) weighs a part. May be repeated: one run for each");
  line.text("-n,--negative", "TEXT", o.negative, "what to keep out of the picture");
  line.integer(
      "--clip-skip", o.clip_skip, 1, 24,
      "text encoder layer to use, counted from the end; 1 is the last, as is any number past "
      "the first (default: what the model was made for)");
  line.group("Picture");
  line.integer("--width", o.width, kLeastSize, kMostSize,
               "pixels, a multiple of 8 (default: the model's own size)");
  line.integer("--height", o.height, kLeastSize, kMostSize,
               "pixels, a multiple of 8 (default: the model's own size)");
  line.integer("-b,--batch", o.batch, 1, 4096, "pictures drawn at once for each prompt (1)");
  line.seed("-s,--seed", o.seed,
            "start of the random numbers, 0 to 2^64-1 (default: a random one, which is printed)");
}

void declare_sampling(CommandLine& line, GenerateOptions& o) {
  line.group("Sampling");
  line.integer("--steps", o.steps, 1, 10'000, "number of steps (20; FLUX.1 schnell 4)");
  line.number("--cfg", o.cfg, 0, 100,
              "guidance: how closely to follow the prompt; 1 ignores the negative prompt (7; FLUX "
              "1)");
  line.number("--guidance", o.guidance, 0, 100,
              "the scale FLUX.1 is told (3.5; with --reference 2.5; Fill, Canny and Depth 30)");
  line.choice("--sampler", "NAME", o.sampler, kSamplerNames, "see below (euler)");
  line.choice("--scheduler", "NAME", o.scheduler, kSchedulerNames,
              "see below (normal; FLUX simple)");
  line.number("--shift", o.shift, 0.01, 100,
              "how far FLUX's noise levels lean towards noise (1.15; schnell 1)");
  line.number("--base-shift", o.base_shift, -100, 100,
              "let the shift go by the picture's size: at 256x256 pixels (0.5)");
  line.number("--max-shift", o.max_shift, -100, 100, "and at 1024x1024 pixels (1.15)");
}

void declare_start(CommandLine& line, GenerateOptions& o) {
  line.group("Starting from something");
  line.path("--init-image", "FILE", o.init_image,
            "picture to start from; scaled to the size drawn");
  line.path("--init-latent", "FILE", o.init_latent,
            "latent to start from, as --save-latent and ComfyUI's SaveLatent write it");
  line.number("--strength", o.strength, 0, 1,
              "how much of it is redrawn, 0 to 1 (0.75; with --mask 1)");
  line.path("--mask", "FILE", o.mask, "redraw only where this picture is white");
  line.path("--control-image", "FILE", o.control_image,
            "picture of edges or depths, for FLUX.1 Canny and Depth; scaled to the size drawn");
  line.paths("--reference", "FILE...", o.references,
             "pictures to look at, for FLUX.1 Kontext; scaled to the area drawn");
  line.group("Part of a run, as ComfyUI's KSampler (Advanced)");
  line.integer("--start-step", o.start_step, 0, 10'000, "leave out the steps before this one (0)");
  line.integer("--end-step", o.end_step, 1, 10'000,
               "leave out this step and those after it (default: go to the end)");
  line.flag("--no-noise", o.no_noise, "add no noise to what the run starts from");
  line.flag("--keep-noise", o.keep_noise,
            "with --end-step: leave the noise in the latent, for a run that goes on from it");
}

void declare_computing(CommandLine& line, GenerateOptions& o) {
  line.group("Computing");
  line.choice("--dtype", "TYPE", o.dtype, kDtypes,
              "auto, fp32, bf16 or fp16 (auto: the best this machine does natively)");
  line.choice("--unet-dtype", "TYPE", o.unet_dtype, kDtypes, "the same for the UNet alone");
  line.choice("--text-dtype", "TYPE", o.text_dtype, kDtypes,
              "the same for the text encoders alone");
  line.choice("--vae-dtype", "TYPE", o.vae_dtype, kDtypes, "the same for the VAE alone");
  line.flag("--int8", o.int8,
            "multiply matrices stored as Q8_0 as 8-bit integers: less time, slightly less exact");
  line.integer("--threads", o.threads, 1, 1024, "CPU threads (default: all cores)");
  line.text("--ram", "SIZE", o.ram,
            "use at most this much memory, such as 6GiB: weights beyond it are prepared anew at "
            "each step (default: what is available)",
            "an amount of memory");
  line.flag("--tiled-vae", o.tiled_vae, "decode and encode in tiles: less memory, more time");
}

void declare_output(CommandLine& line, GenerateOptions& o) {
  line.group("Output");
  line.text("-o,--out", "PATTERN", o.out,
            "where pictures go; .png, .jpg or .webp, {placeholders} as below "
            "(outputs/{model}_{seed}_{index}.png)");
  line.flag("--overwrite", o.overwrite,
            "replace files of the same name; without it _2, _3, ... is added to the name");
  line.path("--sheet", "FILE", o.sheet,
            "also write all pictures of this call as one contact sheet");
  line.path("--preview", "FILE", o.preview, "rewrite this picture after every step");
  line.path("--preview-decoder", "FILE", o.preview_decoder,
            "TAESD weights for sharper previews (default: a linear estimate)");
  line.path("--save-latent", "FILE", o.save_latent,
            "also write the final latent, as safetensors with the tensor 'latent_tensor'");
  line.path(
      "--collect-imatrix", "FILE", o.collect_imatrix,
      "also record how much each input channel matters, for 'atelier quantize --imatrix'; what "
      "the file holds already is added to");
  line.flag("--json", o.json, "print one JSON object per event, see docs/events.md");
  line.flag("--verbose", o.verbose, "say more on standard error, such as all of a warning's list");
}

/// --unet is another name of --model.
void take_unet(GenerateOptions& options, const std::filesystem::path& unet) {
  if (unet.empty()) return;
  if (!options.model.empty())
    throw Error(ErrorCode::invalid_argument,
                {.subject = "--unet",
                 .expected = "cannot be used with --model",
                 .hint = "Both name the diffusion model; name a whole checkpoint with --model"});
  check_readable(unet, "--unet", Wanted::either);
  options.model = unet;
}

std::string footer() {
  std::string text = "Placeholders in file names:\n";
  for (const Placeholder& p : placeholders())
    text += fmt::format("  {:<12} {}\n", fmt::format("{{{}}}", p.name), p.meaning);
  text += fmt::format("\nSamplers: {}\n", fmt::join(kSamplerNames, ", "));
  text += fmt::format("\nSchedulers: {}\n", fmt::join(kSchedulerNames, ", "));
  text +=
      "\nFinished files are printed on standard output, progress on standard error. Ctrl-C stops\n"
      "after the current step and leaves no partial file.\n";
  return text;
}

}  // namespace

int run_generate(std::span<const std::string> arguments) {
  const auto started = std::chrono::steady_clock::now();
  GenerateOptions options;
  std::filesystem::path unet;
  CommandLine line("generate", "Draws pictures from a prompt.");
  declare_files(line, options, unet);
  declare_inputs(line, options);
  declare_sampling(line, options);
  declare_start(line, options);
  declare_computing(line, options);
  declare_output(line, options);
  line.footer(footer());
  if (!line.parse(arguments)) return 0;
  take_unet(options, unet);
  check_options(options);
  log::set_up(options.verbose);
  tune_allocator();
  const Interrupt interrupt("Stopping after this step");
  const auto printer =
      make_printer(choose_display(options.json, stderr), stdout, stderr, options.verbose);
  CommandHost host(*printer, options.json, interrupt.token());
  return load_engine().generate(options, host, started);
}

}  // namespace atelier
