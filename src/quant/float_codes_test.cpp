// Every code of every small float format against libtorch's own conversions.
#include "quant/codec/float_codes.h"

#include <c10/util/BFloat16.h>
#include <c10/util/Float8_e4m3fn.h>
#include <c10/util/Float8_e5m2.h>
#include <c10/util/Half.h>
#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <random>

namespace atelier {
namespace {

void expect_same(float ours, float theirs, uint32_t code) {
  if (std::isnan(theirs))
    EXPECT_TRUE(std::isnan(ours)) << code;
  else
    EXPECT_EQ(bits_of(ours), bits_of(theirs)) << code;
}

TEST(FloatCodes, WidenEveryEightBitCode) {
  for (uint32_t code = 0; code < 256; ++code) {
    const auto byte = static_cast<uint8_t>(code);
    expect_same(e4m3_to_float(byte), std::bit_cast<c10::Float8_e4m3fn>(byte), code);
    expect_same(e5m2_to_float(byte), std::bit_cast<c10::Float8_e5m2>(byte), code);
  }
}

TEST(FloatCodes, WidenAndNarrowEverySixteenBitCode) {
  for (uint32_t code = 0; code < 65536; ++code) {
    const auto word = static_cast<uint16_t>(code);
    expect_same(half_to_float(word), std::bit_cast<c10::Half>(word), code);
    expect_same(bfloat16_to_float(word), std::bit_cast<c10::BFloat16>(word), code);
    if (!std::isnan(half_to_float(word))) {
      EXPECT_EQ(float_to_half(half_to_float(word)), word);
    }
    if (!std::isnan(bfloat16_to_float(word))) {
      EXPECT_EQ(float_to_bfloat16(bfloat16_to_float(word)), word);
    }
  }
}

TEST(FloatCodes, RoundToTheNearestEvenLikeLibtorch) {
  std::mt19937 random(7);
  for (int i = 0; i < 2'000'000; ++i) {
    const float value = float_from_bits(static_cast<uint32_t>(random()));
    if (std::isnan(value)) continue;
    EXPECT_EQ(float_to_half(value), c10::Half(value).x) << value;
    EXPECT_EQ(float_to_bfloat16(value), c10::BFloat16(value).x) << value;
  }
  EXPECT_TRUE(std::isnan(half_to_float(float_to_half(std::nanf("")))));
  EXPECT_TRUE(std::isnan(bfloat16_to_float(float_to_bfloat16(std::nanf("")))));
}

}  // namespace
}  // namespace atelier
