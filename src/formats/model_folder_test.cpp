// Tests of model folders, of sources joined under prefixes, and of summaries.
#include "formats/model_folder.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include "formats/checkpoint.h"
#include "formats/merged_source.h"
#include "formats/summary.h"
#include "formats/test_files.h"

namespace atelier {
namespace {

using test::error_of;
using test::safetensors_file;
using test::TestFolder;
using test::text_of;

std::string weights(std::string_view tensor, std::string_view data) {
  return safetensors_file(
      fmt::format(
          R"({{"__metadata__":{{"who":"{}"}},"{}":{{"dtype":"U8","shape":[{}],"data_offsets":[0,{}]}}}})",
          data, tensor, data.size(), data.size()),
      data);
}

TEST(ModelFolder, PresentsComponentsUnderTheirNames) {
  const TestFolder folder;
  folder.write("model_index.json", R"({"_class_name":"StableDiffusionPipeline"})");
  folder.write("unet/diffusion_pytorch_model.safetensors", weights("conv_in.weight", "u1"));
  folder.write("unet/config.json", R"({"in_channels":4})");
  folder.write("vae/diffusion_pytorch_model.fp16.safetensors", weights("w", "v16"));
  folder.write("text_encoder/model.safetensors", weights("w", "t1"));
  folder.write("safety_checker/model.safetensors", weights("w", "s"));
  folder.write("tokenizer/vocab.json", "{}");
  folder.write("scheduler/scheduler_config.json", R"({"prediction_type":"v_prediction"})");
  const auto source = open_source(folder.path);
  EXPECT_EQ(source->format(), "diffusers folder");
  EXPECT_EQ(source->label(), folder.path.string());
  std::vector<std::string> names;
  for (const auto& [name, info] : source->tensors()) names.push_back(name);
  EXPECT_EQ(names, (std::vector<std::string>{"text_encoder.w", "unet.conv_in.weight", "vae.w"}));
  EXPECT_EQ(text_of(source->bytes("unet.conv_in.weight")), "u1");
  EXPECT_EQ(text_of(source->bytes("vae.w")), "v16");
  EXPECT_EQ(source->metadata().at("unet.who"), "u1");
  EXPECT_EQ(source->metadata().at("unet/config.json"), R"({"in_channels":4})");
  EXPECT_EQ(source->metadata().at("scheduler/scheduler_config.json"),
            R"({"prediction_type":"v_prediction"})");
  EXPECT_TRUE(source->metadata().contains("model_index.json"));
  source->will_need("vae.w");
  source->will_need("none");
  source->wont_need("vae.w");
  source->wont_need("none");
  EXPECT_EQ(error_of([&] { source->bytes("w"); }).code(), ErrorCode::not_found);
}

TEST(ModelFolder, PrefersFullPrecisionAndSafetensors) {
  const TestFolder folder;
  const auto chosen = [&] { return component_weights(folder.path).filename().string(); };
  EXPECT_EQ(chosen(), "");
  for (const char* name : {"pytorch_model.bin", "model.fp16.safetensors",
                           "model.safetensors.index.json", "model.safetensors"}) {
    folder.write(name, "");
    EXPECT_EQ(chosen(), name);
  }
}

TEST(ModelFolder, OpensAComponentsFolderAndAFile) {
  const TestFolder folder;
  const auto path = folder.write("vae/model.safetensors", weights("w", "v"));
  EXPECT_EQ(text_of(open_source(folder.path / "vae")->bytes("w")), "v");
  EXPECT_EQ(text_of(open_source(path)->bytes("w")), "v");
}

TEST(ModelFolder, OpensASplitComponent) {
  const TestFolder folder;
  folder.write("unet/a.safetensors", weights("a", "1"));
  folder.write("unet/b.safetensors", weights("b", "22"));
  folder.write("unet/diffusion_pytorch_model.safetensors.index.json",
               R"({"weight_map":{"a":"a.safetensors","b":"b.safetensors"}})");
  folder.write("vae/diffusion_pytorch_model.safetensors", weights("c", "333"));
  const auto source = open_source(folder.path);
  EXPECT_EQ(source->tensors().at("unet.b").shard, 1u);
  EXPECT_EQ(source->tensors().at("vae.c").shard, 2u);
  EXPECT_EQ(text_of(source->bytes("unet.a")), "1");
  EXPECT_EQ(text_of(source->bytes("unet.b")), "22");
  EXPECT_EQ(text_of(source->bytes("vae.c")), "333");
}

TEST(ModelFolder, SaysWhatIsWrong) {
  const TestFolder folder;
  EXPECT_EQ(error_of([&] { open_source(folder.path / "none"); }).code(), ErrorCode::not_found);
  const Error empty = error_of([&] { open_source(folder.path); });
  EXPECT_EQ(empty.code(), ErrorCode::not_found);
  EXPECT_NE(empty.facts().expected.find("unet/"), std::string::npos);
  folder.write("unet/model.safetensors", "<html");
  const Error broken = error_of([&] { open_source(folder.path); });
  EXPECT_NE(broken.facts().subject.find("unet/model.safetensors"), std::string::npos);
  folder.write("unet/model.safetensors", weights("a", "1"));
  folder.write("model_index.json", std::string((1 << 20) + 1, ' '));
  EXPECT_EQ(error_of([&] { open_source(folder.path); }).code(), ErrorCode::malformed);
}

TEST(MergedSource, RefusesANameTwice) {
  const TestFolder folder;
  const auto source = open_checkpoint(folder.write("a.safetensors", weights("a", "1")));
  EXPECT_EQ(
      error_of([&] { MergedSource("both", "tensors", {{"x.", source}, {"x.", source}}); }).code(),
      ErrorCode::mismatch);
  const auto prefixed = with_prefix("p.", source);
  EXPECT_EQ(text_of(prefixed->bytes("p.a")), "1");
  EXPECT_EQ(prefixed->label(), source->label());
  EXPECT_EQ(prefixed->format(), "safetensors");
}

TEST(Summary, CountsByEncoding) {
  const auto source = open_checkpoint(std::filesystem::path(ATELIER_SOURCE_DIR) /
                                      "tests/golden/formats/types.gguf");
  const Summary summary = summarise(*source);
  EXPECT_EQ(summary.format, "GGUF");
  EXPECT_EQ(summary.architecture, "sd1");
  EXPECT_EQ(summary.tensors, source->tensors().size());
  uint64_t tensors = 0, bytes = 0, elements = 0;
  for (size_t i = 0; i < summary.encodings.size(); ++i) {
    const EncodingShare& share = summary.encodings[i];
    tensors += share.tensors, bytes += share.bytes, elements += share.elements;
    if (i > 0) {
      EXPECT_GE(summary.encodings[i - 1].bytes, share.bytes);
    }
    if (share.encoding == Encoding::q8_0) {
      EXPECT_EQ(share.tensors, 2u);
      EXPECT_EQ(share.elements, 192u);
      EXPECT_EQ(share.bytes, 204u);
    }
  }
  EXPECT_EQ(tensors, summary.tensors);
  EXPECT_EQ(bytes, summary.bytes);
  EXPECT_EQ(elements, summary.parameters);
}

}  // namespace
}  // namespace atelier
