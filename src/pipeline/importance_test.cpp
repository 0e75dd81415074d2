// Importance matrices: what is collected, their file, and that encoding heeds them.
#include "pipeline/importance.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <fstream>

#include "base/error.h"
#include "formats/checkpoint.h"
#include "formats/gguf.h"
#include "formats/test_files.h"
#include "models/golden_files.h"
#include "models/model.h"
#include "pipeline/quantization.h"
#include "quant/decode.h"

namespace atelier {
namespace {

using test::error_of;
using test::TestFolder;

/// One call of the tiny UNet of Stable Diffusion 1.x with its linear layers watched.
ImportanceMatrix collect(double scale = 1) {
  const auto source = golden::source("tiny_sd", "unet");
  const Detected found = detect_model(source);
  ImportanceMatrix matrix;
  ImportanceCollector collector(matrix, "");
  Residency residency;
  BindReport report;
  const auto net =
      load_part(found.def->denoiser, source, found.denoiser, residency, report, {}, &collector);
  report.throw_if_bad("tiny_sd");
  const ModelTraits& traits = net->traits();
  at::manual_seed(3);
  DiffusionInput in;
  in.x = at::randn({2, traits.in_channels, 16, 16});
  in.timestep = at::full({2}, 500.F);
  in.context = nn::Context(scale * at::randn({2, 7, traits.context_width}));
  net->forward(in);
  return matrix;
}

TEST(Importance, SumsTheSquaresOfEachChannel) {
  ImportanceMatrix matrix;
  const at::Tensor x = at::randn({2, 1500, 3}).to(at::kBFloat16);
  matrix.add("a.weight", x);
  matrix.add("a.weight", at::full({1, 3}, std::numeric_limits<float>::quiet_NaN()));
  const at::Tensor mean = x.to(at::kDouble).square().mean({0, 1});
  const at::Tensor wanted = mean / mean.mean();
  const std::vector<float> weights = matrix.weights("a.weight");
  ASSERT_EQ(matrix.columns("a.weight"), 3);
  for (int64_t i = 0; i < 3; ++i)
    EXPECT_NEAR(static_cast<double>(weights[static_cast<size_t>(i)]), wanted[i].item<double>(),
                1e-6);
  EXPECT_EQ(matrix.columns("b.weight"), 0);
  EXPECT_EQ(error_of([&] { matrix.add("a.weight", at::ones({1, 4})); }).code(),
            ErrorCode::mismatch);
}

TEST(Importance, ChannelsThatWereNeverSeenStillCount) {
  ImportanceMatrix matrix;
  matrix.add("a", at::tensor({0.F, 3.F}));
  matrix.add("b", at::zeros({2}));
  EXPECT_EQ(matrix.weights("a"), (std::vector<float>{1e-3F, 2.F}));
  EXPECT_EQ(matrix.weights("b"), (std::vector<float>{1.F, 1.F}));
}

TEST(Importance, FilesAreLlamaCppsAndAddUp) {
  const TestFolder folder;
  const auto path = folder.path / "a.gguf";
  ImportanceMatrix matrix;
  matrix.add("a.weight", at::tensor({1.F, 2.F}));
  matrix.save(path);
  ImportanceMatrix again = ImportanceMatrix::load(path);
  again.add("a.weight", at::tensor({3.F, 0.F, 1.F, 1.F}).view({2, 2}));
  again.save(path);
  const auto file = open_checkpoint(path);
  EXPECT_EQ(file->metadata().at("general.type"), "imatrix");
  EXPECT_EQ(file->gguf().at("imatrix.chunk_count").integer(), 2);
  EXPECT_EQ(file->gguf().at("imatrix.datasets").element_type(), GgufType::text);
  EXPECT_EQ(file->tensors().at("a.weight.in_sum2").shape, (Shape{1, 2}));
  EXPECT_EQ(file->tensors().at("a.weight.counts").shape, (Shape{1, 1}));
  EXPECT_TRUE(
      at::equal(golden::tensor(*file, "a.weight.in_sum2"), at::tensor({11.F, 5.F}).view({1, 2})));
  EXPECT_EQ(golden::tensor(*file, "a.weight.counts").item<float>(), 3.F);
}

TEST(Importance, RefusesOtherFiles) {
  const TestFolder folder;
  const auto path = folder.path / "a.gguf";
  const auto refused = [&](const std::vector<std::pair<std::string, std::vector<float>>>& tensors,
                           const std::string& type) {
    std::vector<TensorSpec> specs;
    for (const auto& [name, values] : tensors)
      specs.push_back({name, {1, static_cast<int64_t>(values.size())}, Encoding::f32});
    write_gguf(path, specs, [&](size_t i) { return std::as_bytes(std::span(tensors[i].second)); },
               {{"general.type", type}});
    return error_of([&] { ImportanceMatrix::load(path); }).code();
  };
  const auto bad = ErrorCode::malformed;
  EXPECT_EQ(refused({{"a.in_sum2", {1, 2}}, {"a.counts", {1}}}, "model"), bad);
  EXPECT_EQ(refused({{"a.weight", {1, 2}}}, "imatrix"), bad);
  EXPECT_EQ(refused({{"a.in_sum2", {1, 2}}}, "imatrix"), bad);
  EXPECT_EQ(refused({{"a.in_sum2", {1, -2}}, {"a.counts", {1}}}, "imatrix"), bad);
  EXPECT_EQ(refused({{"a.in_sum2", {1, NAN}}, {"a.counts", {1}}}, "imatrix"), bad);
  EXPECT_EQ(refused({{"a.in_sum2", {1, 2}}, {"a.counts", {1, 1}}}, "imatrix"), bad);
}

TEST(Importance, EveryMatrixOfAModelIsWatched) {
  const ImportanceMatrix matrix = collect(), scaled = collect(3);
  // What the prompt is multiplied with grows with it; the embedding of the time does not.
  const std::string key = "input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight";
  ASSERT_GT(matrix.columns(key), 0);
  EXPECT_EQ(matrix.columns(key),
            matrix.columns("input_blocks.1.1.transformer_blocks.0.attn2.to_v.weight"));
  EXPECT_EQ(matrix.weights("time_embed.0.weight"), scaled.weights("time_embed.0.weight"));
  EXPECT_GT(matrix.columns("input_blocks.1.0.emb_layers.1.weight"), 0);
  EXPECT_GT(matrix.columns("middle_block.1.proj_in.weight"), 0);
  EXPECT_GT(matrix.columns("middle_block.1.proj_out.weight"), 0);
  EXPECT_EQ(matrix.columns("input_blocks.0.0.weight"), 4);
  EXPECT_GT(matrix.columns("input_blocks.1.0.in_layers.2.weight"), 0);
  EXPECT_GT(matrix.columns("input_blocks.1.0.out_layers.3.weight"), 0);
  EXPECT_GT(matrix.columns("out.2.weight"), 0);
}

TEST(Importance, NamesOfBothLayoutsFindTheirEntries) {
  const ImportanceMatrix matrix = collect();
  const auto original = golden::source("tiny_sd", "unet");
  for (const std::shared_ptr<const TensorSource>& source :
       {original, std::shared_ptr<const TensorSource>(golden::renamed(*original, "tiny_sd"))}) {
    const QuantPlan plan = plan_quantization(source, quant_type("Q4_0"), "a.gguf", &matrix);
    EXPECT_EQ(plan.architecture, "sd1");
    size_t weighed = 0;
    for (const TensorPlan& tensor : plan.tensors) {
      if (tensor.to != Encoding::q4_0) continue;
      EXPECT_FALSE(tensor.importance.empty()) << source->label() << ": " << tensor.name;
      ++weighed;
    }
    EXPECT_GE(weighed, 8u);
  }
}

TEST(Importance, LowersTheErrorThatCounts) {
  const TestFolder folder;
  at::manual_seed(5);
  const auto source = std::make_shared<MemorySource>();
  const at::Tensor matrix = at::randn({64, 512});
  source->put("blocks.weight", matrix);
  // A few channels that matter a hundred times as much as others.
  const at::Tensor scale =
      at::where(at::rand({512}) < 0.1, at::scalar_tensor(10.F), at::scalar_tensor(1.F));
  const auto importance = std::make_shared<ImportanceMatrix>();
  importance->add("blocks.weight", scale);
  const auto weighted_error = [&](const char* type, std::shared_ptr<const ImportanceMatrix> by) {
    const auto path = folder.path / "a.gguf";
    run_quantization({.source = source,
                      .plan = plan_quantization(source, quant_type(type), path, by.get()),
                      .out = path,
                      .importance = by,
                      .progress = {},
                      .stop = {}});
    const at::Tensor off = golden::tensor(*open_checkpoint(path), "blocks.weight") - matrix;
    return (off * scale).square().sum().item<double>();
  };
  for (const char* type :
       {"Q2_K", "Q3_K_S", "Q4_K_S", "Q5_K_S", "Q6_K", "IQ4_XS", "IQ4_NL", "Q4_0", "Q4_1"})
    EXPECT_LT(weighted_error(type, importance), 0.95 * weighted_error(type, nullptr)) << type;
}

TEST(Importance, ConvolutionsAreWeighedByChannel) {
  const TestFolder folder;
  at::manual_seed(6);
  const auto source = std::make_shared<MemorySource>();
  const at::Tensor weight = at::randn({24, 64, 3, 3});
  source->put("blocks.weight", weight);
  const at::Tensor loud = at::arange(64).remainder(4) == 0;
  const at::Tensor x = at::where(loud, at::scalar_tensor(30.F), at::scalar_tensor(1.F));
  const auto importance = std::make_shared<ImportanceMatrix>();
  importance->add("blocks.weight", x);
  const auto loud_error = [&](std::shared_ptr<const ImportanceMatrix> by) {
    const auto path = folder.path / "a.gguf";
    run_quantization({.source = source,
                      .plan = plan_quantization(source, quant_type("Q4_0"), path, by.get()),
                      .out = path,
                      .importance = by,
                      .progress = {},
                      .stop = {}});
    const at::Tensor off = golden::tensor(*open_checkpoint(path), "blocks.weight") - weight;
    return off.square().mean({0, 2, 3}).index({loud}).mean().item<double>();
  };
  EXPECT_LT(loud_error(importance), 0.8 * loud_error(nullptr));
}

}  // namespace
}  // namespace atelier
