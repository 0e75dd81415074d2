// Files in other encodings: what is kept, what is refused, and that pieces make the whole.
#include "pipeline/quantization.h"

#include <ATen/ATen.h>
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>

#include "base/error.h"
#include "formats/checkpoint.h"
#include "formats/gguf.h"
#include "formats/test_files.h"
#include "memory/memory_source.h"
#include "models/golden_files.h"
#include "quant/codec/encode.h"
#include "quant/decode.h"

namespace atelier {
namespace {

using test::error_of;
using test::TestFolder;
using test::text_of;

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr float kInfinity = std::numeric_limits<float>::infinity();

at::Tensor read(const TensorSource& file, const std::string& name) {
  const TensorInfo& info = file.tensors().at(name);
  at::Tensor out = at::empty(info.shape, at::kFloat);
  decode(file.bytes(name), info.encoding, out, name);
  return out;
}

class Quantization : public ::testing::Test {
 protected:
  std::shared_ptr<const Checkpoint> write(const std::shared_ptr<const TensorSource>& source,
                                          std::string_view type, const std::string& name,
                                          std::shared_ptr<const ImportanceMatrix> importance = {}) {
    QuantJob job{
        .source = source,
        .plan = plan_quantization(source, quant_type(type), folder_.path / name, importance.get()),
        .out = folder_.path / name,
        .importance = importance,
        .progress = [&](const TensorPlan& tensor, const TensorError& error,
                        uint64_t) { errors_[tensor.name] = error; },
        .stop = {}};
    run_quantization(job);
    return open_checkpoint(folder_.path / name);
  }
  TestFolder folder_;
  std::shared_ptr<MemorySource> source_ = std::make_shared<MemorySource>();
  std::map<std::string, TensorError> errors_;
};

TEST_F(Quantization, FloatsKeepWhatIsNoNumber) {
  at::Tensor odd = at::randn({4, 8});
  odd[0][0] = kNan;
  odd[1][1] = kInfinity;
  odd[2][2] = -kInfinity;
  source_->put("matrix", odd);
  for (const char* type : {"F32", "BF16", "F16"})
    for (const char* name : {"a.safetensors", "a.gguf"}) {
      SCOPED_TRACE(type);
      const at::Tensor back = read(*write(source_, type, name), "matrix");
      EXPECT_TRUE(std::isnan(back[0][0].item<float>()));
      EXPECT_EQ(back[1][1].item<float>(), kInfinity);
      EXPECT_EQ(back[2][2].item<float>(), -kInfinity);
      EXPECT_TRUE(at::allclose(back, odd, 1e-2, 1e-2, true));
      EXPECT_TRUE(std::isfinite(errors_["matrix"].rmse()));
      EXPECT_GT(errors_["matrix"].cosine(), 0.99);
    }
}

TEST_F(Quantization, BlocksRefuseWhatTheyCannotStandFor) {
  for (const float bad : {kNan, kInfinity, 70000.F}) {
    at::Tensor matrix = at::randn({64, 256});
    matrix[63][255] = bad;
    source_->put("blocks.weight", matrix);
    for (const auto& [type, file] : {std::pair("Q8_0", "a.gguf"), std::pair("Q4_K_S", "a.gguf"),
                                     std::pair("fp8", "a.safetensors")}) {
      const Error error = error_of([&] { write(source_, type, file); });
      EXPECT_EQ(error.code(), ErrorCode::malformed);
      EXPECT_EQ(error.facts().subject, "memory: tensor 'blocks.weight'");
    }
  }
  EXPECT_TRUE(std::filesystem::is_empty(folder_.path));
}

// What fp32 and bf16 would make infinite, in silence.
TEST_F(Quantization, FloatsRefuseWhatWouldBecomeInfinite) {
  const auto refused = [&](const at::Tensor& numbers, std::string_view type) {
    source_->put("blocks.weight", numbers);
    const Error error = error_of([&] { write(source_, type, "a.safetensors"); });
    EXPECT_EQ(error.code(), ErrorCode::malformed) << type;
    EXPECT_EQ(error.facts().subject, "memory: tensor 'blocks.weight'") << type;
  };
  at::Tensor large = at::randn({64, 64});
  large[63][1] = 3.4e38F;
  refused(large, "BF16");
  refused(large, "F16");
  at::Tensor doubles = at::randn({64, 64}).to(at::kDouble);
  doubles[5][6] = 1e300;
  for (const std::string_view type : {"F32", "BF16", "F16", "fp8"}) refused(doubles, type);
  doubles[5][6] = -std::numeric_limits<double>::infinity();
  source_->put("blocks.weight", doubles);
  EXPECT_EQ(read(*write(source_, "F32", "a.safetensors"), "blocks.weight")[5][6].item<float>(),
            -kInfinity);
  large[63][1] = 3.38e38F;
  source_->put("blocks.weight", large);
  EXPECT_TRUE(std::isfinite(
      read(*write(source_, "BF16", "b.safetensors"), "blocks.weight")[63][1].item<float>()));
}

// The other way: the numbers that the engine computes with, in any float type.
TEST_F(Quantization, FloatsOfCodesAreTheDecodedNumbersRoundedOnce) {
  at::manual_seed(4);
  source_->put("blocks.weight", at::randn({32, 512}));
  source_->put("blocks.conv.weight", at::randn({64, 32, 3, 3}));
  source_->put("blocks.bias", at::randn({300}));
  for (const QuantType& type : quant_types()) {
    if (type.everything) continue;
    SCOPED_TRACE(type.name);
    const bool fp8 = type.name.starts_with("fp8");
    const auto coded = write(source_, type.name, fp8 ? "a.safetensors" : "a.gguf");
    for (const auto& [name, dtype] :
         {std::pair("F32", at::kFloat), std::pair("BF16", at::kBFloat16),
          std::pair("F16", at::kHalf)}) {
      const auto file = write(coded, name, fmt::format("{}.safetensors", name));
      for (const auto& [tensor, info] : coded->tensors()) {
        const bool vector = info.shape.size() < 2;
        EXPECT_EQ(encoding_info(file->tensors().at(tensor).encoding).name, vector ? "F32" : name);
        at::Tensor wanted = at::empty(info.shape, vector ? at::kFloat : dtype);
        decode(coded->bytes(tensor), info.encoding, wanted, tensor);
        const std::span<const std::byte> bytes = file->bytes(tensor);
        EXPECT_EQ(std::memcmp(bytes.data(), wanted.const_data_ptr(), bytes.size()), 0)
            << tensor << ", " << name;
      }
    }
  }
}

TEST_F(Quantization, VectorsOfAFileWithoutCodesFollowTheType) {
  source_->put("blocks.weight", at::randn({32, 64}));
  source_->put("blocks.bias", at::randn({32}));
  EXPECT_EQ(write(source_, "BF16", "a.safetensors")->tensors().at("blocks.bias").encoding,
            Encoding::bf16);
}

TEST_F(Quantization, ScalarsComeBackAsScalars) {
  source_->put("logit_scale", at::scalar_tensor(4.5F));
  source_->put("one", at::ones({1}));
  source_->put("blocks.weight", at::randn({64, 64}));
  const auto file = write(source_, "Q8_0", "a.gguf");
  EXPECT_EQ(file->tensors().at("logit_scale").shape, Shape{});
  EXPECT_EQ(file->tensors().at("one").shape, Shape{1});
  const auto back = write(file, "F32", "b.safetensors");
  EXPECT_EQ(back->tensors().at("logit_scale").shape, Shape{});
  EXPECT_EQ(read(*back, "logit_scale").item<float>(), 4.5F);
  for (const auto& [key, value] : back->metadata()) EXPECT_FALSE(key.starts_with("atelier")) << key;
}

// FLUX.1's last layer is called as every single block's way out in diffusers' layout.
TEST_F(Quantization, LayoutsOfAModelGetTheSameNumbers) {
  const auto own = golden::editable(*golden::source("flux_schnell", "model"));
  const auto other = golden::renamed(*own, "flux_schnell");
  const QuantPart part = quantisable_part(other);
  const auto a = plan_quantization(own, quant_type("Q4_K_M"), "a.gguf");
  const auto b = plan_quantization(other, quant_type("Q4_K_M"), "a.gguf");
  std::map<std::string, Encoding> encodings;
  for (const TensorPlan& tensor : a.tensors) encodings[tensor.name] = tensor.wanted;
  size_t compared = 0;
  for (const TensorPlan& tensor : b.tensors) {
    if (TensorInfo{.shape = tensor.shape}.elements() <= 1024) continue;  // parts may be small
    ++compared;
    EXPECT_EQ(tensor.wanted, encodings.at(part.tensors.find(tensor.name)->second.name))
        << tensor.name;
  }
  EXPECT_GT(compared, 10U);
}

TEST_F(Quantization, Q8DoesNotGoByImportance) {
  source_->put("blocks.weight", at::randn({64, 256}));
  const auto importance = std::make_shared<ImportanceMatrix>();
  importance->add("blocks.weight", at::randn({4, 256}));
  for (const auto& [type, weighed] : {std::pair("Q8_0", false), std::pair("Q4_0", true)})
    EXPECT_EQ(plan_quantization(source_, quant_type(type), "a.gguf", importance.get())
                  .tensors[0]
                  .importance.empty(),
              !weighed);
}

TEST_F(Quantization, ZerosForNumbersHaveNoCosine) {
  EXPECT_EQ((TensorError{.square_error = 4, .square_norm = 4, .elements = 2}.cosine()), 0);
  EXPECT_EQ(TensorError{}.cosine(), 1);
}

TEST_F(Quantization, TheFinishedFileHasNoNameYet) {
  source_->put("blocks.weight", at::randn({64, 64}));
  for (const char* name : {"a.gguf", "a.safetensors"}) {
    QuantJob job{.source = source_,
                 .plan = plan_quantization(source_, quant_type("F16"), name),
                 .out = folder_.path / name,
                 .progress = {},
                 .finished = [] { throw Error(ErrorCode::write_failed, {.expected = "no room"}); },
                 .stop = {}};
    EXPECT_EQ(error_of([&] { run_quantization(job); }).code(), ErrorCode::write_failed);
  }
  EXPECT_TRUE(std::filesystem::is_empty(folder_.path));
}

TEST_F(Quantization, LargeTensorsTellOfTheirPieces) {
  source_->put("blocks.weight", at::zeros({3000, 4096}));
  std::vector<uint64_t> seen;
  QuantJob job{.source = source_,
               .plan = plan_quantization(source_, quant_type("Q8_0"), "a.gguf"),
               .out = folder_.path / "a.gguf",
               .progress = [&](const TensorPlan&, const TensorError&,
                               uint64_t read) { seen.push_back(read); },
               .piece = [&](uint64_t read) { seen.push_back(read); },
               .stop = {}};
  run_quantization(job);
  ASSERT_EQ(seen.size(), 2U);
  EXPECT_NEAR(static_cast<double>(seen[0]) / static_cast<double>(seen[1]), 8.0 * 1048576 / 12288000,
              1e-3);
}

TEST_F(Quantization, VectorsInAQuantisedFileKeepTheirBits) {
  const at::Tensor vector = at::tensor({1.F, kNan, -0.F, 1e-42F});
  source_->put("norm.weight", vector);
  source_->put("blocks.weight", at::randn({64, 64}));
  const auto file = write(source_, "Q4_0", "a.gguf");
  EXPECT_EQ(file->tensors().at("blocks.weight").encoding, Encoding::q4_0);
  EXPECT_EQ(file->tensors().at("norm.weight").encoding, Encoding::f32);
  EXPECT_EQ(text_of(file->bytes("norm.weight")), text_of(source_->bytes("norm.weight")));
}

TEST_F(Quantization, TensorsOfNothingStay) {
  source_->put("v_pred", at::empty({0}));
  source_->put("none.weight", at::empty({0, 64}));
  source_->put("blocks.weight", at::randn({64, 64}));
  for (const auto& [type, name] : {std::pair("Q8_0", "a.gguf"), std::pair("F16", "a.safetensors"),
                                   std::pair("F32", "b.gguf"), std::pair("fp8", "b.safetensors")}) {
    const auto file = write(source_, type, name);
    EXPECT_EQ(file->tensors().at("v_pred").shape, Shape{0}) << name;
    EXPECT_EQ(file->tensors().at("none.weight").shape, (Shape{0, 64})) << name;
    EXPECT_EQ(file->tensors().at("blocks.weight").shape, (Shape{64, 64})) << name;
  }
}

TEST_F(Quantization, AGgufFileKeepsItsTokenizer) {
  const std::string tokens = test::ByteBuilder()
                                 .u32(static_cast<uint32_t>(GgufType::text))
                                 .u64(3)
                                 .text("<pad>")
                                 .text("</s>")
                                 .text("\u2581a")
                                 .bytes();
  const std::string scores = test::ByteBuilder()
                                 .u32(static_cast<uint32_t>(GgufType::f32))
                                 .u64(2)
                                 .number(-1.5F)
                                 .number(0.F)
                                 .bytes();
  const std::vector<TensorSpec> specs = {{"blocks.weight", {64, 64}, Encoding::f32}};
  const at::Tensor matrix = at::randn({64, 64});
  write_gguf(
      folder_.path / "from.gguf", specs,
      [&](size_t) { return std::as_bytes(std::span(matrix.const_data_ptr<float>(), 64 * 64)); },
      {{"general.architecture", "t5encoder"},
       {"tokenizer.ggml.model", "t5"},
       {"tokenizer.ggml.tokens", GgufValue(GgufType::array, test::view(tokens))},
       {"tokenizer.ggml.scores", GgufValue(GgufType::array, test::view(scores))},
       {"general.name", "Small"},
       {"general.license", "apache-2.0"},
       {"general.file_type", uint32_t{7}}});
  const auto file = write(open_checkpoint(folder_.path / "from.gguf"), "Q4_0", "to.gguf");
  EXPECT_EQ(file->tensors().at("blocks.weight").encoding, Encoding::q4_0);
  EXPECT_EQ(file->gguf().at("tokenizer.ggml.model").text(), "t5");
  EXPECT_EQ(text_of(file->gguf().at("tokenizer.ggml.tokens").bytes()), tokens);
  EXPECT_EQ(text_of(file->gguf().at("tokenizer.ggml.scores").bytes()), scores);
  EXPECT_EQ(file->gguf().at("general.file_type").integer(), 2);
  EXPECT_EQ(file->gguf().at("general.architecture").text(), "t5encoder");
  EXPECT_EQ(file->gguf().at("general.name").text(), "Small");
  EXPECT_EQ(file->gguf().at("general.license").text(), "apache-2.0");
  const auto plain = write(file, "F16", "to.safetensors");
  EXPECT_EQ(plain->metadata().at("general.name"), "Small");
  EXPECT_FALSE(plain->metadata().contains("general.file_type"));
  EXPECT_FALSE(plain->metadata().contains("general.quantization_version"));
}

// 4.6 million elements: more than are worked on at a time, and no whole number of tasks.
TEST_F(Quantization, TotalsCountWhatIsCopiedToo) {
  at::manual_seed(2);
  const at::Tensor matrix = at::randn({64, 256}), vector = 3 * at::randn({500});
  source_->put("blocks.weight", matrix);
  source_->put("blocks.bias", vector);
  const auto file = write(source_, "Q4_0", "a.gguf");
  TensorError total;
  for (const auto& [name, error] : errors_) total.add(error);
  EXPECT_EQ(total.elements, 64U * 256 + 500);
  const at::Tensor before = at::cat({matrix.flatten(), vector}).to(at::kDouble);
  const at::Tensor after =
      at::cat({read(*file, "blocks.weight").flatten(), read(*file, "blocks.bias")}).to(at::kDouble);
  EXPECT_NEAR(total.rmse(), (before - after).square().mean().sqrt().item<double>(), 1e-6);
  EXPECT_NEAR(total.cosine(), at::cosine_similarity(before, after, 0).item<double>(), 1e-6);
  EXPECT_EQ(errors_["blocks.bias"].cosine(), 1);
}

TEST_F(Quantization, BlocksThatAreKeptBecomeFloatsWhereNoBlocksAre) {
  source_->put("blocks.weight", at::randn({64, 256}));
  source_->put("embedder.weight", at::randn({64, 256}));
  const auto path = folder_.path / "in.gguf";
  std::vector<TensorSpec> specs;
  std::vector<std::vector<std::byte>> bytes;
  for (const auto& [name, info] : source_->tensors()) {
    specs.push_back({name, info.shape, Encoding::q8_0});
    bytes.emplace_back(64 * 256 / 32 * 34);
    const at::Tensor values = source_->tensor(name).contiguous();
    encode(std::span(values.const_data_ptr<float>(), 64 * 256), 64 * 256, Encoding::q8_0, {},
           bytes.back(), SerialParallel());
  }
  write_gguf(path, specs, [&](size_t i) { return std::span<const std::byte>(bytes[i]); }, {});
  const auto in = open_checkpoint(path);
  const auto out = write(in, "fp8", "a.safetensors");
  EXPECT_EQ(out->tensors().at("blocks.weight").encoding, Encoding::f8_e4m3);
  EXPECT_EQ(out->tensors().at("embedder.weight").encoding, Encoding::f16);
  EXPECT_TRUE(at::equal(read(*out, "embedder.weight"),
                        read(*in, "embedder.weight").to(at::kHalf).to(at::kFloat)));
  EXPECT_EQ(write(in, "Q4_0", "a.gguf")->tensors().at("embedder.weight").encoding, Encoding::q8_0);
}

TEST_F(Quantization, ClipHasRulesOfItsOwn) {
  const QuantPlan plan =
      plan_quantization(golden::source("clip_l", "model"), quant_type("Q4_0"), "a.gguf");
  EXPECT_EQ(plan.architecture, "clip_l");
  for (const TensorPlan& tensor : plan.tensors) {
    const bool inside = tensor.name.find("_proj.weight") != tensor.name.npos ||
                        tensor.name.find("mlp.fc") != tensor.name.npos;
    if (inside && tensor.shape.size() == 2 && tensor.shape[0] * tensor.shape[1] > 1024) {
      EXPECT_EQ(tensor.to, Encoding::q4_0) << tensor.name;
    } else {
      EXPECT_EQ(encoding_info(tensor.to).block_elements, 1) << tensor.name;
    }
  }
}

// By these names ComfyUI-GGUF and llama.cpp know the files.
TEST_F(Quantization, GgufFilesNameTheirArchitectureAsOthersDo) {
  const auto named = [&](const std::shared_ptr<const TensorSource>& source) {
    const auto file = write(source, "F16", "a.gguf");
    const auto found = file->metadata().find("general.architecture");
    return found == file->metadata().end() ? std::string("none") : found->second;
  };
  EXPECT_EQ(named(golden::source("tiny_sd", "unet")), "sd1");
  EXPECT_EQ(named(golden::source("unet_sdxl", "model")), "sdxl");
  EXPECT_EQ(named(golden::source("flux_dev", "model")), "flux");
  EXPECT_EQ(named(golden::source("flux_schnell", "model")), "flux");
  EXPECT_EQ(named(golden::source("t5", "model")), "t5encoder");
  source_->put("blocks.weight", at::randn({4, 32}));
  EXPECT_EQ(named(source_), "none");
  const auto other = folder_.path / "in.gguf";
  const std::vector<float> numbers(32);
  const std::vector<TensorSpec> specs{{"blocks.weight", {1, 32}, Encoding::f32}};
  write_gguf(other, specs, [&](size_t) { return std::as_bytes(std::span(numbers)); },
             {{"general.architecture", "wan"}});
  EXPECT_EQ(named(open_checkpoint(other)), "wan");
}

TEST_F(Quantization, PiecesOfALargeTensorMakeTheWhole) {
  constexpr int64_t kRows = 1201, kColumns = 3840;
  const at::Tensor matrix = at::randn({kRows, kColumns});
  source_->put("blocks.weight", matrix);
  const auto importance = std::make_shared<ImportanceMatrix>();
  importance->add("blocks.weight", at::randn({4, kColumns}));
  const std::vector<float> weights = importance->weights("blocks.weight");
  const auto values =
      std::span(matrix.const_data_ptr<float>(), static_cast<size_t>(kRows * kColumns));
  std::vector<std::byte> whole(values.size() / 256 * 144);
  for (const bool weighed : {false, true}) {
    const auto file = write(source_, "Q4_K_S", "a.gguf", weighed ? importance : nullptr);
    encode(values, kColumns, Encoding::q4_k, weighed ? std::span(weights) : std::span<float>(),
           whole, SerialParallel());
    EXPECT_TRUE(std::ranges::equal(file->bytes("blocks.weight"), whole)) << weighed;
    const at::Tensor off = (read(*file, "blocks.weight") - matrix).to(at::kDouble);
    EXPECT_NEAR(errors_["blocks.weight"].rmse(), off.square().mean().sqrt().item<double>(), 1e-6);
    EXPECT_EQ(errors_["blocks.weight"].elements, values.size());
  }
}

}  // namespace
}  // namespace atelier
