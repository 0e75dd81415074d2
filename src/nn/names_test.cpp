// Names and reports: layouts give equal weights, problems are told together.
#include "base/error.h"
#include "nn/test_support.h"

namespace atelier::nn {
namespace {

TEST_F(Names, AScopeWalksDownToAWeight) {
  put("model.blocks.3.img_mlp.weight", {2, 3});
  const Scope w = scope(kOwn, "model.") / "blocks" / int64_t{3};
  EXPECT_EQ(w.name(), "blocks.3.");
  EXPECT_TRUE((w.prefixed("img_") / "mlp").has("weight"));
  const Weight weight = (w.prefixed("img_") / "mlp").weight("weight", {2, 3});
  EXPECT_TRUE(at::equal(*weight.pin(), source->tensor("model.blocks.3.img_mlp.weight")));
  report.check_unused(w.keys(), {});
  EXPECT_NO_THROW(report.throw_if_bad("file"));
}

TEST_F(Names, EveryProblemIsToldInOneMessage) {
  put("a.weight", {2, 3});
  put("left.over", {1});
  put("ema.left", {1});
  const Scope w = scope();
  EXPECT_FALSE((w / "a").weight("weight", {3, 3}));
  EXPECT_FALSE((w / "b").weight("bias", {7}));
  constexpr std::string_view kIgnore[] = {"ema.*"};
  report.check_unused(w.keys(), kIgnore);
  try {
    report.throw_if_bad("file");
    FAIL();
  } catch (const Error& error) {
    const std::string text = error.what();
    EXPECT_NE(text.find("shape of a.weight: file has [2, 3], model wants [3, 3]"), text.npos)
        << text;
    EXPECT_NE(text.find("missing b.bias [7]"), text.npos) << text;
    EXPECT_NE(text.find("unused left.over"), text.npos) << text;
    EXPECT_EQ(text.find("ema.left"), text.npos) << text;
    EXPECT_EQ(text.find('\n'), text.npos) << text;
  }
}

TEST_F(Names, A1x1ConvolutionIsAMatrix) {
  put("proj.weight", {4, 2, 1, 1});
  const Weight weight = (scope() / "proj").weight("weight", {4, 2});
  ASSERT_TRUE(weight);
  EXPECT_EQ(weight.pin()->sizes(), at::IntArrayRef({4, 2}));
}

TEST_F(Names, CountsAndShapesSpeakTheModelsNames) {
  for (int i = 0; i < 3; ++i) put("net.layers." + std::to_string(i) + ".weight", {i + 1});
  const Scope w = scope(kOwn, "net.");
  EXPECT_EQ(w.count("layers", "weight"), 3);
  EXPECT_EQ(w.shape("layers.2.weight"), Shape({3}));
  EXPECT_THROW(w.shape("layers.3.weight"), Error);
}

constexpr KeyRule kRules[] = {
    {.canonical = "in.{Ra+b+1}.0.conv", .sources = {"down.{a}.res.{b}.conv1"}},
    {.canonical = "in.{Ra+b+1}.1.*", .sources = {"down.{a}.attn.{b}.*"}},
    {.canonical = "in.{Ra+R}.0.op", .sources = {"down.{a}.half"}},
    {.canonical = "up.{a}.2.conv", .sources = {"ups.{a}.conv"}, .when = "ups.{a}.attn.weight"},
    {.canonical = "up.{a}.1.conv", .sources = {"ups.{a}.conv"}, .unless = "ups.{a}.attn.weight"},
    {.canonical = "up.{a}.1", .sources = {"ups.{a}.attn"}},
    {.canonical = "qkv", .sources = {"q", "k", "v"}},
    {.canonical = "one", .sources = {"fused"}, .take = {.part = 0, .of = 2}},
    {.canonical = "two", .sources = {"fused"}, .take = {.part = 1, .of = 2}},
    {.canonical = "second_first", .sources = {"scale_shift"}, .take = {.halves_exchanged = true}},
    {.canonical = "projection", .sources = {"t.weight"}, .take = {.transposed = true}},
};
constexpr KeyLayout kForeign{.name = "foreign",
                             .signature = "q.weight",
                             .rules = kRules,
                             .stride = "down.0.res.{n}.conv1.weight"};

TEST_F(Names, RulesCountWithTheLayoutsStride) {
  for (const char* name :
       {"down.0.res.0.conv1.weight", "down.0.res.1.conv1.weight", "down.1.res.1.conv1.weight",
        "down.1.attn.0.deep.er.bias", "down.0.half.weight", "ups.0.conv.bias", "ups.1.conv.bias",
        "ups.1.attn.weight", "plain.weight"})
    put(name, {1});
  const KeyMap keys(source, "", kForeign);
  for (const char* name : {"in.1.0.conv.weight", "in.2.0.conv.weight", "in.5.0.conv.weight",
                           "in.4.1.deep.er.bias", "in.3.0.op.weight", "up.0.1.conv.bias",
                           "up.1.2.conv.bias", "up.1.1.weight", "plain.weight"})
    EXPECT_TRUE(keys.find(name)) << name;
  EXPECT_EQ(keys.items().size(), 9u);
}

TEST_F(Names, SourcesAreJoinedSplitAndTransposed) {
  for (const char* name : {"q.weight", "k.weight", "v.weight"}) put(name, {2, 3});
  put("fused.weight", {4, 3});
  put("t.weight", {2, 5});
  put("scale_shift.weight", {4, 3});
  put("scale_shift.bias", {4});
  const Scope w = scope(kForeign);
  const auto get = [&](const char* module, const char* leaf, Shape shape) {
    return *(*module ? w / module : w).weight(leaf, shape).pin();
  };
  EXPECT_TRUE(at::equal(get("qkv", "weight", {6, 3}),
                        at::cat({source->tensor("q.weight"), source->tensor("k.weight"),
                                 source->tensor("v.weight")})));
  EXPECT_TRUE(
      at::equal(get("one", "weight", {2, 3}), source->tensor("fused.weight").narrow(0, 0, 2)));
  EXPECT_TRUE(
      at::equal(get("two", "weight", {2, 3}), source->tensor("fused.weight").narrow(0, 2, 2)));
  EXPECT_TRUE(at::equal(get("", "projection", {5, 2}), source->tensor("t.weight").t()));
  EXPECT_TRUE(at::equal(get("second_first", "weight", {4, 3}),
                        source->tensor("scale_shift.weight").roll(2, 0)));
  EXPECT_TRUE(
      at::equal(get("second_first", "bias", {4}), source->tensor("scale_shift.bias").roll(2, 0)));
  report.check_unused(w.keys(), {});
  EXPECT_TRUE(report.problems().empty());
}

TEST_F(Names, AnOddNumberOfRowsHasNoHalves) {
  put("scale_shift.weight", {3, 3});
  (scope(kForeign) / "second_first").weight("weight", {3, 3});
  EXPECT_EQ(report.problems().size(), 1u);
}

TEST_F(Names, ALackingSourceIsTheOneReported) {
  put("q.weight", {2, 3});
  put("v.weight", {2, 3});
  EXPECT_FALSE(scope(kForeign).has("qkv.weight"));
  (scope(kForeign) / "qkv").weight("weight", {6, 3});
  ASSERT_EQ(report.problems().size(), 1u);
  EXPECT_NE(report.problems()[0].find("missing k.weight"), std::string::npos);
}

}  // namespace
}  // namespace atelier::nn
