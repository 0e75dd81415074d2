// What a model's metadata may say, and must not be believed in.
#include "pipeline/model_files.h"

#include <gtest/gtest.h>

#include "base/error.h"

namespace atelier {
namespace {

ModelParts parts_with(const Metadata& metadata) {
  ModelParts parts;
  parts.def = all_models().back();
  read_metadata(parts, metadata);
  return parts;
}

ModelParts with_scheduler(const std::string& config) {
  return parts_with({{"scheduler/scheduler_config.json", config}});
}

TEST(ModelFiles, TakeThePredictionFromADiffusersScheduler) {
  EXPECT_FALSE(parts_with({}).output.has_value());
  EXPECT_EQ(with_scheduler(R"({"prediction_type": "epsilon"})").output, OutputKind::eps);
  const ModelParts parts =
      with_scheduler(R"({"prediction_type": "v_prediction", "rescale_betas_zero_snr": true})");
  EXPECT_EQ(parts.output, OutputKind::v);
  EXPECT_EQ(parts.zero_terminal_snr, true);
  EXPECT_THROW(with_scheduler(R"({"prediction_type": "sample"})"), Error);
  EXPECT_THROW(with_scheduler("{"), Error);
  EXPECT_FALSE(with_scheduler(R"({"prediction_type": 7})").output.has_value());
  EXPECT_FALSE(with_scheduler("[]").output.has_value());
}

TEST(ModelFiles, TakeThePictureSizeOnlyIfItIsOne) {
  const ModelParts parts = parts_with({{"modelspec.resolution", "128x96"}});
  EXPECT_EQ(parts.width, 128);
  EXPECT_EQ(parts.height, 96);
  for (const char* text : {"", "x", "128", "128x", "x128", "-8x8", "12x12", "99999999x8", "0x0"})
    EXPECT_FALSE(parts_with({{"modelspec.resolution", text}}).width.has_value()) << text;
}

TEST(ModelFiles, NameTheOptionThatBringsAMissingPart) {
  ModelParts parts = parts_with({});
  class Empty final : public TensorSource {
   public:
    const TensorTable& tensors() const override { return table_; }
    std::span<const std::byte> bytes(std::string_view) const override { return {}; }
    void will_need(std::string_view) const override {}
    std::string label() const override { return "model.safetensors"; }
    const Metadata& metadata() const override { return metadata_; }

   private:
    TensorTable table_;
    Metadata metadata_;
  };
  parts.denoiser.source = std::make_shared<Empty>();
  const auto message = [&] {
    try {
      require_complete(parts);
    } catch (const Error& error) {
      return std::string(error.what());
    }
    return std::string();
  };
  EXPECT_NE(message().find("--vae"), std::string::npos);
  parts.vae = FoundPart{};
  parts.text.resize(parts.def->text.size());
  EXPECT_NE(message().find("--clip-l"), std::string::npos);
  for (auto& text : parts.text) text = FoundPart{};
  EXPECT_EQ(message(), "");
}

}  // namespace
}  // namespace atelier
