// Linear layers as 8-bit integers against a twin that rounds to the same integers and sums them
// exactly, and against the layer in full precision.
#include "device/cpu/int8.h"

#include <limits>

#include "device/cpu/linear_test.h"

namespace atelier {
namespace {

/// A row as integers under one scale.
struct Row {
  std::vector<int64_t> integers;
  double scale = 0;
};

Row quantised(const Array& numbers, int64_t first, int64_t count) {
  double largest = 0;
  for (int64_t i = 0; i < count; ++i) {
    largest = std::max(largest, std::abs(numbers.at(first + i)));
  }
  Row row{std::vector<int64_t>(static_cast<size_t>(count)), 0};
  if (largest < 1e-30) return row;
  row.scale = static_cast<double>(static_cast<float>(largest) / 127);
  const auto inverse = static_cast<double>(127 / static_cast<float>(largest));
  for (int64_t i = 0; i < count; ++i) {
    row.integers[static_cast<size_t>(i)] =
        static_cast<int64_t>(std::nearbyint(numbers.at(first + i) * inverse));
  }
  return row;
}

std::vector<double> twin(const Problem& p, const Data& d) {
  std::vector<Row> rows, outputs;
  for (int64_t i = 0; i < p.rows; ++i) {
    rows.push_back(quantised(d.x, i * d.x_stride, p.layer.inputs));
  }
  for (int64_t i = 0; i < p.layer.outputs; ++i) {
    outputs.push_back(quantised(d.weights, i * p.layer.inputs, p.layer.inputs));
  }
  return finished(p, d, [&](int64_t row, int64_t output) {
    const Row &x = rows[static_cast<size_t>(row)], &w = outputs[static_cast<size_t>(output)];
    int64_t sum = 0;
    for (size_t k = 0; k < x.integers.size(); ++k) sum += x.integers[k] * w.integers[k];
    return static_cast<double>(sum) * x.scale * w.scale + (p.bias ? d.bias.at(output) : 0);
  });
}

std::vector<double> full_precision(const Problem& p, const Data& d) {
  return finished(p, d, [&](int64_t row, int64_t output) {
    double sum = p.bias ? d.bias.at(output) : 0;
    for (int64_t k = 0; k < p.layer.inputs; ++k) {
      sum += d.x.at(row * d.x_stride + k) * d.weights.at(output * p.layer.inputs + k);
    }
    return sum;
  });
}

class Int8Test : public KernelTest {
 protected:
  void SetUp() override {
    int8_ = cpu_int8_kernels(detect_cpu_features(), GetParam().isa);
    ASSERT_NE(int8_, nullptr);
  }
  std::vector<char> packed(const Problem& p, const Data& d, const Parallel& parallel) const {
    std::vector<char> bytes(static_cast<size_t>(int8_->weight_bytes(p.layer)));
    PackedBytes memory(int8_->weight_bytes(p.layer));
    int8_->pack(p.layer, {d.weights.type(), d.weights.data()}, memory.data(), parallel);
    std::memcpy(bytes.data(), memory.data(), bytes.size());
    return bytes;
  }
  /// Rows [first, first + rows) of the problem into the same rows of `y`.
  void run(const Problem& p, const Data& d, int64_t first, int64_t rows, Array& y,
           const Parallel& parallel) const {
    PackedBytes memory(int8_->weight_bytes(p.layer));
    int8_->pack(p.layer, {d.weights.type(), d.weights.data()}, memory.data(), parallel);
    const int64_t size = type() == CpuType::fp32 ? 4 : 2;
    int8_->linear(p.layer,
                  {.rows = rows,
                   .x = static_cast<const char*>(d.x.data()) + first * d.x_stride * size,
                   .x_stride = d.x_stride,
                   .packed = memory.data(),
                   .bias = p.bias ? static_cast<const float*>(d.bias.data()) : nullptr,
                   .y = static_cast<char*>(y.data()) + first * d.y_stride * size,
                   .y_stride = d.y_stride,
                   .accumulate = p.accumulate},
                  parallel);
  }
  Array all(const Problem& p, const Data& d, const Parallel& parallel) const {
    Array y = d.before;
    run(p, d, 0, p.rows, y, parallel);
    return y;
  }
  void expect_right(const Problem& p) const {
    ASSERT_TRUE(int8_->supported(p.layer));
    const Data d = make_data(p);
    const Array y = all(p, d, SerialParallel());
    EXPECT_LT(relative_error(y, twin(p, d)), tolerance(1e-6, 4e-3))
        << p.rows << " x " << p.layer.inputs << " -> " << p.layer.outputs << ", epilogue "
        << static_cast<int>(p.layer.epilogue);
    EXPECT_TRUE(y == all(p, d, SpawnParallel(3)));
  }
  const CpuInt8Kernels* int8_ = nullptr;
};

TEST_P(Int8Test, AnyNumberOfRowsAgrees) {
  for (const int64_t rows : {1, 5, 6, 7, 16, 31, 32, 33, 77, 200}) {
    expect_right({{type(), 64, 96}, rows});
  }
}

TEST_P(Int8Test, AnyDepthAndWidthAgrees) {
  for (const int64_t inputs : {1, 3, 31, 32, 33, 63, 64, 65, 160, 320, 1290, 6000}) {
    expect_right({{type(), inputs, 64}, 40});
  }
  for (const int64_t outputs : {1, 15, 16, 33, 48, 320}) {
    expect_right({{type(), 64, outputs}, 40});
  }
}

TEST_P(Int8Test, EveryEpilogueAgrees) {
  for (const Problem& problem : epilogue_problems(type())) expect_right(problem);
}

TEST_P(Int8Test, GapsBetweenRowsAreLeftAlone) {
  expect_right({{type(), 70, 70}, 37, true, true, 5});
}

TEST_P(Int8Test, LargeProductsAgree) {
  expect_right({{type(), 96, 64}, 1500});
  expect_right({{type(), 900, 2900}, 165});
  expect_right({{type(), 320, 1280}, 77});
  expect_right({{type(), 320, 2560, CpuEpilogue::geglu}, 77});
}

TEST_P(Int8Test, ARowAloneGivesTheBytesItGivesAmongOthers) {
  for (const int64_t inputs : {75, 2000}) {
    const Problem p{{type(), inputs, 40, CpuEpilogue::silu}, 70};
    const Data d = make_data(p);
    Array apart = d.before;
    for (int64_t row = 0; row < p.rows; ++row) run(p, d, row, 1, apart, SpawnParallel(2));
    EXPECT_TRUE(apart == all(p, d, SerialParallel()));
  }
}

// The largest integers of one sign at the greatest depth: sums just below 2^31.
TEST_P(Int8Test, TheDeepestSumsDoNotOverflow) {
  const Problem p{{type(), 1 << 16, 2}, 2, false};
  Data d = make_data(p);
  for (int64_t i = 0; i < d.x.count(); ++i) d.x.set(i, i < (1 << 16) ? 1.F : -1.F);
  for (int64_t i = 0; i < d.weights.count(); ++i) d.weights.set(i, 1);
  const Array y = all(p, d, SerialParallel());
  for (int64_t i = 0; i < 4; ++i) EXPECT_NEAR(y.at(i), i < 2 ? 65536 : -65536, 1);
  EXPECT_FALSE(int8_->supported({type(), (1 << 16) + 1, 2}));
}

TEST_P(Int8Test, RowsThatAreNoNumbersGiveNaNAndSmallOnesZero) {
  const Problem p{{type(), 75, 33}, 4, false};
  Data d = make_data(p);
  d.x.set(10, std::numeric_limits<float>::quiet_NaN());
  d.x.set(75 + 74, -std::numeric_limits<float>::infinity());
  for (int64_t i = 0; i < 75; ++i) d.x.set(2 * 75 + i, 9e-31F);
  const Array y = all(p, d, SerialParallel());
  for (int64_t i = 0; i < 33; ++i) {
    EXPECT_TRUE(std::isnan(y.at(i)) && std::isnan(y.at(33 + i))) << i;
    EXPECT_EQ(y.at(66 + i), 0);
    EXPECT_TRUE(std::isfinite(y.at(99 + i)));
  }
}

TEST_P(Int8Test, WeightsReadWhilePackingArePackedAlike) {
  for (const CpuEpilogue epilogue : {CpuEpilogue::plain, CpuEpilogue::geglu}) {
    for (const int64_t outputs : {2, 40, 166}) {
      const Problem p{{type(), 75, outputs, epilogue}, 1};
      const Data d = make_data(p);
      const CopyingReader reader(d.weights, 75);
      const int64_t size = int8_->weight_bytes(p.layer);
      PackedBytes read(size);
      int8_->pack(p.layer, {type(), nullptr, &reader}, read.data(), SpawnParallel(3));
      const std::vector<char> lying = packed(p, d, SerialParallel());
      EXPECT_EQ(std::memcmp(lying.data(), read.data(), lying.size()), 0);
    }
  }
}

TEST_P(Int8Test, NormalNumbersAreOffByAboutAPercent) {
  const Problem p{{type(), 1280, 320}, 64, false};
  const Data d = make_data(p);
  const double error = relative_error(all(p, d, SerialParallel()), full_precision(p, d));
  EXPECT_GT(error, 0.005);
  EXPECT_LT(error, 0.015);
}

/// Those of the variants that have instructions for it.
std::vector<Variant> int8_variants() {
  std::vector<Variant> variants = all_variants();
  std::erase_if(variants, [](const Variant& variant) {
    return cpu_int8_kernels(detect_cpu_features(), variant.isa) == nullptr;
  });
  return variants;
}

GTEST_ALLOW_UNINSTANTIATED_PARAMETERIZED_TEST(Int8Test);
INSTANTIATE_TEST_SUITE_P(Isa, Int8Test, testing::ValuesIn(int8_variants()), variant_name);

TEST(CpuInt8Kernels, AreChosenByFlagAndInstructionSet) {
  EXPECT_EQ(cpu_int8_kernels(CpuFeatures(), CpuIsa::portable), nullptr);
  CpuFeatures f = detect_cpu_features();
  if (!runs_on(CpuIsa::avx512, f)) GTEST_SKIP() << "no AVX-512";
  f.avx_vnni = f.avx512_vnni = false;
  EXPECT_EQ(cpu_int8_kernels(f, CpuIsa::avx512), nullptr);
  f.avx_vnni = true;
  EXPECT_EQ(cpu_int8_kernels(f, CpuIsa::avx2)->name, "avx_vnni");
  EXPECT_EQ(cpu_int8_kernels(f, CpuIsa::avx512)->name, "avx_vnni");
  f.avx512_vnni = true;
  EXPECT_EQ(cpu_int8_kernels(f, CpuIsa::avx2)->name, "avx_vnni");
  EXPECT_EQ(cpu_int8_kernels(f, CpuIsa::avx512)->name, "avx512_vnni");
  EXPECT_EQ(cpu_int8_kernels(f, CpuIsa::portable), nullptr);
  f.amx_int8 = true;
  if (runs_on(CpuIsa::amx, f)) {
    EXPECT_EQ(cpu_int8_kernels(f, CpuIsa::amx)->name, "amx_int8");
  }
}

}  // namespace
}  // namespace atelier
