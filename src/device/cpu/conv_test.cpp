// Convolution kernels of every instruction set against a twin in double precision.
#include "device/cpu/test_support.h"

namespace atelier {
namespace {

struct Problem {
  CpuConv layer;
  CpuPicture input;
  bool bias = true;
  bool bias_per_picture = false;
  bool accumulate = false;
};

struct Data {
  Array x, weights, bias, before;
  int64_t out_height, out_width;
};

Data make_data(const Problem& p) {
  const CpuConv& l = p.layer;
  const int64_t height = conv_output_size(l, p.input.height);
  const int64_t width = conv_output_size(l, p.input.width);
  const int64_t taps = l.inputs * l.kernel * l.kernel;
  return {Array::random(l.type, p.input.batch * p.input.height * p.input.width * l.inputs, 1),
          Array::random(l.type, l.outputs * taps, 2, 1 / std::sqrt(static_cast<float>(taps))),
          Array::random(CpuType::fp32, p.input.batch * l.outputs, 3),
          Array::random(l.type, p.input.batch * height * width * l.outputs, 4),
          height,
          width};
}

struct Doubles {
  std::vector<double> x, weights;
  explicit Doubles(const Data& data) {
    for (int64_t k = 0; k < data.x.count(); ++k) x.push_back(data.x.at(k));
    for (int64_t k = 0; k < data.weights.count(); ++k) weights.push_back(data.weights.at(k));
  }
};

double twin_at(const Problem& p, const Doubles& d, int64_t b, int64_t row, int64_t column,
               int64_t o) {
  const CpuConv& l = p.layer;
  const int64_t zoom = l.upsample ? 2 : 1;
  double sum = 0;
  for (int64_t i = 0; i < l.kernel; ++i) {
    for (int64_t j = 0; j < l.kernel; ++j) {
      const int64_t y = row * l.stride + i - l.pad_begin, x = column * l.stride + j - l.pad_begin;
      if (y < 0 || x < 0 || y >= zoom * p.input.height || x >= zoom * p.input.width) continue;
      const int64_t pixel = (b * p.input.height + y / zoom) * p.input.width + x / zoom;
      for (int64_t c = 0; c < l.inputs; ++c) {
        const int64_t weight = ((o * l.inputs + c) * l.kernel + i) * l.kernel + j;
        sum +=
            d.x[static_cast<size_t>(pixel * l.inputs + c)] * d.weights[static_cast<size_t>(weight)];
      }
    }
  }
  return sum;
}

std::vector<double> twin(const Problem& p, const Data& d) {
  const int64_t outputs = p.layer.outputs;
  const Doubles numbers(d);
  std::vector<double> want(static_cast<size_t>(d.before.count()));
  for (int64_t i = 0; i < d.before.count(); ++i) {
    const int64_t o = i % outputs, pixel = i / outputs;
    const int64_t b = pixel / d.out_width / d.out_height;
    double value =
        twin_at(p, numbers, b, pixel / d.out_width % d.out_height, pixel % d.out_width, o);
    if (p.bias) value += d.bias.at(p.bias_per_picture ? b * outputs + o : o);
    if (p.accumulate) value += d.before.at(i);
    want[static_cast<size_t>(i)] = value;
  }
  return want;
}

Array run(const CpuKernels& kernels, const Problem& p, const Data& d, const Parallel& parallel) {
  PackedBytes packed(kernels.conv_weight_bytes(p.layer));
  kernels.pack_conv(p.layer, {d.weights.type(), d.weights.data()}, packed.data(), parallel);
  Array y = d.before;
  kernels.conv(p.layer,
               {.input = p.input,
                .x = d.x.data(),
                .packed = packed.data(),
                .bias = p.bias ? static_cast<const float*>(d.bias.data()) : nullptr,
                .bias_batch_stride = p.bias_per_picture ? p.layer.outputs : 0,
                .y = y.data(),
                .accumulate = p.accumulate},
               parallel);
  return y;
}

class ConvTest : public KernelTest {
 protected:
  CpuConv layer(int64_t inputs, int64_t outputs) const { return {type(), inputs, outputs}; }
  // Layers left to the library need no check: there is no kernel.
  void expect_right(const Problem& p) const {
    if (kernels().conv_method(p.layer) == CpuConvMethod::library) return;
    const Data data = make_data(p);
    const Array y = run(kernels(), p, data, SerialParallel());
    EXPECT_LT(relative_error(y, twin(p, data)), tolerance(3e-6, 6e-3))
        << p.layer.inputs << " -> " << p.layer.outputs << ", kernel " << p.layer.kernel
        << ", stride " << p.layer.stride << ", " << p.input.height << " x " << p.input.width;
    EXPECT_TRUE(y == run(kernels(), p, data, SpawnParallel(3)));
  }
};

TEST_P(ConvTest, EvenAndOddPicturesAgree) {
  for (const CpuPicture& input :
       {CpuPicture{1, 8, 8}, {2, 16, 16}, {1, 1, 1}, {1, 7, 9}, {2, 5, 34}, {1, 3, 64}}) {
    expect_right({layer(64, 64), input});
  }
}

TEST_P(ConvTest, ChannelsThatFillNoVectorAgree) {
  for (const auto& [inputs, outputs] :
       {std::pair{32, 32}, {33, 65}, {40, 100}, {50, 48}, {320, 64}, {96, 200}}) {
    expect_right({layer(inputs, outputs), {1, 6, 10}});
  }
}

TEST_P(ConvTest, BiasMayBeAbsentSharedOrPerPictureAndTheResultMayBeAdded) {
  for (const bool accumulate : {false, true}) {
    expect_right({layer(64, 70), {2, 6, 8}, false, false, accumulate});
    expect_right({layer(64, 70), {2, 6, 8}, true, false, accumulate});
    expect_right({layer(64, 70), {2, 6, 8}, true, true, accumulate});
  }
}

TEST_P(ConvTest, ThinStemAndHeadLayersAgree) {
  expect_right({layer(4, 64), {2, 9, 16}});
  expect_right({layer(9, 64), {1, 8, 8}});
  expect_right({layer(64, 4), {2, 9, 16}});
  expect_right({layer(64, 3), {1, 8, 20}});
}

TEST_P(ConvTest, StridesKernelsAndUnevenPaddingAgree) {
  const CpuPicture input{2, 10, 14};
  expect_right({{type(), 64, 64, 3, 2, 1, 1}, input});
  expect_right({{type(), 64, 64, 3, 2, 0, 1}, input});
  expect_right({{type(), 64, 96, 1, 1, 0, 0}, input});
  expect_right({{type(), 64, 64, 2, 1, 1, 1}, input});
  expect_right({{type(), 48, 64, 5, 1, 2, 2}, input});
}

TEST_P(ConvTest, UpsamplingInsideTheConvolutionAgrees) {
  for (const CpuPicture& input : {CpuPicture{1, 8, 8}, {2, 5, 7}, {1, 1, 3}}) {
    Problem p{layer(64, 64), input};
    p.layer.upsample = true;
    expect_right(p);
  }
}

// Enough weights that they, not the picture, are walked in the outer loop.
TEST_P(ConvTest, WideLayersOnSmallPicturesAgree) { expect_right({layer(640, 640), {1, 3, 4}}); }

TEST_P(ConvTest, WeightsMayComeInAnyStorageType) {
  const Problem p{layer(64, 64), {1, 4, 6}};
  if (kernels().conv_method(p.layer) == CpuConvMethod::library) return;
  Data data = make_data(p);
  // 1, 2 and -0.5 times powers of two are the same number in every type.
  Array plain(CpuType::fp32, data.weights.count());
  std::vector<uint16_t> half(static_cast<size_t>(plain.count()));
  const std::pair<float, uint16_t> values[] = {{1.F, 0x3c00}, {2.F, 0x4000}, {-0.5F, 0xb800}};
  for (int64_t i = 0; i < plain.count(); ++i) {
    plain.set(i, values[i * 7 % 3].first);
    half[static_cast<size_t>(i)] = values[i * 7 % 3].second;
  }
  const auto pack = [&](CpuType source, const void* weights) {
    const int64_t bytes = kernels().conv_weight_bytes(p.layer);
    PackedBytes packed(bytes);
    kernels().pack_conv(p.layer, {source, weights}, packed.data(), SerialParallel());
    return std::string(static_cast<const char*>(packed.data()), static_cast<size_t>(bytes));
  };
  EXPECT_EQ(pack(CpuType::fp32, plain.data()), pack(CpuType::fp16, half.data()));
}

TEST_P(ConvTest, WeightsReadWhilePackingArePackedAlike) {
  for (const CpuConv& layer :
       {CpuConv{.type = type(), .inputs = 40, .outputs = 70},
        CpuConv{.type = type(), .inputs = 40, .outputs = 70, .upsample = true},
        CpuConv{.type = type(),
                .inputs = 40,
                .outputs = 70,
                .kernel = 1,
                .pad_begin = 0,
                .pad_end = 0}}) {
    if (kernels().conv_method(layer) == CpuConvMethod::library) continue;
    const int64_t row = layer.inputs * layer.kernel * layer.kernel;
    const Array weights = Array::random(type(), layer.outputs * row, 2);
    const CopyingReader reader(weights, row);
    const int64_t size = kernels().conv_weight_bytes(layer);
    PackedBytes lying(size), read(size);
    kernels().pack_conv(layer, {type(), weights.data()}, lying.data(), SerialParallel());
    kernels().pack_conv(layer, {type(), nullptr, &reader}, read.data(), SpawnParallel(3));
    EXPECT_EQ(std::memcmp(lying.data(), read.data(), static_cast<size_t>(size)), 0);
  }
}

INSTANTIATE_TEST_SUITE_P(Isa, ConvTest, testing::ValuesIn(all_variants()), variant_name);

}  // namespace
}  // namespace atelier
