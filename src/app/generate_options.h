// What `atelier generate` was asked for, as plain data: filled by the command line, used by the
// engine.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

namespace atelier {

/// Every option of `atelier generate`; an empty path, text or optional means "not given".
struct GenerateOptions {
  std::filesystem::path model;  // --model, or --unet for a diffusion model alone
  std::filesystem::path vae;
  std::vector<std::filesystem::path> text_encoders;
  std::filesystem::path clip_l, clip_g, t5, t5_tokenizer;
  std::filesystem::path embeddings;
  std::vector<std::string> loras;  // words as `parse_lora_option` takes them
  std::filesystem::path preview_decoder;

  std::vector<std::string> prompts;
  std::string negative;
  std::optional<int64_t> clip_skip;  // 1 = the last layer

  std::optional<int64_t> width, height;  // pixels
  int64_t batch = 1;
  std::optional<uint64_t> seed;

  std::optional<int64_t> steps;
  std::optional<double> cfg, guidance;
  std::string sampler, scheduler;
  std::optional<double> shift, base_shift, max_shift;  // of noise levels

  std::filesystem::path init_image;
  std::filesystem::path mask;
  std::filesystem::path init_latent;
  std::filesystem::path control_image;
  std::vector<std::filesystem::path> references;
  std::optional<double> strength;
  std::optional<int64_t> start_step, end_step;
  bool no_noise = false, keep_noise = false;

  std::string dtype = "auto";
  std::string unet_dtype, text_dtype, vae_dtype;  // empty: as dtype
  int64_t threads = 0;  // 0: every core the process may use
  bool tiled_vae = false;
  bool int8 = false;
  std::string ram;  // the most memory to use, as "6GiB"; empty: what is available

  std::string out = "outputs/{model}_{seed}_{index}.png";
  std::filesystem::path sheet;
  std::filesystem::path preview;
  std::filesystem::path save_latent;
  std::filesystem::path collect_imatrix;
  bool overwrite = false;
  bool json = false;
  bool verbose = false;
};

}  // namespace atelier
