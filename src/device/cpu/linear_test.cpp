// Linear kernels of every instruction set against a twin in double precision.
#include "device/cpu/linear_test.h"

namespace atelier {
namespace {

std::vector<double> twin(const Problem& p, const Data& d) {
  const CpuLinear& l = p.layer;
  std::vector<double> tails;
  for (int64_t row = 0; row < p.rows; ++row) {
    for (int64_t i = 0; i < l.tail; ++i) {
      double sum = 0;
      for (int64_t k = 0; k < l.inputs; ++k) {
        sum += d.x.at(row * d.x_stride + k) * d.down.at(i * l.inputs + k);
      }
      tails.push_back(sum);
    }
  }
  return finished(p, d, [&](int64_t row, int64_t output) {
    double sum = p.bias ? d.bias.at(output) : 0;
    for (int64_t k = 0; k < l.inputs; ++k) {
      sum += d.x.at(row * d.x_stride + k) * d.weights.at(output * l.inputs + k);
    }
    for (int64_t k = 0; k < l.tail; ++k) {
      sum += tails[static_cast<size_t>(row * l.tail + k)] * d.tail_weights.at(output * l.tail + k);
    }
    return sum;
  });
}

Array run(const CpuKernels& kernels, const Problem& p, const Data& d, const Parallel& parallel) {
  PackedBytes packed(kernels.linear_weight_bytes(p.layer));
  kernels.pack_linear(p.layer, {d.weights.type(), d.weights.data()}, packed.data(), parallel);
  const CpuLinear first{p.layer.type, p.layer.inputs, std::max<int64_t>(p.layer.tail, 1)};
  PackedBytes down(kernels.linear_weight_bytes(first));
  if (p.layer.tail > 0) {
    const CpuWeights tail{d.tail_weights.type(), d.tail_weights.data()};
    kernels.pack_linear_tail(p.layer, tail, packed.data(), parallel);
    kernels.pack_linear(first, {d.down.type(), d.down.data()}, down.data(), parallel);
  }
  Array y = d.before;
  kernels.linear(p.layer,
                 {.rows = p.rows,
                  .x = d.x.data(),
                  .x_stride = d.x_stride,
                  .packed = packed.data(),
                  .bias = p.bias ? static_cast<const float*>(d.bias.data()) : nullptr,
                  .y = y.data(),
                  .y_stride = d.y_stride,
                  .accumulate = p.accumulate,
                  .down = down.data()},
                 parallel);
  return y;
}

class LinearTest : public KernelTest {
 protected:
  // Layers left to the library need no check: there is no kernel.
  void expect_right(const Problem& p) const {
    if (!kernels().linear_supported(p.layer)) return;
    const Data data = make_data(p);
    const Array y = run(kernels(), p, data, SerialParallel());
    EXPECT_LT(relative_error(y, twin(p, data)), tolerance(3e-6, 4e-3))
        << p.rows << " x " << p.layer.inputs << " -> " << p.layer.outputs << ", epilogue "
        << static_cast<int>(p.layer.epilogue);
    EXPECT_TRUE(y == run(kernels(), p, data, SpawnParallel(3)));
  }
};

TEST_P(LinearTest, AnyNumberOfRowsAgrees) {
  for (const int64_t rows : {1, 15, 16, 17, 31, 32, 33, 77, 200}) {
    expect_right({{type(), 64, 96}, rows});
  }
}

TEST_P(LinearTest, AnyDepthAndWidthAgrees) {
  for (const int64_t inputs : {1, 31, 32, 40, 96, 128, 160, 320, 1290}) {
    expect_right({{type(), inputs, 64}, 40});
  }
  for (const int64_t outputs : {1, 15, 16, 33, 48, 320}) {
    expect_right({{type(), 64, outputs}, 40});
  }
}

TEST_P(LinearTest, EveryEpilogueAgrees) {
  for (const Problem& problem : epilogue_problems(type())) expect_right(problem);
}

TEST_P(LinearTest, WeightsReadWhilePackingArePackedAlike) {
  for (const CpuEpilogue epilogue : {CpuEpilogue::plain, CpuEpilogue::geglu}) {
    for (const int64_t outputs : {2, 40, 166}) {
      const CpuLinear layer{type(), 75, outputs, epilogue};
      if (!kernels().linear_supported(layer)) return;
      const Array weights = Array::random(type(), outputs * 75, 2);
      const CopyingReader reader(weights, 75);
      const int64_t size = kernels().linear_weight_bytes(layer);
      PackedBytes lying(size), read(size);
      kernels().pack_linear(layer, {type(), weights.data()}, lying.data(), SerialParallel());
      kernels().pack_linear(layer, {type(), nullptr, &reader}, read.data(), SpawnParallel(3));
      EXPECT_EQ(std::memcmp(lying.data(), read.data(), static_cast<size_t>(size)), 0);
    }
  }
}

TEST_P(LinearTest, UnpackedWeightsGiveTheSameLayer) {
  for (const CpuEpilogue epilogue :
       {CpuEpilogue::plain, CpuEpilogue::silu, CpuEpilogue::gelu_tanh, CpuEpilogue::geglu}) {
    for (const int64_t rows : {1, 2, 4, 7, 33}) {
      for (const int64_t outputs : {2, 40, 134}) {
        const Problem p{{type(), 75, outputs, epilogue}, rows, rows != 2, rows == 7, rows % 3};
        if (!kernels().linear_supported(p.layer)) return;
        const Data d = make_data(p);
        Array y = d.before;
        const CopyingReader reader(d.weights, p.layer.inputs);
        const auto run = [&](const void* data, const Parallel& parallel) {
          y = d.before;
          kernels().linear_unpacked(
              p.layer, {d.weights.type(), data, &reader},
              {.rows = p.rows,
               .x = d.x.data(),
               .x_stride = d.x_stride,
               .packed = nullptr,
               .bias = p.bias ? static_cast<const float*>(d.bias.data()) : nullptr,
               .y = y.data(),
               .y_stride = d.y_stride,
               .accumulate = p.accumulate},
              parallel);
          return y;
        };
        const Array lying = run(d.weights.data(), SerialParallel());
        EXPECT_LT(relative_error(lying, twin(p, d)), tolerance(3e-6, 4e-3)) << rows << outputs;
        EXPECT_TRUE(lying == run(nullptr, SpawnParallel(3)));
      }
    }
  }
}

TEST_P(LinearTest, ARowUnpackedIsTheSameAloneAndAmongOthers) {
  const Problem p{{type(), 75, 40}, 9};
  if (!kernels().linear_supported(p.layer)) return;
  const Data d = make_data(p);
  const auto run = [&](int64_t first, int64_t rows, Array& y) {
    const int64_t size = type() == CpuType::fp32 ? 4 : 2;
    kernels().linear_unpacked(p.layer, {d.weights.type(), d.weights.data()},
                              {.rows = rows,
                               .x = static_cast<const char*>(d.x.data()) + first * 75 * size,
                               .x_stride = 75,
                               .packed = nullptr,
                               .bias = nullptr,
                               .y = static_cast<char*>(y.data()) + first * 40 * size,
                               .y_stride = 40},
                              SerialParallel());
  };
  Array together = d.before, apart = d.before;
  run(0, 9, together);
  for (int64_t row = 0; row < 9; ++row) run(row, 1, apart);
  EXPECT_TRUE(together == apart);
}

TEST_P(LinearTest, TailsOfAnyLengthAreAdded) {
  for (const int64_t tail : {1, 4, 16, 31, 32, 33, 96, 128}) {
    expect_right({{.type = type(), .inputs = 75, .outputs = 64, .tail = tail}, 40});
  }
  for (const CpuEpilogue epilogue : {CpuEpilogue::silu, CpuEpilogue::geglu}) {
    expect_right({{type(), 160, 96, epilogue, 40}, 70, true, true, 3});
  }
  expect_right({{type(), 320, 640, CpuEpilogue::plain, 40}, 300});
  expect_right({{type(), 2600, 64, CpuEpilogue::plain, 64}, 300});
  expect_right({{type(), 3400, 1100, CpuEpilogue::gelu, 65}, 70});
}

// The rest of U is zero, and neither packed nor multiplied.
TEST_P(LinearTest, OutputsMayTakePartsOfTheTail) {
  const std::vector<std::vector<TailRange>> cuts = {
      {{320, 0, 64}, {640, 64, 128}, {960, 128, 192}},  // as queries, keys and values
      {{320, 0, 16}, {640, 16, 16}, {960, 16, 40}},  // none of some, and units in common
      {{70, 0, 33}, {75, 33, 70}, {500, 33, 90}, {960, 90, 192}},  // ends within panels
      {{1, 0, 8}, {2, 8, 16}, {3, 16, 24}, {960, 24, 32}},
      {{960, 32, 64}},
  };
  for (const auto& ranges : cuts) {
    for (const CpuEpilogue epilogue : {CpuEpilogue::plain, CpuEpilogue::geglu}) {
      for (const int64_t inputs : {75, 2600}) {
        Problem p{{type(), inputs, 960, epilogue, ranges.back().end}, 70, true, true, 3};
        if (!kernels().linear_supported(p.layer)) return;
        Data d = make_data(p);
        int64_t output = 0;
        for (const TailRange& range : ranges)
          for (; output < range.outputs_end; ++output)
            for (int64_t k = 0; k < p.layer.tail; ++k)
              if (k < range.first || k >= range.end)
                d.tail_weights.set(output * p.layer.tail + k, 0);
        const Array whole = run(kernels(), p, d, SerialParallel());
        const int64_t whole_bytes = kernels().linear_weight_bytes(p.layer);
        p.layer.tail_ranges = ranges.data();
        p.layer.tail_range_count = static_cast<int64_t>(ranges.size());
        EXPECT_LE(kernels().linear_weight_bytes(p.layer), whole_bytes);
        EXPECT_TRUE(whole == run(kernels(), p, d, SerialParallel())) << ranges.size() << inputs;
        EXPECT_TRUE(whole == run(kernels(), p, d, SpawnParallel(3))) << ranges.size() << inputs;
      }
    }
  }
  const CpuLinear all{type(), 64, 960, CpuEpilogue::plain, 192};
  CpuLinear parts = all;
  parts.tail_ranges = cuts[0].data();
  parts.tail_range_count = 3;
  if (kernels().linear_supported(all)) {
    EXPECT_LT(kernels().linear_weight_bytes(parts), kernels().linear_weight_bytes(all));
  }
}

TEST_P(LinearTest, GapsBetweenRowsAreLeftAlone) {
  expect_right({{type(), 64, 70}, 37, true, true, 5});
}

// More depth than the sums are kept for at a time, more rows than one task takes.
TEST_P(LinearTest, DeepAndTallProductsAgree) {
  expect_right({{type(), 2600, 64}, 40});
  expect_right({{type(), 96, 64}, 1500});
  expect_right({{type(), 900, 2900}, 165});
}

// An odd number of row blocks, the last not full, past more panels than one group has.
TEST_P(LinearTest, SeveralGroupsOfPanelsAgree) {
  expect_right({{type(), 320, 1280}, 77});
  expect_right({{type(), 768, 640}, 77});
}

INSTANTIATE_TEST_SUITE_P(Isa, LinearTest, testing::ValuesIn(all_variants()), variant_name);

}  // namespace
}  // namespace atelier
