// The picture autoencoder against diffusers' outputs, its layouts, and decoding in tiles.
#include <c10/core/Allocator.h>
#include <c10/util/ThreadLocalDebugInfo.h>
#include <gtest/gtest.h>

#include "base/error.h"
#include "models/golden_files.h"
#include "models/vae.cpp"  // reaches the blocks, which no header shows

namespace atelier {
namespace {

struct Case {
  explicit Case(const std::string& folder)
      : name(folder),
        weights(golden::source(folder, "model")),
        expected(golden::source(folder, "expected")) {}

  std::unique_ptr<Vae> load(const std::shared_ptr<const TensorSource>& from,
                            at::ScalarType dtype = at::kFloat, const std::string& prefix = "") {
    BindReport report;
    const std::string_view prefixes[] = {prefix};
    const auto place = recognise(kl_vae, from, prefixes);
    if (!place) throw Error(ErrorCode::not_found, {.subject = "layout"});
    auto vae = load_part(kl_vae, from, *place, residency, report, {.device = {}, .dtype = dtype});
    report.throw_if_bad(from->label());
    return vae;
  }
  std::unique_ptr<Vae> load() { return load(weights); }
  at::Tensor want(const std::string& what) const { return golden::tensor(*expected, what); }

  std::string name;
  std::shared_ptr<const TensorSource> weights, expected;
  Residency residency;
};

/// A golden's net with its blocks in reach.
struct Opened {
  explicit Opened(Case& c) : scope(open_scope(c.weights, place(c), c.residency, report, {})) {}
  static Place place(const Case& c) {
    constexpr std::string_view kPrefixes[] = {""};
    return *find_place(*c.weights, kPrefixes, kLayouts);
  }
  BindReport report;
  Scope scope;
  Config config = config_of(scope);
  Autoencoder net{scope, config};
};

at::Tensor channels_last(const at::Tensor& x) {
  return x.contiguous(at::MemoryFormat::ChannelsLast);
}

/// The stored part of a block's output.
at::Tensor stored(const at::Tensor& x) { return x.slice(1, 0, x.size(1), 4); }

struct VaeGolden : ::testing::TestWithParam<const char*> {};

TEST_P(VaeGolden, EveryDecoderBlockEqualsTheReference) {
  Case c(GetParam());
  const Opened opened(c);
  const Autoencoder& net = opened.net;
  at::Tensor h = channels_last(c.want("latent").narrow(0, 0, 1));
  if (net.post_quant_conv) h = (*net.post_quant_conv)(h);
  const auto check = [&](const std::string& block) {
    EXPECT_TRUE(golden::close(stored(h), c.want("decoder." + block), 1e-4)) << block;
  };
  h = net.decoder.conv_in(h), check("conv_in");
  h = net.decoder.mid.block_1(h), check("mid.block_1");
  h = net.decoder.mid.attn_1(h), check("mid.attn_1");
  h = net.decoder.mid.block_2(h), check("mid.block_2");
  const size_t levels = net.decoder.up.size();
  for (size_t i = 0; i < levels; ++i) {
    h = net.decoder.up[i](h);
    if (i + 1 < levels) check("up." + std::to_string(levels - 1 - i));  // the finest is not stored
  }
  h = net.decoder.norm_out(h), check("norm_out");
}

TEST_P(VaeGolden, EveryEncoderBlockEqualsTheReference) {
  Case c(GetParam());
  const Opened opened(c);
  const Encoder& encoder = opened.net.encoder;
  at::Tensor h = channels_last(c.want("picture").narrow(0, 0, 1));
  const auto check = [&](const std::string& block) {
    EXPECT_TRUE(golden::close(stored(h), c.want("encoder." + block), 1e-4)) << block;
  };
  h = encoder.conv_in(h), check("conv_in");
  for (size_t i = 0; i < encoder.down.size(); ++i)
    h = encoder.down[i](h), check("down." + std::to_string(i));
  h = encoder.mid.block_1(h), check("mid.block_1");
  h = encoder.mid.attn_1(h), check("mid.attn_1");
  h = encoder.mid.block_2(h), check("mid.block_2");
  h = encoder.norm_out(h), check("norm_out");
}

TEST_P(VaeGolden, DecodeAndEncodeEqualTheReference) {
  Case c(GetParam());
  const auto vae = c.load();
  EXPECT_TRUE(golden::close(vae->decode(c.want("latent")), c.want("decoded"), 1e-4));
  EXPECT_TRUE(golden::close(vae->encode(c.want("picture")), c.want("encoded"), 1e-4));
}

TEST_P(VaeGolden, DiffusersNamesGiveEqualBytes) {
  Case c(GetParam());
  const auto original = c.load(), other = c.load(golden::renamed(*c.weights, c.name));
  EXPECT_TRUE(at::equal(original->decode(c.want("latent")), other->decode(c.want("latent"))));
  EXPECT_TRUE(at::equal(original->encode(c.want("picture")), other->encode(c.want("picture"))));
}

TEST_P(VaeGolden, AnElementIsComputedAsIfAlone) {
  Case c(GetParam());
  const auto vae = c.load();
  const at::Tensor latent = c.want("latent"), picture = c.want("picture");
  EXPECT_TRUE(at::equal(vae->decode(latent)[1], vae->decode(latent.narrow(0, 1, 1))[0]));
  EXPECT_TRUE(at::equal(vae->encode(picture)[1], vae->encode(picture.narrow(0, 1, 1))[0]));
}

TEST_P(VaeGolden, Bf16StaysWithinItsRounding) {
  Case c(GetParam());
  const auto vae = c.load(c.weights, at::kBFloat16);
  const at::Tensor decoded = vae->decode(c.want("latent"));
  EXPECT_EQ(decoded.scalar_type(), at::kFloat);
  EXPECT_TRUE(golden::close(decoded, c.want("decoded"), 5e-2));
  EXPECT_TRUE(golden::close(vae->encode(c.want("picture")), c.want("encoded"), 5e-2));
}

INSTANTIATE_TEST_SUITE_P(Autoencoders, VaeGolden, ::testing::Values("vae_kl", "vae_kl_plain"),
                         [](const auto& test) { return std::string(test.param); });

TEST(Vae, DoesNotChangeWhatItIsGiven) {
  Case c("vae_kl");
  const auto vae = c.load();
  const at::Tensor latent = channels_last(c.want("latent")), before = latent.clone();
  vae->decode(latent);
  EXPECT_TRUE(at::equal(latent, before));
}

TEST(Vae, TellsItsMeasures) {
  Case sd("vae_kl"), plain("vae_kl_plain");
  EXPECT_EQ(sd.load()->factor(), 8);
  EXPECT_EQ(sd.load()->latent_channels(), 4);
  EXPECT_EQ(plain.load()->factor(), 2);
  EXPECT_EQ(plain.load()->latent_channels(), 16);
  EXPECT_GT(sd.load()->decode_bytes(1024, 1024), sd.load()->decode_bytes(512, 512));
}

/// Bytes of tensors alive on this thread.
struct Watch final : c10::MemoryReportingInfoBase {
  void reportMemoryUsage(void*, int64_t bytes, size_t, size_t, c10::Device) override {
    live += bytes;
    most = std::max(most, live);
  }
  bool memoryProfilingEnabled() const override { return true; }
  int64_t live = 0, most = 0;
};

TEST(Vae, NeedsAboutTheMemoryItSays) {
  for (const char* name : {"vae_kl", "vae_kl_plain"}) {
    Case c(name);
    const auto vae = c.load();
    const int64_t side = 128, f = vae->factor();
    const at::Tensor latent = at::randn({1, vae->latent_channels(), side / f, side / f});
    const at::Tensor picture = at::rand({1, 3, side, side});
    const auto most = [&](const std::function<void()>& work) {
      work();  // weights are prepared
      const auto watch = std::make_shared<Watch>();
      const c10::DebugInfoGuard guard(c10::DebugInfoKind::PROFILER_STATE, watch);
      work();
      return static_cast<double>(watch->most);
    };
    const double decoding = most([&] { vae->decode(latent); });
    const double encoding = most([&] { vae->encode(picture); });
    const auto said = [](Bytes bytes) { return static_cast<double>(bytes.count()); };
    EXPECT_NEAR(decoding / said(vae->decode_bytes(side, side)), 1, 0.25) << name;
    EXPECT_NEAR(encoding / said(vae->encode_bytes(side, side)), 1, 0.25) << name;
  }
}

TEST(Vae, OldDiffusersNamesOfTheAttentionAreKnown) {
  Case c("vae_kl");
  const auto current = golden::renamed(*c.weights, c.name);
  auto old = std::make_shared<MemorySource>("old");
  const std::pair<std::string, std::string> names[] = {{".to_q.", ".query."},
                                                       {".to_k.", ".key."},
                                                       {".to_v.", ".value."},
                                                       {".to_out.0.", ".proj_attn."}};
  for (const auto& [name, info] : current->tensors()) {
    std::string renamed = name;
    for (const auto& [from, to] : names)
      if (const size_t at = renamed.find(from); at != renamed.npos)
        renamed.replace(at, from.size(), to);
    old->put(renamed, current->tensor(name));
  }
  EXPECT_TRUE(at::equal(c.load(old)->decode(c.want("latent")), c.load()->decode(c.want("latent"))));
}

TEST(Vae, LiesUnderAPrefixOfACheckpoint) {
  Case c("vae_kl");
  auto checkpoint = std::make_shared<MemorySource>("checkpoint");
  for (const auto& [name, info] : c.weights->tensors())
    checkpoint->put("first_stage_model." + name, golden::tensor(*c.weights, name));
  checkpoint->put("model.diffusion_model.out.2.bias", at::zeros({4}));  // another part's
  const auto vae = c.load(checkpoint, at::kFloat, "first_stage_model.");
  EXPECT_TRUE(at::equal(vae->decode(c.want("latent")), c.load()->decode(c.want("latent"))));
}

TEST(Vae, ReportsEveryProblemOfAFileAtOnce) {
  Case c("vae_kl");
  auto broken = golden::editable(*c.weights);
  broken->remove("decoder.mid.attn_1.k.bias");
  broken->put("encoder.down.1.block.0.norm2.weight", at::ones({33}));
  broken->put("decoder.surplus", at::ones({2}));
  try {
    c.load(broken);
    FAIL();
  } catch (const Error& error) {
    const std::string text = error.what();
    EXPECT_NE(text.find("decoder.mid.attn_1.k.bias"), text.npos) << text;
    EXPECT_NE(text.find("[33]"), text.npos) << text;
    EXPECT_NE(text.find("decoder.surplus"), text.npos) << text;
  }
}

TEST(Vae, RefusesShapesNoConfigCanBeReadFrom) {
  Case c("vae_kl");
  const std::pair<std::string, Shape> cases[] = {
      {"decoder.conv_in.weight", {32}},
      {"decoder.up.0.block.0.conv1.weight", {}},
      {"decoder.up.0.block.0.conv1.weight", {31, 32, 3, 3}},
      {"encoder.conv_out.weight", {2, 32, 3, 3}},
      {"encoder.conv_out.weight", {0, 32, 3, 3}},
  };
  for (const auto& [name, shape] : cases) {
    auto broken = golden::editable(*c.weights);
    broken->put(name, at::zeros(shape));
    EXPECT_THROW(c.load(broken), Error) << name << to_string(shape);
  }
}

TEST(Vae, RefusesTensorsOfTheWrongShape) {
  Case c("vae_kl");
  const auto vae = c.load();
  EXPECT_THROW(vae->decode(at::zeros({1, 3, 4, 4})), Error);
  EXPECT_THROW(vae->decode(at::zeros({4, 4, 4})), Error);
  EXPECT_THROW(vae->decode(at::zeros({0, 4, 4, 4})), Error);
  EXPECT_THROW(vae->encode(at::zeros({1, 3, 20, 16})), Error);
  EXPECT_THROW(vae->encode(at::zeros({1, 4, 16, 16})), Error);
}

/// Repeats every latent cell, without seeing any other: tiles must not show at all.
struct Nearest final : Vae {
  at::Tensor decode(const at::Tensor& z) const override {
    sizes.push_back(z.size(2) * z.size(3));
    return at::upsample_nearest2d(z.narrow(1, 0, 3), {8 * z.size(2), 8 * z.size(3)});
  }
  at::Tensor encode(const at::Tensor& x) const override {
    return at::avg_pool2d(at::cat({x, x.narrow(1, 0, 1)}, 1), 8);
  }
  int64_t latent_channels() const override { return 4; }
  int64_t factor() const override { return 8; }
  Bytes decode_bytes(int64_t, int64_t) const override { return {}; }
  Bytes encode_bytes(int64_t, int64_t) const override { return {}; }
  mutable std::vector<int64_t> sizes;  // latent cells of each call
};

TEST(TiledVae, TilesOfAPointwiseDecoderLeaveNoTrace) {
  const Nearest vae;
  for (const auto& [h, w] : {std::pair{40, 56}, {8, 8}, {17, 90}, {1, 33}}) {
    const at::Tensor latent = at::rand({2, 4, h, w});
    const at::Tensor tiled = decode_tiled(vae, latent, {.tile = 128, .overlap = 32});
    EXPECT_TRUE(golden::close(tiled, vae.decode(latent), 1e-6)) << h << "x" << w;
    const at::Tensor picture = at::rand({1, 3, 8 * h, 8 * w});
    EXPECT_TRUE(golden::close(encode_tiled(vae, picture, {.tile = 128, .overlap = 32}),
                              vae.encode(picture), 1e-6));
  }
}

TEST(TiledVae, NoTileIsLargerThanAsked) {
  const Nearest vae;
  decode_tiled(vae, at::rand({1, 4, 64, 80}), {.tile = 128, .overlap = 32});
  for (const int64_t cells : vae.sizes) EXPECT_LE(cells, 16 * 16);
  EXPECT_GT(vae.sizes.size(), 3 * 20U);
}

TEST(TiledVae, ComesCloseToTheWholePicture) {
  Case c("vae_kl");
  const auto vae = c.load();
  const at::Tensor latent = at::randn({1, 4, 24, 16}, at::detail::createCPUGenerator(5));
  const at::Tensor whole = vae->decode(latent);
  const at::Tensor tiled = decode_tiled(*vae, latent, {.tile = 128, .overlap = 32});
  // The norms of a random net see other statistics in a tile; a seam would be far coarser.
  EXPECT_LT((tiled - whole).square().mean().sqrt().item<double>(),
            0.25 * whole.std().item<double>());
  EXPECT_FALSE(at::equal(tiled, whole));
}

TEST(TiledVae, ReportsProgressAndStopsWhenTold) {
  const Nearest vae;
  std::vector<double> shares;
  decode_tiled(vae, at::rand({1, 4, 32, 32}), {.tile = 128, .overlap = 32},
               [&](double share) { shares.push_back(share); });
  EXPECT_TRUE(std::ranges::is_sorted(shares));
  EXPECT_DOUBLE_EQ(shares.back(), 1.0);
  struct Stop {};
  const size_t before = vae.sizes.size();
  EXPECT_THROW(decode_tiled(vae, at::rand({1, 4, 32, 32}), {.tile = 128, .overlap = 32},
                            [](double) { throw Stop(); }),
               Stop);
  EXPECT_EQ(vae.sizes.size(), before + 1);
}

TEST(TiledVae, RefusesTilesThatMakeNoSense) {
  const Nearest vae;
  const at::Tensor latent = at::zeros({1, 4, 32, 32});
  for (const Tiling& tiling :
       {Tiling{.tile = 0, .overlap = 0}, Tiling{.tile = 60, .overlap = 8},
        Tiling{.tile = 130, .overlap = 32}, Tiling{.tile = 128, .overlap = 40},
        Tiling{.tile = 128, .overlap = -8}, Tiling{.tile = 128, .overlap = 4}})
    EXPECT_THROW(decode_tiled(vae, latent, tiling), Error) << tiling.tile << " " << tiling.overlap;
  EXPECT_THROW(decode_tiled(vae, at::zeros({1, 5, 32, 32})), Error);
  EXPECT_THROW(encode_tiled(vae, at::zeros({1, 3, 30, 32})), Error);
}

}  // namespace
}  // namespace atelier
