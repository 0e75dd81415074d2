// Decoding against libtorch's own conversions: every code of the narrow types, rounding, slices.
#include "quant/decode.h"

#include <gtest/gtest.h>

#include <cstring>
#include <limits>
#include <numeric>

#include "base/error.h"

namespace atelier {
namespace {

std::span<const std::byte> bytes_of(const at::Tensor& tensor) {
  return {static_cast<const std::byte*>(tensor.const_data_ptr()), tensor.nbytes()};
}

at::Tensor decoded(const at::Tensor& stored, Encoding encoding, at::ScalarType dtype) {
  at::Tensor out = at::empty(stored.sizes(), at::dtype(dtype));
  decode(bytes_of(stored), encoding, out, "t");
  return out;
}

// Equal bit for bit, except that any NaN equals any NaN.
void expect_same(const at::Tensor& a, const at::Tensor& b) {
  ASSERT_EQ(a.scalar_type(), b.scalar_type());
  const at::Tensor x = a.to(at::kFloat), y = b.to(at::kFloat);
  EXPECT_TRUE(at::equal(x.isnan(), y.isnan()));
  EXPECT_TRUE(at::equal(x.nan_to_num(0, 1, -1), y.nan_to_num(0, 1, -1)));
  EXPECT_TRUE(at::equal(x.signbit().logical_and(x.isnan().logical_not()),
                        y.signbit().logical_and(y.isnan().logical_not())));
}

struct Case {
  Encoding encoding;
  at::ScalarType stored;
};

class Decode : public ::testing::TestWithParam<Case> {};

// All codes of types up to 16 bits; otherwise values of every magnitude and the special ones.
at::Tensor samples(at::ScalarType stored) {
  const size_t width = c10::elementSize(stored);
  if (stored == at::kBool) return at::tensor({0, 1, 1, 0}, at::kByte).to(at::kBool);
  if (width == 1) return at::arange(256, at::kShort).to(at::kByte).view(stored);
  if (width == 2) return at::arange(65536, at::kInt).to(at::kShort).view(stored);
  if (c10::isIntegralType(stored, false))
    return at::randint(std::numeric_limits<int32_t>::min(), std::numeric_limits<int32_t>::max(),
                       {4099}, at::kLong)
        .to(stored);
  const float inf = std::numeric_limits<float>::infinity();
  const at::Tensor special = at::tensor({0.0f, -0.0f, inf, -inf, std::nanf(""), 1e-8f, 65519.9f,
                                         65520.0f, 1.00390625f, 1.01171875f, 3.4e38f, 1e-42f});
  const at::Tensor spread = at::randn({4099}) * at::exp(at::randn({4099}) * 12);
  return at::cat({special, spread}).to(stored);
}

TEST_P(Decode, EqualsTheConversionsOfLibtorch) {
  const at::Tensor stored = samples(GetParam().stored);
  for (const at::ScalarType dtype : {at::kFloat, at::kBFloat16, at::kHalf}) {
    SCOPED_TRACE(c10::toString(dtype));
    const at::Tensor expected = stored.to(at::kFloat).to(dtype);
    expect_same(decoded(stored, GetParam().encoding, dtype), expected);
  }
}

TEST_P(Decode, OfASliceIsTheSliceOfTheWhole) {
  const at::Tensor stored = samples(GetParam().stored);
  const at::Tensor whole = decoded(stored, GetParam().encoding, at::kBFloat16);
  const int64_t n = stored.numel();
  for (const int64_t begin : {int64_t{0}, int64_t{1}, n / 3})
    expect_same(decoded(stored.slice(0, begin, n - 1), GetParam().encoding, at::kBFloat16),
                whole.slice(0, begin, n - 1));
}

INSTANTIATE_TEST_SUITE_P(
    Plain, Decode,
    ::testing::Values(Case{Encoding::f64, at::kDouble}, Case{Encoding::f32, at::kFloat},
                      Case{Encoding::f16, at::kHalf}, Case{Encoding::bf16, at::kBFloat16},
                      Case{Encoding::f8_e4m3, at::kFloat8_e4m3fn},
                      Case{Encoding::f8_e5m2, at::kFloat8_e5m2}, Case{Encoding::i64, at::kLong},
                      Case{Encoding::i32, at::kInt}, Case{Encoding::i16, at::kShort},
                      Case{Encoding::i8, at::kChar}, Case{Encoding::u8, at::kByte},
                      Case{Encoding::boolean, at::kBool}),
    [](const auto& test) { return std::string(encoding_info(test.param.encoding).name); });

TEST(DecodeErrors, NameTheTensorAndTheType) {
  at::Tensor out = at::empty({32});
  const std::vector<std::byte> bytes(256);
  try {
    decode(bytes, Encoding::c64, out, "blk.0.weight");
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::unsupported);
    EXPECT_NE(std::string_view(error.what()).find("blk.0.weight"), std::string_view::npos);
    EXPECT_NE(std::string_view(error.what()).find("C64"), std::string_view::npos);
  }
}

TEST(DecodeErrors, RefuseAWrongNumberOfBytes) {
  at::Tensor out = at::empty({4});
  const std::vector<std::byte> bytes(15);
  EXPECT_THROW(decode(bytes, Encoding::f32, out, "t"), Error);
}

TEST(ViewOf, ReadsTheBytesInPlaceAndKeepsTheirOwner) {
  auto owner = std::make_shared<std::vector<float>>(std::vector<float>{1, 2, 3, 4, 5, 6});
  const std::weak_ptr<std::vector<float>> watch = owner;
  const auto bytes = std::as_bytes(std::span(*owner));
  const float* const data = owner->data();
  at::Tensor view = view_of(bytes, Encoding::f32, at::kFloat, {2, 3}, std::move(owner));
  EXPECT_EQ(view.const_data_ptr<float>(), data);
  EXPECT_EQ(view.sizes(), at::IntArrayRef({2, 3}));
  EXPECT_FALSE(watch.expired());
  view = at::Tensor();
  EXPECT_TRUE(watch.expired());
}

TEST(ViewOf, IsUndefinedForOtherDtypesAndUnalignedBytes) {
  auto owner = std::make_shared<std::vector<std::byte>>(17);
  const std::span<const std::byte> bytes(*owner);
  EXPECT_FALSE(view_of(bytes.first(16), Encoding::f32, at::kHalf, {4}, owner).defined());
  EXPECT_FALSE(view_of(bytes.subspan(1), Encoding::f32, at::kFloat, {4}, owner).defined());
  EXPECT_FALSE(view_of(bytes.first(16), Encoding::f32, at::kFloat, {5}, owner).defined());
}

}  // namespace
}  // namespace atelier
