// Layers: every one equals its plain ATen form.
#include "nn/layers.h"
#include "nn/attention.h"
#include "nn/test_support.h"

namespace atelier::nn {
namespace {

double error(const Tensor& got, const Tensor& want) {
  const Tensor a = got.to(at::kFloat), b = want.to(at::kFloat);
  return ((a - b).norm() / b.norm()).item<double>();
}

struct Precision {
  at::ScalarType dtype;
  double limit;  // relative, against fp32
};

struct Layers : Names, ::testing::WithParamInterface<Precision> {
  c10::InferenceMode guard;
  Layers() { at::manual_seed(3); }
  Scope w() { return scope(kOwn, "", GetParam().dtype); }
  Tensor t(const std::string& name) { return source->tensor(name); }
  Tensor cast(const Tensor& x) { return x.to(GetParam().dtype); }
  Tensor random(at::IntArrayRef shape) {
    const Tensor x = at::randn(shape);
    return x.dim() == 4 ? x.contiguous(at::MemoryFormat::ChannelsLast) : x;
  }
  void expect_close(const Tensor& got, const Tensor& want) {
    ASSERT_EQ(got.sizes(), want.sizes());
    EXPECT_EQ(got.scalar_type(), GetParam().dtype);
    EXPECT_LE(error(got, want), GetParam().limit);
  }
};

TEST_P(Layers, LinearWithAndWithoutBiasAndInPlace) {
  put("l.weight", {48, 32});
  put("l.bias", {48});
  const Linear with(w() / "l", 32, 48), without(w() / "l", 32, 48, Bias::none);
  const Tensor x = random({2, 5, 32}), y = random({2, 5, 48});
  const Tensor want = at::linear(x, t("l.weight"), t("l.bias"));
  expect_close(with(cast(x)), want);
  expect_close(without(cast(x)), at::linear(x, t("l.weight")));
  Tensor sum = cast(y).clone();
  ResidualLinear(w() / "l", 32, 48).add_to(sum, cast(x));
  expect_close(sum, y + want);
}

TEST_P(Layers, LinearWithEveryEpilogue) {
  put("l.weight", {64, 32});
  put("l.bias", {64});
  const Tensor x = random({7, 32}) / 4;
  const Tensor h = at::linear(x, t("l.weight"), t("l.bias"));
  const auto halves = h.chunk(2, -1);
  const std::pair<Epilogue, Tensor> cases[] = {
      {Epilogue::plain, h},
      {Epilogue::gelu, at::gelu(h)},
      {Epilogue::gelu_tanh, at::gelu(h, "tanh")},
      {Epilogue::quick_gelu, h * at::sigmoid(1.702 * h)},
      {Epilogue::silu, at::silu(h)},
      {Epilogue::geglu, halves[0] * at::gelu(halves[1])},
  };
  for (const auto& [epilogue, want] : cases) {
    SCOPED_TRACE(static_cast<int>(epilogue));
    expect_close(Linear(w() / "l", 32, 64, Bias::with, epilogue)(cast(x)), want);
  }
}

TEST_P(Layers, PartsDeclaredApartRunAsOneLinear) {
  for (const char* name : {"a.weight", "b.weight"}) put(name, {24, 16});
  for (const char* name : {"a.bias", "b.bias"}) put(name, {24});
  LinearParts parts;
  const LinearPart a = parts.add(w() / "a", 16, 24), b = parts.add(w() / "b", 16, 24);
  const Tensor x = random({2, 16});
  const Tensor all = Linear(parts)(cast(x));
  expect_close(a.of(all), at::linear(x, t("a.weight"), t("a.bias")));
  expect_close(b.of(all), at::linear(x, t("b.weight"), t("b.bias")));
}

TEST_P(Layers, SeveralMatricesAsOneLinear) {
  for (const char* name : {"q.weight", "k.weight"}) put(name, {16, 32});
  for (const char* name : {"q.bias", "k.bias"}) put(name, {16});
  const Linear both(w(), {"q", "k"}, 32, 16);
  const Tensor x = random({3, 32});
  expect_close(both(cast(x)), at::cat({at::linear(x, t("q.weight"), t("q.bias")),
                                       at::linear(x, t("k.weight"), t("k.bias"))},
                                      1));
}

TEST_P(Layers, ConvolutionsOfEveryShape) {
  struct Case {
    ConvShape shape;
    int64_t in, out, h, w;
  };
  for (const Case& c :
       {Case{k3x3, 32, 64, 8, 8}, Case{k3x3, 64, 64, 7, 5}, Case{k3x3, 4, 32, 8, 6},
        Case{k3x3, 32, 4, 6, 6}, Case{k1x1, 32, 48, 4, 4}, Case{kHalving, 32, 32, 9, 8}}) {
    SCOPED_TRACE(std::to_string(c.in) + " to " + std::to_string(c.out));
    put("c.weight", {c.out, c.in, c.shape.kernel, c.shape.kernel});
    put("c.bias", {c.out});
    const Conv2d conv(w() / "c", c.in, c.out, c.shape);
    const Tensor x = random({2, c.in, c.h, c.w});
    const Tensor want = at::conv2d(x, t("c.weight"), t("c.bias"), c.shape.stride, c.shape.padding);
    const Tensor y = random(want.sizes()), shift = at::randn({2, c.out});
    expect_close(conv(cast(x)), want);
    EXPECT_TRUE(conv(cast(x)).is_contiguous(at::MemoryFormat::ChannelsLast));
    expect_close(conv(cast(x), shift), want + shift.view({2, c.out, 1, 1}));
    Tensor sum = cast(y).clone();
    conv.add_to(sum, cast(x));
    expect_close(sum, y + want);
  }
}

TEST_P(Layers, UpsamplingDoublesOrMeetsAnOddSize) {
  put("u.weight", {64, 32, 3, 3});
  put("u.bias", {64});
  const UpsampleConv up(w() / "u", 32, 64);
  const Tensor x = random({2, 32, 4, 5});
  const auto want = [&](int64_t h, int64_t width) {
    return at::conv2d(at::upsample_nearest2d(x, {h, width}), t("u.weight"), t("u.bias"), 1, 1);
  };
  expect_close(up(cast(x)), want(8, 10));
  expect_close(up(cast(x), 8, 10), want(8, 10));
  expect_close(up(cast(x), 7, 9), want(7, 9));
}

TEST_P(Layers, GroupNormJoinsAndActivates) {
  put("n.weight", {96});
  put("n.bias", {96});
  const GroupNorm norm(w() / "n", 96);
  const Tensor x = random({2, 64, 4, 6}), y = random({2, 32, 4, 6});
  const Tensor z = at::cat({x, y}, 1);
  const Tensor want = at::group_norm(z, 32, t("n.weight"), t("n.bias"), 1e-5);
  expect_close(norm(cast(z)), want);
  expect_close(norm.silu(cast(z)), at::silu(want));
  const auto [normed, joined] = norm.silu_joined(cast(x), cast(y));
  expect_close(normed, at::silu(want));
  EXPECT_TRUE(at::equal(joined, cast(z)));
  const auto [alone, itself] = norm.silu_joined(cast(z), {});
  expect_close(alone, at::silu(want));
  EXPECT_TRUE(at::equal(itself, cast(z)));
}

TEST_P(Layers, LayerNormAndEmbedding) {
  put("n.weight", {40});
  put("n.bias", {40});
  put("e.weight", {10, 40});
  const Tensor x = random({2, 3, 40});
  expect_close(LayerNorm(w() / "n", 40)(cast(x)),
               at::layer_norm(x, {40}, t("n.weight"), t("n.bias"), 1e-5));
  const Tensor ids = at::tensor({3, 9, 0}, at::kLong);
  const Embedding table(w() / "e", 10, 40);
  expect_close(table(ids), at::embedding(t("e.weight"), ids));
  expect_close(table.rows(4), t("e.weight").narrow(0, 0, 4));
}

Tensor plain_attention(const Tensor& q, const Tensor& k, const Tensor& v, int64_t heads,
                       const Tensor& mask) {
  const auto split = [&](const Tensor& x) {
    return x.view({x.size(0), x.size(1), heads, -1}).transpose(1, 2);
  };
  Tensor scores = at::matmul(split(q), split(k).transpose(2, 3)) /
                  std::sqrt(static_cast<double>(q.size(2) / heads));
  if (mask.defined()) scores = scores + mask;
  return at::matmul(at::softmax(scores, -1), split(v)).transpose(1, 2).reshape(q.sizes());
}

TEST_P(Layers, AttentionOfManySizes) {
  struct Case {
    int64_t heads, width, queries, keys;
  };
  for (const Case& c :
       {Case{8, 320, 64, 64}, Case{2, 128, 33, 77}, Case{1, 32, 5, 5}, Case{8, 64, 16, 1}}) {
    SCOPED_TRACE(c.width);
    const Tensor q = random({2, c.queries, c.width}), k = random({2, c.keys, c.width}),
                 v = random({2, c.keys, c.width});
    expect_close(attention(cast(q), cast(k), cast(v), c.heads),
                 plain_attention(q, k, v, c.heads, {}));
    const Tensor mask = at::where(at::rand({1, 1, c.queries, c.keys}) < 0.2, -1e4, 0.0)
                            .to(at::kFloat)
                            .index_fill_(3, at::zeros({1}, at::kLong), 0);
    expect_close(attention(cast(q), cast(k), cast(v), c.heads, cast(mask)),
                 plain_attention(q, k, v, c.heads, mask));
  }
}

TEST_P(Layers, AttentionTakesTheModelsOwnScale) {
  const Tensor q = random({2, 9, 48}), k = random({2, 13, 48}), v = random({2, 13, 48});
  const Tensor mask = random({1, 2, 9, 13});
  expect_close(attention(cast(q), cast(k), cast(v), 2, mask, 0.5),
               plain_attention(q * (0.5 * std::sqrt(24.0)), k, v, 2, mask));
}

TEST_P(Layers, CausalAttentionSeesOnlyThePast) {
  const Tensor q = random({1, 7, 64}), k = random({1, 7, 64}), v = random({1, 7, 64});
  const Tensor mask = at::full({7, 7}, -1e30).triu(1);
  expect_close(causal_attention(cast(q), cast(k), cast(v), 2), plain_attention(q, k, v, 2, mask));
}

TEST_P(Layers, TransformerSubLayersAddToTheResidual) {
  for (const char* name : {"s.to_q.weight", "s.to_k.weight", "s.to_v.weight", "s.to_out.0.weight",
                           "x.to_q.weight", "x.to_out.0.weight"})
    source->put(name, at::randn({64, 64}) / 8);
  for (const char* name : {"x.to_k.weight", "x.to_v.weight"})
    source->put(name, at::randn({64, 24}) / 5);
  for (const char* name :
       {"s.to_out.0.bias", "x.to_out.0.bias", "n.weight", "n.bias", "f.net.2.bias"})
    put(name, {64});
  source->put("f.net.0.proj.weight", at::randn({512, 64}) / 8);
  source->put("f.net.2.weight", at::randn({64, 256}) / 16);
  put("f.net.0.proj.bias", {512});
  const Tensor y = random({2, 20, 64}), x = random({2, 20, 64}), c = random({2, 7, 24});
  const auto lin = [&](const Tensor& in, const std::string& name) {
    return at::linear(in, t(name));
  };

  Tensor got = cast(y).clone();
  SelfAttention(w() / "s", 64, {.count = 4}).add_to(got, cast(x));
  const Tensor self = plain_attention(lin(x, "s.to_q.weight"), lin(x, "s.to_k.weight"),
                                      lin(x, "s.to_v.weight"), 4, {});
  expect_close(got, y + at::linear(self, t("s.to_out.0.weight"), t("s.to_out.0.bias")));

  const Context context(cast(c));
  const CrossAttention cross(w() / "x", 64, 24, {.count = 4});
  const Tensor seen = plain_attention(lin(x, "x.to_q.weight"), lin(c, "x.to_k.weight"),
                                      lin(c, "x.to_v.weight"), 4, {});
  for (int repeat = 0; repeat < 2; ++repeat) {
    got = cast(y).clone();
    cross.add_to(got, cast(x), context);
    expect_close(got, y + at::linear(seen, t("x.to_out.0.weight"), t("x.to_out.0.bias")));
  }

  got = cast(y).clone();
  GegluFeedForward(w() / "f", 64, 256).add_to(got, LayerNorm(w() / "n", 64));
  const Tensor normed = at::layer_norm(y, {64}, t("n.weight"), t("n.bias"), 1e-5);
  const auto halves =
      at::linear(normed, t("f.net.0.proj.weight"), t("f.net.0.proj.bias")).chunk(2, -1);
  expect_close(
      got, y + at::linear(halves[0] * at::gelu(halves[1]), t("f.net.2.weight"), t("f.net.2.bias")));
}

// fp16 only where the processor has it: elsewhere it takes minutes.
std::vector<Precision> precisions() {
  std::vector<Precision> all{{at::kFloat, 2e-6}, {at::kBFloat16, 8e-3}};
  if (computes_natively({}, at::kHalf)) all.push_back({at::kHalf, 2e-3});
  return all;
}

INSTANTIATE_TEST_SUITE_P(Cpu, Layers, ::testing::ValuesIn(precisions()), [](const auto& test) {
  return std::string(dtype_name(test.param.dtype));
});

TEST(Tokens, ShareMemoryWithAChannelsLastPicture) {
  const Tensor x = at::randn({2, 3, 4, 5}).contiguous(at::MemoryFormat::ChannelsLast);
  const Tensor rows = tokens(x);
  EXPECT_EQ(rows.const_data_ptr(), x.const_data_ptr());
  EXPECT_EQ(picture(rows, 4, 5).const_data_ptr(), x.const_data_ptr());
  EXPECT_TRUE(at::equal(picture(rows, 4, 5), x));
}

TEST(TimestepEmbedding, HasCosinesFirst) {
  const Tensor e = timestep_embedding(at::tensor({0.0f, 7.0f}), 6);
  EXPECT_TRUE(at::allclose(e[0], at::tensor({1.0f, 1.0f, 1.0f, 0.0f, 0.0f, 0.0f})));
  EXPECT_NEAR(e[1][0].item<float>(), std::cos(7.0f), 1e-6);
  EXPECT_NEAR(e[1][4].item<float>(), std::sin(7 * std::pow(10000.0, -1.0 / 3)), 1e-5);
}

}  // namespace
}  // namespace atelier::nn
