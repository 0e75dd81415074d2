// Whole runs of FLUX.1 against diffusers: every way its files come, its editing variants, and what
// is said of files that are mixed up. Longer than most: the files are put together here.
#include <ATen/ATen.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <fstream>
#include <optional>

#include "base/error.h"
#include "formats/gguf.h"
#include "formats/safetensors.h"
#include "models/golden_files.h"
#include "pipeline/conditioning.h"
#include "pipeline/engine.h"
#include "pipeline/model_call.h"
#include "pipeline/start_latent.h"
#include "quant/codec/encode.h"
#include "sampling/noise.h"
#include "sampling/sample.h"

namespace atelier {
namespace {

namespace fs = std::filesystem;
using Source = std::shared_ptr<MemorySource>;

constexpr uint64_t kNoiseSeed = 82;
constexpr int64_t kClipWords = 49408, kT5Pieces = 704;

/// The tiny FLUX.1 of tools/golden/flux_pipeline.py as files in a folder that goes away at the end.
class TinyFlux : public ::testing::Test {
 protected:
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
    static const auto file = golden::source("tiny_flux", "expected");
    return *file;
  }
  static at::Tensor want(const std::string& name) { return golden::tensor(expected(), name); }
  static const std::string& fact(const char* name) { return expected().metadata().at(name); }

