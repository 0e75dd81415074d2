// Encoders by what users of them rely on: small errors, sameness, exact cases, odd input.
#include "quant/codec/encode.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <random>

#include "quant/codec/codec.h"
#include "quant/codec/float_codes.h"
#include "quant/codec/tables.h"

namespace atelier {
namespace {

std::vector<float> normal_numbers(size_t count, float spread, unsigned seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0, spread);
  std::vector<float> numbers(count);
  for (float& number : numbers) number = normal(random);
  return numbers;
}

size_t encoded_size(size_t elements, Encoding encoding) {
  const EncodingInfo& info = encoding_info(encoding);
  return elements / static_cast<size_t>(info.block_elements) *
         static_cast<size_t>(info.block_bytes);
}

std::vector<std::byte> encoded(std::span<const float> from, Encoding encoding,
                               std::span<const float> importance = {}, int64_t row = 512,
                               const Parallel& parallel = SerialParallel()) {
  std::vector<std::byte> bytes(encoded_size(from.size(), encoding));
  encode(from, row, encoding, importance, bytes, parallel);
  return bytes;
}

std::vector<float> decoded(std::span<const std::byte> bytes, Encoding encoding, size_t elements) {
  std::vector<float> numbers(elements);
  decode(bytes, encoding, Number::f32, std::as_writable_bytes(std::span(numbers)), SerialParallel(),
         "t");
  return numbers;
}

double relative_error(std::span<const float> from, std::span<const float> to,
                      std::span<const float> weights = {}) {
  double error = 0, norm = 0;
  for (size_t i = 0; i < from.size(); ++i) {
    const double w = weights.empty() ? 1 : static_cast<double>(weights[i % weights.size()]);
    const double x = static_cast<double>(from[i]), d = static_cast<double>(to[i]) - x;
    error += w * d * d;
    norm += w * x * x;
  }
  return std::sqrt(error / norm);
}

struct Bound {
  Encoding encoding;
  double error;  // root mean square over that of normal numbers
};

class Encoders : public testing::TestWithParam<Bound> {};

TEST_P(Encoders, KeepNormalNumbersWithinTheBound) {
  const auto from = normal_numbers(1 << 16, 0.03f, 3);
  const auto to = decoded(encoded(from, GetParam().encoding), GetParam().encoding, from.size());
  EXPECT_LT(relative_error(from, to), GetParam().error);
}

TEST_P(Encoders, WriteTheSameBytesOnEveryInstructionSetAndNumberOfThreads) {
  const auto from = normal_numbers(1 << 14, 1.5f, 4);
  const auto once = encoded(from, GetParam().encoding);
  EXPECT_EQ(encoded(from, GetParam().encoding, {}, 512, SpawnParallel(3)), once);
  EXPECT_EQ(encoded(from, GetParam().encoding, {}, 1 << 14), once);
  for (const CodecTable& table : codec_tables())
    for (const EncoderRow& row : table.encoders) {
      if (row.encoding != GetParam().encoding) continue;
      std::vector<std::byte> bytes(once.size());
      row.encode(from.data(), static_cast<int64_t>(from.size()), nullptr, bytes.data());
      EXPECT_EQ(bytes, once) << table.isa;
    }
}

// Block scales below 2^-24 are no halves; K types divide theirs by up to 128.
TEST_P(Encoders, KeepSmallNumbersAsWellAsTheirScalesAllow) {
  const Bound& bound = GetParam();
  const EncodingInfo& info = encoding_info(bound.encoding);
  if (info.block_elements == 1) GTEST_SKIP() << "no scales";
  for (const float spread : {1e-3f, 1e-4f, 3e-5f, 1e-5f, 3e-6f, 1e-6f, 1e-7f, 1e-8f, 1e-9f}) {
    const auto from = normal_numbers(1 << 14, spread, 12);
    const auto once = encoded(from, bound.encoding);
    const auto to = decoded(once, bound.encoding, from.size());
    const double error = relative_error(from, to);
    const double most = spread > 9e-6f ? 1.25 * bound.error : spread > 9e-7f ? 0.35 : 1;
    EXPECT_LE(error, most) << spread;
    for (const CodecTable& table : codec_tables())
      for (const EncoderRow& row : table.encoders) {
        if (row.encoding != bound.encoding) continue;
        std::vector<std::byte> bytes(once.size());
        row.encode(from.data(), static_cast<int64_t>(from.size()), nullptr, bytes.data());
        EXPECT_EQ(bytes, once) << table.isa << ", " << spread;
      }
  }
}

// Of one large number among small ones and of numbers of one sign, too.
TEST_P(Encoders, AreNeverWorseThanZerosOnSmallNumbers) {
  const Encoding encoding = GetParam().encoding;
  if (encoding_info(encoding).block_elements == 1) GTEST_SKIP() << "no scales";
  for (const float size : {1e-5f, 1e-6f, 1e-7f, 3e-8f, 1e-8f, 1e-12f}) {
    std::vector<std::vector<float>> rows;
    rows.emplace_back(512, size);
    rows.emplace_back(512, -size);
    for (float& x : rows.emplace_back(normal_numbers(512, size, 13))) x = std::fabs(x) + size;
    for (float& x : rows.emplace_back(normal_numbers(512, size, 14))) x = -std::fabs(x);
    rows.emplace_back(normal_numbers(512, size, 15))[77] = 100 * size;
    rows.emplace_back(512, -size / 50)[300] = size;
    for (size_t i = 0; i < rows.size(); ++i) {
      const auto to = decoded(encoded(rows[i], encoding), encoding, 512);
      EXPECT_LE(relative_error(rows[i], to), 1.001) << "row " << i << " of " << size;
    }
  }
}

// Those that choose scales, and so what is rounded most.
class ChoosingEncoders : public testing::TestWithParam<Encoding> {};

TEST_P(ChoosingEncoders, PutTheErrorWhereItMattersLeast) {
  const auto from = normal_numbers(1 << 16, 0.03f, 5);
  std::vector<float> importance(512, 0.01f);
  for (size_t i = 0; i < 512; i += 7) importance[i] = 10;
  const Encoding encoding = GetParam();
  const auto plain = decoded(encoded(from, encoding), encoding, from.size());
  const auto weighted = decoded(encoded(from, encoding, importance), encoding, from.size());
  EXPECT_LT(relative_error(from, weighted, importance),
            0.97 * relative_error(from, plain, importance));
}

TEST_P(Encoders, TakeEveryKindOfRow) {
  std::vector<std::vector<float>> rows;
  rows.emplace_back(512, 0.f);
  rows.emplace_back(512, 0.75f);
  rows.emplace_back(512, -3.f);
  rows.push_back(normal_numbers(512, 1e-30f, 6));
  rows.push_back(normal_numbers(512, 1e4f, 7));
  rows.emplace_back(512, 0.f)[100] = 1;
  rows.emplace_back(512, 1e-42f)[3] = 0;
  for (float& x : rows.emplace_back(normal_numbers(512, 1, 8))) x = std::fabs(x) + 5;
  for (float& x : rows.emplace_back(normal_numbers(512, 1, 9))) x = -std::fabs(x) - 5;
  const Encoding encoding = GetParam().encoding;
  for (size_t i = 0; i < rows.size(); ++i) {
    const auto to = decoded(encoded(rows[i], encoding), encoding, 512);
    float largest = 1e-6f;
    for (const float x : rows[i]) largest = std::max(largest, std::fabs(x));
    for (size_t j = 0; j < 512; ++j)
      ASSERT_LE(std::fabs(to[j] - rows[i][j]), largest) << "row " << i << ", column " << j;
  }
}

INSTANTIATE_TEST_SUITE_P(Types, ChoosingEncoders,
                         testing::Values(Encoding::q6_k, Encoding::q5_k, Encoding::q5_0,
                                         Encoding::q5_1, Encoding::q4_k, Encoding::q4_0,
                                         Encoding::q4_1, Encoding::iq4_nl, Encoding::iq4_xs,
                                         Encoding::q3_k, Encoding::q2_k),
                         [](const auto& test) {
                           return std::string(encoding_info(test.param).name);
                         });

INSTANTIATE_TEST_SUITE_P(
    Types, Encoders,
    testing::Values(Bound{Encoding::f16, 3e-4}, Bound{Encoding::bf16, 3e-3},
                    Bound{Encoding::f8_e4m3, 0.03}, Bound{Encoding::f8_e5m2, 0.055},
                    Bound{Encoding::q8_0, 0.006}, Bound{Encoding::q6_k, 0.02},
                    Bound{Encoding::q5_k, 0.038}, Bound{Encoding::q5_0, 0.045},
                    Bound{Encoding::q5_1, 0.038}, Bound{Encoding::q4_k, 0.075},
                    Bound{Encoding::q4_0, 0.09}, Bound{Encoding::q4_1, 0.078},
                    Bound{Encoding::iq4_nl, 0.075}, Bound{Encoding::iq4_xs, 0.077},
                    Bound{Encoding::q3_k, 0.16}, Bound{Encoding::q2_k, 0.32}),
    [](const auto& instance) { return std::string(encoding_info(instance.param.encoding).name); });

// What an encoding can hold comes back as it was.
TEST(Encode, KeepsWhatItDecodedItself) {
  const auto from = normal_numbers(512, 0.5f, 11);
  for (const Encoding encoding : {Encoding::q8_0, Encoding::f8_e4m3, Encoding::f8_e5m2}) {
    const auto once = decoded(encoded(from, encoding), encoding, 512);
    const auto twice = decoded(encoded(once, encoding), encoding, 512);
    for (size_t i = 0; i < 512; ++i) EXPECT_NEAR(twice[i], once[i], 2e-3f * std::fabs(once[i]));
  }
}

TEST(Encode, RoundsToEveryByteFloat) {
  for (int code = 0; code < 256; ++code) {
    const auto byte = static_cast<uint8_t>(code);
    const float e4m3 = e4m3_to_float(byte), e5m2 = e5m2_to_float(byte);
    EXPECT_TRUE(!std::isfinite(e4m3) || float_to_e4m3(e4m3) == byte) << code;
    EXPECT_TRUE(!std::isfinite(e5m2) || float_to_e5m2(e5m2) == byte) << code;
  }
  EXPECT_EQ(e4m3_to_float(float_to_e4m3(1e9f)), 448.f);
  EXPECT_EQ(e5m2_to_float(float_to_e5m2(-1e9f)), -57344.f);
  EXPECT_EQ(float_to_e4m3(0x1.1p0f), 0x38);  // a tie goes to the even code
  EXPECT_EQ(float_to_e4m3(0x1.3p0f), 0x3a);
  EXPECT_EQ(float_to_e4m3(0x1p-10f), 0x00);
  EXPECT_EQ(float_to_e4m3(0x1.8p-9f), 0x02);
}

}  // namespace
}  // namespace atelier
