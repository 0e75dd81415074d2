// TAESD against diffusers' outputs, in each of its layouts.
#include <gtest/gtest.h>

#include "base/error.h"
#include "models/golden_files.h"
#include "models/taesd.h"

namespace atelier {
namespace {

/// The golden computes on scaled latents.
constexpr LatentScale kPlain{.scale = 1, .shift = 0};

using Source = std::shared_ptr<MemorySource>;

struct TaesdGolden : ::testing::Test {
  std::shared_ptr<const TensorSource> decoder = golden::source("taesd", "taesd_decoder");
  std::shared_ptr<const TensorSource> encoder = golden::source("taesd", "taesd_encoder");
  std::shared_ptr<const TensorSource> expected = golden::source("taesd", "expected");
  Residency residency;

  at::Tensor want(const std::string& what) const { return golden::tensor(*expected, what); }
  std::unique_ptr<Vae> load(const TaesdFiles& files, at::ScalarType dtype = at::kFloat) {
    BindReport report;
    auto vae = load_taesd(files, residency, report, {.device = {}, .dtype = dtype});
    report.throw_if_bad("taesd");
    return vae;
  }
  std::unique_ptr<Vae> load(LatentScale scale = kPlain) { return load({decoder, encoder, scale}); }

  /// A half's tensors under other names, added to `to`.
  template <class Rename>
  static void rename(const TensorSource& from, MemorySource& to, const Rename& name_of) {
    for (const auto& [name, info] : from.tensors()) {
      const std::string rest = name.substr(name.find('.') + 1);
      const size_t dot = rest.find('.');
      to.put(name_of(std::stoi(rest.substr(0, dot)), rest.substr(dot)), golden::tensor(from, name));
    }
  }
};

TEST_F(TaesdGolden, DecodeAndEncodeEqualTheReference) {
  const auto vae = load();
  EXPECT_EQ(vae->factor(), 8);
  EXPECT_EQ(vae->latent_channels(), 4);
  EXPECT_TRUE(golden::close(vae->decode(want("latent")), want("decoded"), 1e-4));
  EXPECT_TRUE(golden::close(vae->encode(want("picture")), want("encoded"), 1e-4));
}

TEST_F(TaesdGolden, Bf16StaysWithinItsRounding) {
  const auto vae = load({decoder, encoder, kPlain}, at::kBFloat16);
  EXPECT_TRUE(golden::close(vae->decode(want("latent")), want("decoded"), 5e-2));
  EXPECT_TRUE(golden::close(vae->encode(want("picture")), want("encoded"), 5e-2));
}

TEST_F(TaesdGolden, LatentsAreScaledOnTheWay) {
  const LatentScale scale{.scale = 0.25, .shift = 0.5};
  const auto plain = load(), scaled = load(scale);
  const at::Tensor latent = want("latent");
  EXPECT_TRUE(golden::close(scaled->decode(latent / 0.25 + 0.5), plain->decode(latent), 1e-5));
  EXPECT_TRUE(golden::close(scaled->encode(want("picture")),
                            plain->encode(want("picture")) / 0.25 + 0.5, 1e-5));
}

TEST_F(TaesdGolden, LatentsMayHaveSixteenChannels) {
  const Source more = golden::editable(*decoder);
  for (const auto& [name, info] : decoder->tensors())
    if (info.shape.size() == 4 && info.shape[1] == 4)
      more->put(name, at::constant_pad_nd(more->tensor(name), {0, 0, 0, 0, 0, 12}));
  const auto vae = load({more, nullptr, kPlain});
  EXPECT_EQ(vae->latent_channels(), 16);
  const at::Tensor latent = want("latent"), rest = latent.repeat({1, 3, 1, 1});
  EXPECT_TRUE(golden::close(vae->decode(at::cat({latent, rest}, 1)), want("decoded"), 1e-4));
}

TEST_F(TaesdGolden, FilesOfTheirOwnAndDiffusersNamesGiveEqualBytes) {
  const auto lone_decoder = std::make_shared<MemorySource>("taesd_decoder.pth");
  const auto lone_encoder = std::make_shared<MemorySource>("taesd_encoder.pth");
  const auto diffusers = std::make_shared<MemorySource>("diffusers");
  const auto combined = std::make_shared<MemorySource>("combined");
  const auto as_is = [](int i, const std::string& rest) { return std::to_string(i) + rest; };
  rename(*decoder, *lone_decoder, as_is);
  rename(*encoder, *lone_encoder, as_is);
  rename(*decoder, *diffusers, [](int i, const std::string& rest) {
    return "decoder.layers." + std::to_string(i - 1) + rest;
  });
  rename(*encoder, *diffusers, [](int i, const std::string& rest) {
    return "encoder.layers." + std::to_string(i) + rest;
  });
  for (const auto& half : {decoder, encoder})
    for (const auto& [name, info] : half->tensors())
      combined->put(name, golden::tensor(*half, name));

  const at::Tensor decoded = load()->decode(want("latent")),
                   encoded = load()->encode(want("picture"));
  for (const TaesdFiles& files :
       {TaesdFiles{lone_decoder, lone_encoder, kPlain}, TaesdFiles{diffusers, diffusers, kPlain},
        TaesdFiles{combined, combined, kPlain}}) {
    EXPECT_TRUE(has_taesd(*files.decoder));
    const auto vae = load(files);
    EXPECT_TRUE(at::equal(vae->decode(want("latent")), decoded)) << files.decoder->label();
    EXPECT_TRUE(at::equal(vae->encode(want("picture")), encoded)) << files.decoder->label();
  }
}

TEST_F(TaesdGolden, OneHalfIsEnoughForItsOwnWay) {
  const auto preview = load({decoder, nullptr, kPlain});
  EXPECT_TRUE(at::equal(preview->decode(want("latent")), load()->decode(want("latent"))));
  EXPECT_THROW(preview->encode(want("picture")), Error);
  const auto intake = load({nullptr, encoder, kPlain});
  EXPECT_EQ(intake->factor(), 8);
  EXPECT_EQ(intake->latent_channels(), 4);
  EXPECT_THROW(intake->decode(want("latent")), Error);
}

TEST_F(TaesdGolden, AnElementIsComputedAsIfAlone) {
  const auto vae = load();
  const at::Tensor latent = want("latent");
  EXPECT_TRUE(at::equal(vae->decode(latent)[1], vae->decode(latent.narrow(0, 1, 1))[0]));
}

TEST_F(TaesdGolden, RefusesOtherFiles) {
  const auto other = golden::source("vae_kl_plain", "model");
  EXPECT_FALSE(has_taesd(*other));
  EXPECT_THROW(load({other, nullptr, kPlain}), Error);
  EXPECT_THROW(load({nullptr, nullptr, kPlain}), Error);
  const auto broken = golden::editable(*decoder);
  broken->remove("taesd_decoder.8.conv.2.bias");
  EXPECT_THROW(load({broken, nullptr, kPlain}), Error);
  const auto flat = golden::editable(*decoder);
  flat->put("taesd_decoder.1.weight", at::ones({8}));
  EXPECT_THROW(load({flat, nullptr, kPlain}), Error);
}

}  // namespace
}  // namespace atelier