  static Source part(const std::string& folder, const std::string& prefix) {
    const Source whole = golden::editable(*golden::source(folder, "model"));
    add(*whole, prefix, "");
    return whole;
  }
  /// Adds those of the golden's own tensors that begin with `prefix`, with another in its place.
  static void add(MemorySource& to, const std::string& prefix, const std::string& other) {
    const auto own = golden::source("tiny_flux", "parts");
    for (const auto& [name, info] : own->tensors())
      if (name.starts_with(prefix))
        to.put(other + name.substr(prefix.size()), golden::tensor(*own, name));
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
    const Source whole = golden::editable(*golden::source(folder, "model"));
    const at::Tensor tiny = whole->tensor(table);
    whole->put(table, tiny.index_select(0, at::arange(rows).remainder(tiny.size(0))));
    return whole;
  }
  static Source under(const std::string& prefix, const TensorSource& from) {
    auto result = std::make_shared<MemorySource>("prefixed");
    for (const auto& [name, info] : from.tensors())
      result->put(prefix + name, golden::tensor(from, name));
    return result;
  }
  /// Under diffusers' names.
  static Source renamed(MemorySource& from, const std::string& golden_folder) {
    auto result = std::make_shared<MemorySource>("renamed");
    for (const golden::Name& name : golden::names(golden_folder)) {
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

TEST_F(TinyFlux, FromSeparateFilesDrawsWhatDiffusersDoes) {
  const Result result = run(files(), {.guidance = 2.5, .batch = 2});
  EXPECT_TRUE(
      golden::close(result.prompt.context.slice(1, 0, {}, 8), want("context.positive"), 1e-4));
  EXPECT_EQ(result.prompt.context.size(1), 256);
  EXPECT_TRUE(golden::close(result.prompt.vector, want("vector.positive"), 1e-4));
  EXPECT_TRUE(golden::close(result.latent, want("dev"), 1e-3));
  EXPECT_TRUE(golden::close(result.decoded, want("decoded"), 1e-3));
}

TEST_F(TinyFlux, TakesPromptsOfAnyLength) {
  const Result result = run(files(), {.prompt = fact("long")});
  EXPECT_EQ(result.prompt.context.size(1), want("length.long").item<int64_t>());
  EXPECT_TRUE(golden::close(result.prompt.context.slice(1, 0, {}, 16), want("context.long"), 1e-4));
  EXPECT_TRUE(golden::close(result.latent, want("long"), 1e-3));
}

TEST_F(TinyFlux, TakesANegativePromptWithItsOwnGuidance) {
  const Result result = run(files(), {.negative = fact("negative"), .cfg = 2});
  EXPECT_TRUE(golden::close(result.latent, want("negative"), 1e-3));
}

TEST_F(TinyFlux, FillRepaintsWhatIsUnderTheMask) {
  const fs::path model = write("fill.safetensors", *transformer("fill"));
  // Diffusers starts from noise alone, so the picture comes in as channels only.
  Engine engine(files(model), Device{},
                {.unet = at::kFloat, .text = at::kFloat, .vae = at::kFloat});
  EXPECT_EQ(extra_input(engine), ExtraInput::fill);
  EXPECT_EQ(engine.def().defaults.guidance, 30);
  Run how{.guidance = 30, .pictures = {.init = image("image"), .mask = image("mask")}};
  const StartLatent start = start_latent(engine, how.pictures, 1, 48, 64, VaeTiling::off);
  EXPECT_EQ(start.concat.sizes(), at::IntArrayRef({1, 80, 6, 8}));
  EXPECT_TRUE(golden::close(run(files(model), how).latent, want("fill"), 1e-3));
}

TEST_F(TinyFlux, CannyAndDepthDrawAfterAPicture) {
  const fs::path model = write("control.safetensors", *transformer("control"));
  const Run how{.guidance = 30, .pictures = {.control = image("image")}};
  EXPECT_TRUE(golden::close(run(files(model), how).latent, want("control"), 1e-3));
  EXPECT_THROW(run(files(model), {}), Error);
  EXPECT_THROW(run(files(), how), Error);
}

TEST_F(TinyFlux, KontextLooksAtAPictureOfAnotherSize) {
  const Run how{.guidance = 2.5, .pictures = {.references = {image("reference")}}};
  EXPECT_TRUE(golden::close(run(files(), how).latent, want("kontext"), 1e-3));
  EXPECT_GT(golden::relative_error(run(files(), {.guidance = 2.5}).latent, want("kontext")), 1e-2);
}

TEST_F(TinyFlux, AWholeCheckpointAndADiffusersFolderGiveEqualBytes) {
  const at::Tensor latent = run(files(), {}).latent;
  auto checkpoint = std::make_shared<MemorySource>("whole");
  for (const auto& [prefix, from] :
       {std::pair("model.diffusion_model.", transformer("dev")),
        std::pair("text_encoders.clip_l.transformer.", clip()),
        std::pair("text_encoders.t5xxl.transformer.", t5()), std::pair("vae.", vae())})
    for (const auto& [name, info] : from->tensors())
      checkpoint->put(prefix + name, from->tensor(name));
  EXPECT_TRUE(at::equal(run(whole(write("whole.safetensors", *checkpoint)), {}).latent, latent));

  const fs::path root = "diffusers";
  write(root / "text_encoder" / "model.safetensors", *clip());
  write(root / "text_encoder_2" / "model.safetensors", *t5());
  write(root / "transformer" / "diffusion_pytorch_model.safetensors",
        *renamed(*transformer("dev"), "flux_dev"));
  write(root / "vae" / "diffusion_pytorch_model.safetensors", *renamed(*vae(), "vae_kl"));
  std::ofstream(folder_ / root / "model_index.json") << R"({"_class_name": "FluxPipeline"})";
  fs::create_directories(folder_ / root / "tokenizer_2");
  fs::copy_file(tokenizer("tokenizer.json"), folder_ / root / "tokenizer_2" / "tokenizer.json");
  EXPECT_TRUE(at::equal(run(whole(folder_ / root), {}).latent, latent));
}

/// `from` with matrices in `matrices` and, in turns, in `others`, and the floats they stand for.
std::pair<fs::path, fs::path> stored(const fs::path& folder, MemorySource& from, bool gguf,
                                     std::vector<Encoding> encodings, const std::string& prefix) {
  std::vector<TensorSpec> specs, plain;
  std::vector<std::vector<std::byte>> bytes, numbers;
  for (const auto& [name, info] : from.tensors()) {
    const at::Tensor values = from.tensor(name).contiguous();
    const std::span<const float> floats(values.const_data_ptr<float>(),
                                        static_cast<size_t>(values.numel()));
    const Encoding wanted = encodings[specs.size() % encodings.size()];
    const bool fits = info.shape.size() > 1 && gguf_shape(info.shape, wanted);
    specs.push_back({prefix + name, info.shape, fits ? wanted : Encoding::f32});
    plain.push_back({name, info.shape, Encoding::f32});
    const EncodingInfo& as = encoding_info(specs.back().encoding);
    bytes.emplace_back(floats.size() / static_cast<size_t>(as.block_elements) *
                       static_cast<size_t>(as.block_bytes));
    encode(floats, values.numel(), as.encoding, {}, bytes.back(), SerialParallel());
    numbers.emplace_back(floats.size_bytes());
    decode(bytes.back(), as.encoding, Number::f32, numbers.back(), SerialParallel(), name);
  }
  const fs::path file = folder / (gguf ? "stored.gguf" : "stored.safetensors");
  const fs::path same = folder / "same.safetensors";
  const auto encoded = [&](size_t i) { return std::span<const std::byte>(bytes[i]); };
  gguf ? write_gguf(file, specs, encoded) : write_safetensors(file, specs, encoded);
  write_safetensors(same, plain, [&](size_t i) { return std::span<const std::byte>(numbers[i]); });
  return {file, same};
}

TEST_F(TinyFlux, QuantisedTransformersAreComputedWithAsTheFloatsTheyStandFor) {
  struct Case {
    bool gguf;
    std::vector<Encoding> encodings;
    const char* prefix;
  };
  for (const Case& c : {Case{true, {Encoding::q8_0}, ""},
                        Case{true, {Encoding::q4_0, Encoding::bf16}, "model.diffusion_model."},
                        Case{false, {Encoding::f8_e4m3, Encoding::bf16, Encoding::f32}, ""}}) {
    SCOPED_TRACE(encoding_info(c.encodings[0]).name);
    const auto [file, same] = stored(folder_, *transformer("dev"), c.gguf, c.encodings, c.prefix);
    EXPECT_TRUE(at::equal(run(files(file), {}).latent, run(files(same), {}).latent));
  }
}

TEST_F(TinyFlux, FindsT5sTokenizerInItsGguf) {
  const auto vocabulary = read_unigram(tokenizer("spiece.model"));
  const fs::path lone = folder_ / "lone";
  fs::create_directories(lone);
  std::string texts(8, '\0'), scores(8, '\0'), charsmap(8, '\0');  // element type, count, elements
  const auto head = [](std::string& value, GgufType type, uint64_t count) {
    const auto number = static_cast<uint32_t>(type);
    value.assign(reinterpret_cast<const char*>(&number), sizeof number);
    value.append(reinterpret_cast<const char*>(&count), sizeof count);
  };
  head(texts, GgufType::text, vocabulary.pieces.size());
  head(scores, GgufType::f32, vocabulary.pieces.size());
  head(charsmap, GgufType::u8, vocabulary.charsmap.size());
  std::vector<int32_t> kinds;
  for (const UnigramPiece& piece : vocabulary.pieces) {
    const uint64_t size = piece.text.size();
    const auto score = static_cast<float>(piece.score);
    texts.append(reinterpret_cast<const char*>(&size), sizeof size).append(piece.text);
    scores.append(reinterpret_cast<const char*>(&score), sizeof score);
    kinds.push_back(static_cast<int32_t>(piece.kind));
  }
  charsmap += vocabulary.charsmap;
  const auto array = [](const std::string& value) {
    return GgufValue(GgufType::array, std::as_bytes(std::span(value)));
  };
  const Source encoder = t5();
  std::vector<TensorSpec> specs;
  for (const auto& [name, info] : encoder->tensors())
    specs.push_back({name, info.shape, info.encoding});
  write_gguf(lone / "t5.gguf", specs, [&](size_t i) { return encoder->bytes(specs[i].name); },
             {{"tokenizer.ggml.model", std::string("t5")},
              {"tokenizer.ggml.tokens", array(texts)},
              {"tokenizer.ggml.scores", array(scores)},
              {"tokenizer.ggml.token_type", kinds},
              {"tokenizer.ggml.precompiled_charsmap", array(charsmap)}});
  fs::copy_file(folder_ / "dev.safetensors", lone / "dev.safetensors");
  ModelFiles own = files(lone / "dev.safetensors");
  own.t5 = lone / "t5.gguf";
  EXPECT_TRUE(at::equal(run(own, {}).latent, run(files(), {}).latent));
}

TEST_F(TinyFlux, SaysWhereATokenizerIsToBePut) {
  const fs::path lone = folder_ / "none";
  fs::create_directories(lone);
  for (const char* name : {"dev.safetensors", "t5xxl.safetensors"})
    fs::copy_file(folder_ / name, lone / name);
  ModelFiles own = files(lone / "dev.safetensors");
  own.t5 = lone / "t5xxl.safetensors";
  expect_words(complaint(own),
               {"t5xxl.safetensors", "tokenizer", "spiece.model", "--t5-tokenizer"});
  own.t5_tokenizer = tokenizer("spiece.model");
  EXPECT_NO_THROW(Engine(own, Device{}));
  own.t5_tokenizer = tokenizer("spiece.model").parent_path();
  EXPECT_NO_THROW(Engine(own, Device{}));
  own.t5_tokenizer = lone;
  expect_words(complaint(own), {"none", "spiece.model"});
  own.t5_tokenizer = folder_ / "ae.safetensors";
  EXPECT_FALSE(complaint(own).empty());
  // A tokenizer of another kind beside the model is passed over.
  std::ofstream(lone / "tokenizer.json") << R"({"model": {"type": "BPE", "vocab": {}}})";
  own.t5_tokenizer.clear();
  expect_words(complaint(own), {"--t5-tokenizer"});
  write("small.safetensors", *grown("t5", "shared.weight", 61));
  own.t5 = folder_ / "small.safetensors";
  expect_words(complaint(own), {"small.safetensors", "61 pieces"});
}

TEST_F(TinyFlux, MixedUpFilesAreNamedForWhatTheyAre) {
  const ModelFiles good = files();
  const auto with = [&](fs::path ModelFiles::* which, const fs::path& file) {
    ModelFiles wrong = good;
    wrong.*which = file;
    return complaint(wrong);
  };
  expect_words(with(&ModelFiles::clip_l, good.t5),
               {"t5xxl.safetensors", "clip_l", "t5xxl", "--t5"});
  expect_words(with(&ModelFiles::t5, good.clip_l), {"clip_l.safetensors", "t5xxl", "--clip-l"});
  expect_words(with(&ModelFiles::t5, good.vae), {"ae.safetensors", "VAE", "--vae"});
  expect_words(with(&ModelFiles::vae, good.t5), {"t5xxl.safetensors", "no VAE", "--t5"});
  expect_words(with(&ModelFiles::vae, good.model), {"dev.safetensors", "FLUX.1 dev", "--unet"});
  expect_words(with(&ModelFiles::model, good.vae),
               {"ae.safetensors", "no diffusion model", "--vae"});
  expect_words(with(&ModelFiles::model, good.t5), {"t5xxl.safetensors", "--t5"});
  expect_words(with(&ModelFiles::clip_g, good.clip_l), {"--clip-g", "FLUX.1 dev takes no"});
  expect_words(with(&ModelFiles::t5, {}), {"dev.safetensors", "no text encoder t5xxl", "--t5"});
  expect_words(complaint(whole(good.model)),
               {"no VAE", "clip_l", "t5xxl", "--vae, --clip-l, --t5"});
}

TEST_F(TinyFlux, PartsOfModelsOfOtherSizesAreRefused) {
  ModelFiles wrong = files();
  const fs::path four =
      write("four.safetensors", *golden::editable(*golden::source("vae_kl", "model")));
  wrong.vae = four;
  expect_words(complaint(wrong), {"four.safetensors", "16 latent channels", "found 4"});
  // With encoders of 32 channels, not of the 24 and 20 this transformer takes.
  wrong =
      files(write("other.safetensors", *golden::editable(*golden::source("flux_dev", "model"))));
  expect_words(complaint(wrong), {"clip_l.safetensors", "20 channels", "found 32"});
}

TEST_F(TinyFlux, AnEmptyLatentStaysEmpty) {
  const Engine engine(files(), Device{});
  const at::Tensor empty = at::zeros({1, 16, 2, 2});
  EXPECT_TRUE(at::equal(engine.to_model_space(empty), empty));
  const at::Tensor one = at::ones({1, 16, 2, 2});
  EXPECT_TRUE(at::allclose(engine.to_model_space(one), (one - 0.1159) * 0.3611));
  EXPECT_TRUE(at::allclose(engine.to_vae_space(engine.to_model_space(one)), one));
}

}  // namespace
}  // namespace atelier
