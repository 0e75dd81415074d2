// Pictures, masks and latents on their way between bytes and tensors.
#include <ATen/ATen.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <array>
#include <limits>

#include "base/error.h"
#include "formats/checkpoint.h"
#include "formats/safetensors.h"
#include "pipeline/image_tensor.h"
#include "pipeline/latent_colours.h"
#include "pipeline/latent_file.h"
#include "pipeline/start_latent.h"

namespace atelier {
namespace {

Image ramp(int32_t width, int32_t height, int32_t channels) {
  Image image = make_image(width, height, channels);
  for (size_t i = 0; i < image.pixels.size(); ++i) image.pixels[i] = static_cast<uint8_t>(7 * i);
  return image;
}

TEST(PictureTensor, RoundTripsEveryByte) {
  Image image = make_image(256, 1, 3);
  for (size_t i = 0; i < image.pixels.size(); ++i) image.pixels[i] = static_cast<uint8_t>(i / 3);
  const at::Tensor tensor = picture_tensor(image);
  EXPECT_EQ(tensor.sizes(), at::IntArrayRef({1, 3, 1, 256}));
  EXPECT_FLOAT_EQ(tensor.min().item<float>(), -1);
  EXPECT_FLOAT_EQ(tensor.max().item<float>(), 1);
  // Truncation may take one off where the float lies a hair below the byte's value.
  const Image back = to_image(tensor[0]);
  for (size_t i = 0; i < image.pixels.size(); ++i)
    EXPECT_NEAR(back.pixels[i], image.pixels[i], 1) << i;
}

TEST(PictureTensor, ClampsAndTruncatesAsComfyUiDoes) {
  const at::Tensor picture = at::tensor({-3.0F, 0.0F, 5.0F}).view({3, 1, 1});
  EXPECT_EQ(to_image(picture).pixels, (std::vector<uint8_t>{0, 127, 255}));
}

TEST(PictureTensor, MasksAreHowWhiteAPixelIs) {
  Image mask = make_image(2, 1, 3);
  mask.pixels = {255, 255, 255, 0, 0, 0};
  EXPECT_TRUE(at::equal(mask_tensor(mask), at::tensor({1.0F, 0.0F}).view({1, 1, 1, 2})));
  EXPECT_EQ(resize_mask(mask_tensor(mask), 4, 8).sizes(), at::IntArrayRef({1, 1, 4, 8}));
}

TEST(FitPicture, CutsTheMiddleToTheProportionsWanted) {
  Image wide = make_image(30, 10, 3);
  for (size_t y = 0; y < 10; ++y)
    for (size_t x = 10; x < 20; ++x)
      for (size_t c = 0; c < 3; ++c) wide.pixels[(y * 30 + x) * 3 + c] = 200;
  const Image square = fit_picture(wide, 20, 20);
  EXPECT_EQ(square.width, 20);
  EXPECT_EQ(square.height, 20);
  for (const uint8_t value : square.pixels) EXPECT_EQ(value, 200);
  EXPECT_EQ(fit_picture(wide, 30, 10), wide);
  EXPECT_EQ(fit_picture(ramp(1, 1, 4), 16, 8).width, 16);
}

TEST(FitPicture, LaysAMaskOverTheWholePictureWhateverItsSize) {
  StartPictures pictures;
  pictures.init = make_image(80, 40, 3);
  pictures.mask = make_image(20, 20, 1);
  for (size_t y = 0; y < 20; ++y)
    for (size_t x = 0; x < 20; ++x) pictures.mask->pixels[y * 20 + x] = x < 5 ? 255 : 0;
  // The left quarter of the picture is white; a square of its middle shows none of that.
  fit_pictures(pictures, 32, 32);
  EXPECT_EQ(pictures.init->width, 32);
  EXPECT_EQ(pictures.mask->height, 32);
  for (size_t y = 0; y < 32; ++y)
    for (size_t x = 8; x < 32; ++x) EXPECT_LT(pictures.mask->pixels[y * 32 + x], 20) << x;
}

TEST(Composite, KeepsWhatTheMaskLeavesBlack) {
  const Image drawn = ramp(3, 1, 3);
  Image kept = make_image(3, 1, 3), mask = make_image(3, 1, 1);
  std::fill(kept.pixels.begin(), kept.pixels.end(), uint8_t{100});
  mask.pixels = {0, 255, 51};
  const Image mixed = composite(drawn, kept, mask);
  EXPECT_EQ(mixed.pixels[0], 100);
  EXPECT_EQ(mixed.pixels[4], drawn.pixels[4]);
  EXPECT_EQ(mixed.pixels[8], (drawn.pixels[8] * 51 + 100 * 204 + 127) / 255);
}

TEST(LatentFile, HoldsWhatComfyUiLoads) {
  const auto path =
      std::filesystem::temp_directory_path() / ("atelier_latent_" + std::to_string(::getpid()));
  const at::Tensor latent = at::arange(2 * 4 * 3 * 5, at::kFloat).view({2, 4, 3, 5});
  save_latent(path, latent.to(at::kBFloat16));
  {
    const auto file = open_checkpoint(path);
    EXPECT_EQ(file->tensors().at("latent_tensor").encoding, Encoding::f32);
    EXPECT_EQ(file->tensors().at("latent_tensor").shape, (Shape{2, 4, 3, 5}));
    EXPECT_EQ(file->tensors().at("latent_format_version_0").shape, Shape{0});
    float third = 0;
    std::memcpy(&third, file->bytes("latent_tensor").data() + 2 * sizeof(float), sizeof(float));
    EXPECT_EQ(third, 2);
  }
  std::filesystem::remove(path);
}

TEST(LatentFile, ReadsWhatWasWrittenHereAndByOldVersionsOfComfyUi) {
  const auto path =
      std::filesystem::temp_directory_path() / ("atelier_latent_" + std::to_string(::getpid()));
  const at::Tensor latent = at::randn({2, 4, 3, 5});
  save_latent(path, latent);
  EXPECT_TRUE(at::equal(load_latent(path), latent));
  const std::span bytes(static_cast<const std::byte*>(latent.const_data_ptr()), latent.nbytes());
  const auto written = [&](const char* name, Shape shape) {
    const std::array specs = {TensorSpec{name, std::move(shape), Encoding::f32}};
    write_safetensors(path, specs, [&](size_t) { return bytes; });
    return load_latent(path);
  };
  EXPECT_TRUE(at::allclose(written("latent_tensor", {2, 4, 3, 5}), latent / 0.18215));
  EXPECT_THROW(written("samples", {2, 4, 3, 5}), Error);
  EXPECT_THROW(written("latent_tensor", {2, 4, 15}), Error);
  latent[1][2][0][0] = std::numeric_limits<float>::quiet_NaN();
  EXPECT_THROW(written("latent_tensor", {2, 4, 3, 5}), Error);
  std::filesystem::remove(path);
}

/// An autoencoder whose colours are a linear map of its latents, so that the fit must be exact.
class LinearVae final : public Vae {
 public:
  explicit LinearVae(int64_t channels) : channels_(channels) {}
  at::Tensor decode(const at::Tensor& latent) const override {
    const at::Tensor map = (at::arange(3 * channels_) * 7 % 11 - 5).view({3, channels_}) * 0.005;
    return (at::einsum("oc,bchw->bohw", {map, latent}) + 0.1)
        .repeat_interleave(8, 2)
        .repeat_interleave(8, 3);
  }
  at::Tensor encode(const at::Tensor& picture) const override { return picture; }
  int64_t latent_channels() const override { return channels_; }
  int64_t factor() const override { return 8; }
  Bytes decode_bytes(int64_t, int64_t) const override { return {}; }
  Bytes encode_bytes(int64_t, int64_t) const override { return {}; }

 private:
  int64_t channels_;
};

TEST(LatentColours, FindTheDecodersOwnColours) {
  for (const int64_t channels : {4, 16}) {
    const LinearVae vae(channels);
    const LatentColours colours(vae, 5.5, 0.1);
    const at::Tensor latent = at::randn({2, channels, 3, 7}) * 5;
    const at::Tensor want = at::avg_pool2d((vae.decode(latent) * 0.5 + 0.5).clamp(0, 1), {8, 8});
    EXPECT_LT((colours.draw(latent) - want).abs().max().item<float>(), 1e-4);
  }
}

}  // namespace
}  // namespace atelier
