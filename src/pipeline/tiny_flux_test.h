// A tiny FLUX.1 as files, for tests of whole runs: parts of other goldens with what is its own.
#pragma once

#include <ATen/ATen.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <optional>
#include <utility>

#include "base/error.h"
#include "formats/safetensors.h"
#include "models/golden_files.h"
#include "pipeline/conditioning.h"
#include "pipeline/engine.h"
#include "pipeline/model_call.h"
#include "pipeline/start_latent.h"
#include "sampling/sample.h"

namespace atelier::golden {

namespace fs = std::filesystem;

inline constexpr uint64_t kNoiseSeed = 82;
inline constexpr int64_t kClipWords = 49408, kT5Pieces = 704;

/// The tiny FLUX.1 of tools/golden/flux_pipeline.py as files in a folder that goes away at the end.
class TinyFlux : public ::testing::Test {
 protected:
  using Source = std::shared_ptr<MemorySource>;

  static void SetUpTestSuite() {
    folder_ = fs::temp_directory_path() / ("atelier_tiny_flux_" + std::to_string(::getpid()));
    fs::create_directories(folder_);
    write("clip_l.safetensors", *clip());
    write("t5xxl.safetensors", *t5());
    write("ae.safetensors", *vae());
    write("dev.safetensors", *transformer("dev"));
    fs::copy_file(tokenizer("spiece.model"), folder_ / "spiece.model");
  }
  static void TearDownTestSuite() { fs::remove_all(folder_); }

  static fs::path tokenizer(const char* name) {
    return fs::path(ATELIER_SOURCE_DIR) / "tests" / "golden" / "t5" / name;
  }
  static const TensorSource& expected() {
    static const auto file = source("tiny_flux", "expected");
    return *file;
  }
  static at::Tensor want(const std::string& name) { return tensor(expected(), name); }
  static const std::string& fact(const char* name) { return expected().metadata().at(name); }

  static Source part(const std::string& folder, const std::string& prefix) {
    const Source whole = editable(*source(folder, "model"));
    add(*whole, prefix, "");
    return whole;
  }
  /// Adds those of the golden's own tensors that begin with `prefix`, with another in its place.
  static void add(MemorySource& to, const std::string& prefix, const std::string& other) {
    const auto own = source("tiny_flux", "parts");
    for (const auto& [name, info] : own->tensors())
      if (name.starts_with(prefix)) to.put(other + name.substr(prefix.size()), tensor(*own, name));
  }
  static Source transformer(const std::string& variant) {
    const Source whole = part("flux_dev", "flux.");
    add(*whole, variant + ".", "");
    return whole;
  }
  static Source vae() {
    const Source whole = part("vae_kl", "vae.");
    for (const char* name :
         {"quant_conv.weight", "quant_conv.bias", "post_quant_conv.weight", "post_quant_conv.bias"})
      whole->remove(name);
    return whole;
  }
  static Source clip() {
    return grown("clip_l", "text_model.embeddings.token_embedding.weight", kClipWords);
  }
  static Source t5() { return grown("t5", "shared.weight", kT5Pieces); }
  /// Row i of the whole vocabulary is row i modulo the tiny one's size.
  static Source grown(const std::string& folder, const std::string& table, int64_t rows) {
    const Source whole = editable(*source(folder, "model"));
    const at::Tensor tiny = whole->tensor(table);
    whole->put(table, tiny.index_select(0, at::arange(rows).remainder(tiny.size(0))));
    return whole;
  }
  /// Under diffusers' names.
  static Source renamed(MemorySource& from, const std::string& golden_folder) {
    auto result = std::make_shared<MemorySource>("renamed");
    for (const Name& name : names(golden_folder)) {
      if (!from.tensors().contains(name.from)) continue;
      at::Tensor whole = from.tensor(name.from);
      std::vector<at::Tensor> runs;
      for (const auto& [first, count] : name.rows) runs.push_back(whole.narrow(0, first, count));
      if (!runs.empty()) whole = at::cat(runs);
      if (whole.dim() != static_cast<int64_t>(name.shape.size())) whole = whole.reshape(name.shape);
      result->put(name.to, whole);
    }
    return result;
  }

