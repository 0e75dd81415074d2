// A whole run, prompt to picture, against diffusers and transformers; from both file layouts.
#include <ATen/ATen.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <fstream>

#include "formats/gguf.h"
#include "formats/model_folder.h"
#include "formats/safetensors.h"
#include "models/golden_files.h"
#include "pipeline/conditioning.h"
#include "pipeline/engine.h"
#include "pipeline/model_call.h"
#include "pipeline/start_latent.h"
#include "quant/codec/encode.h"
#include "quant/decode.h"
#include "sampling/sample.h"

namespace atelier {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kTable = "text_model.embeddings.token_embedding.weight";
constexpr int64_t kVocabulary = 49408;

/// A tensor of a file to be written, under a new name and shape but with the bytes as they are.
struct Entry {
  TensorSpec spec;
  std::span<const std::byte> bytes;
};

/// The tiny SD 1.x of tools/golden/pipeline.py as files in a folder that goes away with the test.
class TinySd : public ::testing::Test {
 protected:
  TinySd() {
    fs::create_directories(folder_);
    grow_vocabulary();
  }
  ~TinySd() override { fs::remove_all(folder_); }

  /// One checkpoint under the original's names.
  fs::path single_file() {
    std::vector<Entry> entries;
    add_text(entries, "cond_stage_model.transformer.");
    add(entries, *vae_, "first_stage_model.");
    add(entries, *unet_, "model.diffusion_model.");
    write(folder_ / "tiny.safetensors", entries);
    return folder_ / "tiny.safetensors";
  }

  /// A folder of components under diffusers' names.
  fs::path diffusers_folder() {
    const fs::path root = folder_ / "tiny";
    for (const char* part : {"text_encoder", "unet", "vae"}) fs::create_directories(root / part);
    std::ofstream(root / "model_index.json") << R"({"_class_name": "StableDiffusionPipeline"})";
    std::vector<Entry> text;
    add_text(text, "");
    write(root / "text_encoder" / "model.safetensors", text);
    write(root / "unet" / "diffusion_pytorch_model.safetensors", renamed(*unet_, "tiny_sd"));
    write(root / "vae" / "diffusion_pytorch_model.safetensors", renamed(*vae_, "vae_kl"));
    return root;
  }

  /// The checkpoint with every matrix and kernel whose rows are whole blocks in `encoding`, all
  /// else in fp16: as GGUF, and as safetensors of the floats these numbers stand for.
  std::pair<fs::path, fs::path> quantised_files(Encoding encoding) {
    const auto floats = open_source(single_file());
    std::vector<TensorSpec> stored, plain;
    std::vector<std::vector<std::byte>> bytes, numbers;
    for (const auto& [name, info] : floats->tensors()) {
      const auto count = static_cast<size_t>(info.elements());
      std::vector<float> values(count);
      const auto as_bytes = std::as_writable_bytes(std::span(values));
      decode(floats->bytes(name), info.encoding, Number::f32, as_bytes, SerialParallel(), name);
      const bool blocks = info.shape.size() > 1 && count >= 256 && gguf_shape(info.shape, encoding);
      stored.push_back({name, info.shape, blocks ? encoding : Encoding::f16});
      plain.push_back({name, info.shape, Encoding::f32});
      const EncodingInfo& as = encoding_info(stored.back().encoding);
      bytes.emplace_back(count / static_cast<size_t>(as.block_elements) *
                         static_cast<size_t>(as.block_bytes));
      encode(values, info.elements(), as.encoding, {}, bytes.back(), SerialParallel());
      numbers.emplace_back(count * 4);
      decode(bytes.back(), as.encoding, Number::f32, numbers.back(), SerialParallel(), name);
    }
    const fs::path gguf = folder_ / "tiny.gguf", same = folder_ / "same.safetensors";
    write_gguf(gguf, stored, [&](size_t i) { return std::span<const std::byte>(bytes[i]); });
    write_safetensors(same, plain,
                      [&](size_t i) { return std::span<const std::byte>(numbers[i]); });
    return {gguf, same};
  }

  at::Tensor want(const std::string& name) const { return golden::tensor(*expected_, name); }
  const std::string& fact(const std::string& name) const { return expected_->metadata().at(name); }

