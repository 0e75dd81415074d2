// Attention kernels of every instruction set against a twin in double precision.
#include <limits>

#include "device/cpu/test_support.h"

namespace atelier {
namespace {

constexpr double kNever = -std::numeric_limits<double>::infinity();

struct Problem {
  CpuAttention shape;
  float query_deviation = 1;
  bool mask = false;
  bool mask_per_query = false;
};

// q, k and v lie side by side in rows of 3 H D numbers, as a fused projection leaves them, when
// there are as many queries as keys; else q has rows of its own.
struct Inputs {
  Array q, kv;
  CpuHeads q_view, k_view, v_view;
};

Inputs make_inputs(const Problem& p) {
  const CpuAttention& s = p.shape;
  const int64_t width = s.heads * s.head_size;
  Inputs in{Array::random(s.type, s.batch * s.queries * width, 1, p.query_deviation),
            Array::random(s.type, s.batch * s.keys * 2 * width, 2),
            {},
            {},
            {}};
  in.q_view = {in.q.data(), s.queries * width, width, s.head_size};
  in.k_view = {in.kv.data(), s.keys * 2 * width, 2 * width, s.head_size};
  in.v_view = in.k_view;
  in.v_view.data = static_cast<char*>(in.kv.data()) + width * (s.type == CpuType::fp32 ? 4 : 2);
  return in;
}

std::vector<float> make_mask(const Problem& p) {
  const CpuAttention& s = p.shape;
  const int64_t rows = p.mask_per_query ? s.heads * s.queries : 1;
  std::mt19937 engine(3);
  std::uniform_real_distribution<float> uniform(-4, 4);
  std::vector<float> mask(static_cast<size_t>(s.batch * rows * s.keys));
  for (float& value : mask) {
    value = uniform(engine);
    if (value > 2) value = -std::numeric_limits<float>::infinity();
  }
  return mask;
}

CpuMask mask_view(const Problem& p, const std::vector<float>& mask) {
  if (!p.mask) return {};
  const CpuAttention& s = p.shape;
  if (!p.mask_per_query) return {mask.data(), s.keys, 0, 0};
  return {mask.data(), s.heads * s.queries * s.keys, s.queries * s.keys, s.keys};
}

std::vector<double> doubles(const Array& array) {
  std::vector<double> numbers;
  for (int64_t i = 0; i < array.count(); ++i) numbers.push_back(array.at(i));
  return numbers;
}

// One row of softmax(q k^T) v; k and v are rows `stride` apart.
void twin_row(const CpuAttention& s, const double* q, const double* k, const double* v,
              int64_t stride, const float* mask, int64_t n, double* out) {
  std::vector<double> score;
  double highest = kNever, sum = 0;
  for (int64_t m = 0; m < s.keys; ++m) {
    double total = 0;
    for (int64_t d = 0; d < s.head_size; ++d) total += q[d] * k[m * stride + d];
    total *= static_cast<double>(s.scale);
    if (mask != nullptr) total += static_cast<double>(mask[m]);
    if (s.causal && m > n) total = kNever;
    score.push_back(total);
    highest = std::max(highest, total);
  }
  std::fill_n(out, s.head_size, 0.0);
  if (highest == kNever) return;
  for (double& value : score) sum += value = std::exp(value - highest);
  for (int64_t m = 0; m < s.keys; ++m) {
    const double share = score[static_cast<size_t>(m)] / sum;
    for (int64_t d = 0; d < s.head_size; ++d) out[d] += share * v[m * stride + d];
  }
}

std::vector<double> twin(const Problem& p, const Inputs& in, const CpuMask& mask) {
  const CpuAttention& s = p.shape;
  const int64_t width = s.heads * s.head_size;
  const std::vector<double> q = doubles(in.q), kv = doubles(in.kv);
  std::vector<double> out(q.size());
  for (int64_t b = 0; b < s.batch; ++b) {
    for (int64_t n = 0; n < s.queries; ++n) {
      for (int64_t h = 0; h < s.heads; ++h) {
        const int64_t at = (b * s.queries + n) * width + h * s.head_size;
        const double* k = kv.data() + b * s.keys * 2 * width + h * s.head_size;
        const float* row = mask.data == nullptr ? nullptr
                                                : mask.data + b * mask.batch_stride +
                                                      h * mask.head_stride + n * mask.query_stride;
        twin_row(s, q.data() + at, k, k + width, 2 * width, row, n, out.data() + at);
      }
    }
  }
  return out;
}

Array run(const CpuKernels& kernels, const Problem& p, const Inputs& in, const CpuMask& mask,
          const Parallel& parallel) {
  const CpuAttention& s = p.shape;
  const int64_t width = s.heads * s.head_size;
  PackedBytes packed(kernels.packed_kv_bytes(s));
  kernels.pack_kv(s, in.k_view, in.v_view, packed.data(), parallel);
  Array out(s.type, s.batch * s.queries * width);
  const CpuHeads view{out.data(), s.queries * width, width, s.head_size};
  kernels.attend(s, in.q_view, packed.data(), mask, view, parallel);
  return out;
}

CpuAttention shape_of(CpuType type, int64_t queries, int64_t keys, int64_t head_size) {
  return {.type = type,
          .batch = 2,
          .heads = 2,
          .queries = queries,
          .keys = keys,
          .head_size = head_size,
          .scale = 1 / std::sqrt(static_cast<float>(head_size))};
}

class AttentionTest : public KernelTest {
 protected:
  void expect_right(const Problem& p, double limit) const {
    const Inputs in = make_inputs(p);
    const std::vector<float> numbers = make_mask(p);
    const CpuMask mask = mask_view(p, numbers);
    const Array out = run(kernels(), p, in, mask, SerialParallel());
    EXPECT_LT(relative_error(out, twin(p, in, mask)), limit)
        << p.shape.queries << " queries, " << p.shape.keys << " keys, head size "
        << p.shape.head_size;
  }
  double limit() const { return tolerance(2e-6, 6e-3); }
};

TEST_P(AttentionTest, EveryHeadSizeAgreesWithTheTwin) {
  for (const int64_t size : {40, 64, 80, 128, 160, 512, 8, 24, 48, 72, 96, 256}) {
    expect_right({shape_of(type(), 70, 150, size)}, limit());
  }
}

TEST_P(AttentionTest, HeadSizesThatAreNoMultipleOfEightAgree) {
  for (const int64_t size : {1, 5, 33, 63}) expect_right({shape_of(type(), 9, 20, size)}, limit());
}

TEST_P(AttentionTest, OddNumbersOfQueriesAndKeysAgree) {
  for (const int64_t queries : {1, 17, 63, 64, 65, 129}) {
    for (const int64_t keys : {1, 2, 5, 7, 77, 191, 193, 389}) {
      expect_right({shape_of(type(), queries, keys, 40)}, limit());
    }
  }
}

TEST_P(AttentionTest, LargeScoresThatOutgrowTheFirstReferenceAgree) {
  expect_right({shape_of(type(), 100, 800, 40), 60}, tolerance(2e-5, 8e-3));
  expect_right({shape_of(type(), 33, 600, 64), 1000}, tolerance(5e-4, 8e-3));
}

TEST_P(AttentionTest, CausalRowsSeeNoLaterKey) {
  for (const int64_t length : {1, 13, 77, 200}) {
    Problem p{shape_of(type(), length, length, 64)};
    p.shape.causal = true;
    expect_right(p, limit());
  }
  Problem wide{shape_of(type(), 20, 50, 40)};
  wide.shape.causal = true;
  expect_right(wide, limit());
}

TEST_P(AttentionTest, MasksAreAddedAndBroadcast) {
  for (const bool per_query : {false, true}) {
    for (const bool causal : {false, true}) {
      Problem p{shape_of(type(), 77, 131, 40), 1, true, per_query};
      p.shape.causal = causal;
      expect_right(p, limit());
    }
  }
}

TEST_P(AttentionTest, AQueryThatSeesNoKeyGivesZeros) {
  const Problem p{shape_of(type(), 21, 100, 40), 1, true, false};
  const Inputs in = make_inputs(p);
  const std::vector<float> hidden(static_cast<size_t>(p.shape.batch * p.shape.keys),
                                  -std::numeric_limits<float>::infinity());
  const Array out = run(kernels(), p, in, mask_view(p, hidden), SerialParallel());
  for (int64_t i = 0; i < out.count(); ++i) ASSERT_EQ(out.at(i), 0) << i;
}

TEST_P(AttentionTest, KeysHiddenAtTheStartDoNotCount) {
  const Problem p{shape_of(type(), 21, 700, 40), 1, true, false};
  const Inputs in = make_inputs(p);
  std::vector<float> mask(static_cast<size_t>(p.shape.batch * p.shape.keys), 0);
  for (size_t i = 0; i < 650; ++i) mask[i] = -std::numeric_limits<float>::infinity();
  const CpuMask view = mask_view(p, mask);
  EXPECT_LT(relative_error(run(kernels(), p, in, view, SerialParallel()), twin(p, in, view)),
            limit());
}

// Whoever makes pictures is told of numbers that are none; they must not vanish on the way.
TEST_P(AttentionTest, WhatIsNoNumberStaysOne) {
  constexpr float kNone = std::numeric_limits<float>::quiet_NaN();
  constexpr float kEndless = std::numeric_limits<float>::infinity();
  for (const bool mask : {false, true}) {
    const Problem p{shape_of(type(), 70, 400, 40), 1, mask, false};
    const CpuAttention& s = p.shape;
    const int64_t width = s.heads * s.head_size;
    const std::vector<float> numbers(static_cast<size_t>(s.batch * s.keys), 0);
    const auto nones = [&](Inputs& in, int64_t queries) {
      const Array out = run(kernels(), p, in, mask_view(p, numbers), SerialParallel());
      int64_t count = 0;
      for (int64_t n = 0; n < queries; ++n) count += !std::isfinite(out.at(n * width + 3));
      return count;
    };
    for (const float bad : {kNone, -kNone, kEndless, -kEndless}) {
      Inputs query = make_inputs(p), key = make_inputs(p), value = make_inputs(p);
      query.q.set(5 * width + 3, bad);
      key.kv.set(390 * 2 * width + 3, bad);
      value.kv.set(390 * 2 * width + width + 3, bad);
      EXPECT_GE(nones(query, s.queries), 1) << bad;
      EXPECT_GE(nones(key, s.queries), 1) << bad;
      EXPECT_EQ(nones(value, s.queries), s.queries) << bad;
    }
    Inputs key = make_inputs(p);
    key.kv.set(390 * 2 * width + 3, kNone);
    EXPECT_EQ(nones(key, s.queries), s.queries);
  }
}

TEST_P(AttentionTest, ThreadsDoNotChangeABit) {
  const Problem p{shape_of(type(), 300, 411, 80)};
  const Inputs in = make_inputs(p);
  const Array one = run(kernels(), p, in, {}, SerialParallel());
  EXPECT_TRUE(one == run(kernels(), p, in, {}, SerialParallel()));
  EXPECT_TRUE(one == run(kernels(), p, in, {}, SpawnParallel(2)));
  EXPECT_TRUE(one == run(kernels(), p, in, {}, SpawnParallel(5)));
}

INSTANTIATE_TEST_SUITE_P(Isa, AttentionTest, testing::ValuesIn(all_variants()), variant_name);

}  // namespace
}  // namespace atelier
