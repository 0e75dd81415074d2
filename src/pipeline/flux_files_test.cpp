// Every way FLUX.1's files come, its tokenizer's places, and what is said of files that are mixed
// up.
#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <fstream>

#include "formats/gguf.h"
#include "pipeline/tiny_flux_test.h"
#include "quant/codec/encode.h"

namespace atelier {
namespace {

namespace fs = std::filesystem;
using golden::TinyFlux;

/// The same files under another name, for one fixture may not serve two sources.
class FluxFiles : public TinyFlux {};

TEST_F(FluxFiles, AWholeCheckpointAndADiffusersFolderGiveEqualBytes) {
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

TEST_F(FluxFiles, QuantisedTransformersAreComputedWithAsTheFloatsTheyStandFor) {
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

TEST_F(FluxFiles, FindsT5sTokenizerInItsGguf) {
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

TEST_F(FluxFiles, SaysWhereATokenizerIsToBePut) {
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

TEST_F(FluxFiles, MixedUpFilesAreNamedForWhatTheyAre) {
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
  expect_words(with(&ModelFiles::clip_g, good.clip_l), {"--clip-g", "FLUX.1 dev, which takes no"});
  expect_words(with(&ModelFiles::t5, {}), {"dev.safetensors", "no text encoder t5xxl", "--t5"});
  expect_words(complaint(whole(good.model)),
               {"no VAE", "clip_l", "t5xxl", "--vae, --clip-l, --t5"});
}

TEST_F(FluxFiles, PartsOfModelsOfOtherSizesAreRefused) {
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

}  // namespace
}  // namespace atelier