  struct Result {
    at::Tensor positive, negative;  // prompts
    at::Tensor latent;  // VAE space
    at::Tensor decoded;  // of the first element
  };
  Result run(const fs::path& model) {
    Engine engine({.model = model, .vae = {}, .text_encoders = {}}, Device{},
                  {.unet = at::kFloat, .text = at::kFloat, .vae = at::kFloat});
    EXPECT_EQ(engine.def().name, "sd1");
    const auto condition_on = [&](const std::string& prompt) {
      return condition(engine.def(), encode_prompt(engine.def(), engine.prompt_encoders(), prompt),
                       {});
    };
    const Guidance guidance{condition_on(fact("prompt")), condition_on(fact("negative")), {}};
    const SampleJob job{
        .model = engine.sampling(),
        .latent = at::zeros(want("noise").sizes()),
        .seed = std::stoull(fact("seed")),
        .sampler = "euler",
        .scheduler = "normal",
        .steps = std::stoi(fact("steps")),
        .cfg = std::stod(fact("cfg")),
    };
    const at::Tensor latent = sample(job, model_call(engine.unet().get(), guidance)).latent;
    return {guidance.positive.context, guidance.negative.context, engine.to_vae_space(latent),
            decode_latent(engine, latent.narrow(0, 0, 1), VaeTiling::off)};
  }

 private:
  /// Row i of the whole vocabulary is row i modulo the tiny one's size.
  void grow_vocabulary() {
    const std::span<const std::byte> tiny = text_->bytes(kTable);
    const auto rows = static_cast<size_t>(text_->tensors().at(std::string(kTable)).shape[0]);
    const size_t row = tiny.size() / rows;
    vocabulary_.resize(kVocabulary * row);
    for (size_t i = 0; i < kVocabulary; ++i)
      std::ranges::copy(tiny.subspan(i % rows * row, row),
                        vocabulary_.begin() + static_cast<ptrdiff_t>(i * row));
  }

  static void add(std::vector<Entry>& entries, const TensorSource& from,
                  const std::string& prefix) {
    for (const auto& [name, info] : from.tensors())
      entries.push_back({{prefix + name, info.shape, info.encoding}, from.bytes(name)});
  }
  void add_text(std::vector<Entry>& entries, const std::string& prefix) const {
    const size_t first = entries.size();
    add(entries, *text_, prefix);
    for (size_t i = first; i < entries.size(); ++i)
      if (entries[i].spec.name.ends_with(kTable)) {
        entries[i].spec.shape[0] = kVocabulary;
        entries[i].bytes = vocabulary_;
      }
  }
  static std::vector<Entry> renamed(const TensorSource& from, const std::string& golden_folder) {
    std::vector<Entry> entries;
    for (const golden::Name& name : golden::names(golden_folder))
      entries.push_back(
          {{name.to, name.shape, from.tensors().at(name.from).encoding}, from.bytes(name.from)});
    return entries;
  }
  static void write(const fs::path& file, const std::vector<Entry>& entries) {
    std::vector<TensorSpec> specs;
    for (const Entry& entry : entries) specs.push_back(entry.spec);
    write_safetensors(file, specs, [&](size_t i) { return entries[i].bytes; });
  }

  fs::path folder_ = fs::temp_directory_path() / ("atelier_tiny_sd_" + std::to_string(::getpid()));
  std::shared_ptr<const TensorSource> text_ = golden::source("clip_l", "model");
  std::shared_ptr<const TensorSource> vae_ = golden::source("vae_kl", "model");
  std::shared_ptr<const TensorSource> unet_ = golden::source("tiny_sd", "unet");
  std::shared_ptr<const TensorSource> expected_ = golden::source("tiny_sd", "expected");
  std::vector<std::byte> vocabulary_;
};

TEST_F(TinySd, AWholeRunEqualsTheReference) {
  const Result result = run(single_file());
  EXPECT_TRUE(golden::close(result.positive, want("context.positive"), 1e-4));
  EXPECT_TRUE(golden::close(result.negative, want("context.negative"), 1e-4));
  EXPECT_TRUE(golden::close(result.latent, want("latent"), 1e-3));
  EXPECT_TRUE(golden::close(result.decoded, want("decoded"), 1e-3));
}

TEST_F(TinySd, ADiffusersFolderGivesEqualBytes) {
  const Result original = run(single_file()), folder = run(diffusers_folder());
  EXPECT_TRUE(at::equal(original.latent, folder.latent));
  EXPECT_TRUE(at::equal(original.decoded, folder.decoded));
}

TEST_F(TinySd, QuantisedNumbersAreComputedWithAsTheFloatsTheyStandFor) {
  for (const Encoding encoding : {Encoding::q8_0, Encoding::q4_k, Encoding::iq4_nl}) {
    SCOPED_TRACE(encoding_info(encoding).name);
    const auto [gguf, same] = quantised_files(encoding);
    const Result quantised = run(gguf), floats = run(same);
    EXPECT_TRUE(at::equal(quantised.positive, floats.positive));
    EXPECT_TRUE(at::equal(quantised.latent, floats.latent));
    EXPECT_TRUE(at::equal(quantised.decoded, floats.decoded));
  }
}

}  // namespace
}  // namespace atelier