  static fs::path write(const fs::path& name, const TensorSource& from) {
    const fs::path file = folder_ / name;
    fs::create_directories(file.parent_path());
    std::vector<TensorSpec> specs;
    for (const auto& [tensor, info] : from.tensors())
      specs.push_back({tensor, info.shape, info.encoding});
    write_safetensors(file, specs, [&](size_t i) { return from.bytes(specs[i].name); });
    return file;
  }

  static ModelFiles files(const fs::path& model = folder_ / "dev.safetensors") {
    return {.model = model,
            .vae = folder_ / "ae.safetensors",
            .text_encoders = {},
            .clip_l = folder_ / "clip_l.safetensors",
            .t5 = folder_ / "t5xxl.safetensors"};
  }
  static ModelFiles whole(const fs::path& model) {
    return {.model = model, .vae = {}, .text_encoders = {}};
  }

  struct Run {
    std::string prompt = fact("prompt");
    std::optional<std::string> negative = {};
    double guidance = 3.5, cfg = 1;
    int64_t batch = 1;
    StartPictures pictures = {};
  };
  struct Result {
    Conditioning prompt;
    at::Tensor latent;  // model space
    at::Tensor decoded;
  };
  static Result run(const ModelFiles& model, const Run& how) {
    Engine engine(model, Device{}, {.unet = at::kFloat, .text = at::kFloat, .vae = at::kFloat});
    const int64_t width = std::stoll(fact("width")), height = std::stoll(fact("height"));
    engine.set_noise_shift(NoiseLevels::flux,
                           shift_by_size(0.5, 1.15, static_cast<double>(width * height) / 256));
    const auto said = [&](const std::string& prompt) {
      Conditioning result = condition(
          engine.def(), encode_prompt(engine.def(), engine.prompt_encoders(), prompt), {});
      result.guidance = how.guidance;
      return result;
    };
    const StartLatent start =
        start_latent(engine, how.pictures, how.batch, height, width, VaeTiling::off);
    const SampleJob job{.model = engine.sampling(),
                        .latent = start.latent,
                        .seed = kNoiseSeed,
                        .sampler = std::string(engine.def().defaults.sampler),
                        .scheduler = std::string(engine.def().defaults.scheduler),
                        .steps = std::stoi(fact("steps")),
                        .cfg = how.cfg};
    Guidance guidance{said(how.prompt), {}, start.concat, start.references};
    if (how.negative) guidance.negative = said(*how.negative);
    const at::Tensor latent = sample(job, model_call(engine.unet().get(), guidance)).latent;
    return {guidance.positive, latent,
            decode_latent(engine, latent.narrow(0, 0, 1), VaeTiling::off)};
  }

  static Image image(const std::string& name) {
    at::Tensor bytes = want(name).to(at::kByte);
    if (bytes.dim() == 2) bytes = bytes.unsqueeze(2);
    Image result =
        make_image(static_cast<int32_t>(bytes.size(1)), static_cast<int32_t>(bytes.size(0)),
                   static_cast<int32_t>(bytes.size(2)));
    bytes = bytes.contiguous();
    std::copy_n(bytes.const_data_ptr<uint8_t>(), bytes.numel(), result.pixels.begin());
    return result;
  }
  /// What opening these files complains of.
  static std::string complaint(const ModelFiles& wrong) {
    try {
      Engine engine(wrong, Device{});
    } catch (const Error& error) {
      EXPECT_NE(error.code(), ErrorCode::internal);
      return error.what();
    }
    ADD_FAILURE() << "nothing thrown";
    return {};
  }
  static void expect_words(const std::string& text, std::initializer_list<const char*> words) {
    EXPECT_EQ(text.find('\n'), text.npos) << text;
    for (const char* word : words) EXPECT_NE(text.find(word), text.npos) << word << "\n" << text;
  }

  static inline fs::path folder_;
};

}  // namespace atelier::golden
