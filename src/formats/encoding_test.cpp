// Tests of the encoding table and of sizes.
#include "formats/encoding.h"

#include <gtest/gtest.h>

#include <set>

#include "formats/layout.h"
#include "formats/test_files.h"

namespace atelier {
namespace {

TEST(Encoding, NumbersNamesAndDtypesAreUniqueAndFindTheirRow) {
  std::set<std::string_view> names, dtypes;
  std::set<int32_t> numbers;
  for (const EncodingInfo& row : encodings()) {
    EXPECT_EQ(encoding_info(row.encoding).name, row.name);
    EXPECT_TRUE(names.insert(row.name).second) << row.name;
    EXPECT_EQ(encoding_from_name(row.name), row.encoding);
    if (row.ggml_type >= 0) {
      EXPECT_TRUE(numbers.insert(row.ggml_type).second) << row.name;
      EXPECT_EQ(encoding_from_ggml(static_cast<uint32_t>(row.ggml_type)), row.encoding);
    }
    if (!row.safetensors.empty()) {
      EXPECT_TRUE(dtypes.insert(row.safetensors).second) << row.name;
      EXPECT_EQ(encoding_from_safetensors(row.safetensors), row.encoding);
    }
  }
  EXPECT_EQ(encoding_from_ggml(0xFFFFFFFF), std::nullopt);
  EXPECT_EQ(encoding_from_ggml(4), std::nullopt);
  EXPECT_EQ(encoding_from_safetensors(""), std::nullopt);
  EXPECT_EQ(encoding_from_name("Q9_Z"), std::nullopt);
}

TEST(Encoding, BlockSizesAreThoseOfTheBlockStructures) {
  const auto bits = [](std::string_view name) {
    const EncodingInfo& row = encoding_info(*encoding_from_name(name));
    return 8.0 * row.block_bytes / row.block_elements;
  };
  EXPECT_EQ(bits("Q4_0"), 4.5);
  EXPECT_EQ(bits("Q8_1"), 9.0);
  EXPECT_EQ(bits("Q4_K"), 4.5);
  EXPECT_EQ(bits("Q6_K"), 6.5625);
  EXPECT_EQ(bits("IQ4_XS"), 4.25);
  EXPECT_EQ(bits("TQ1_0"), 1.6875);
  EXPECT_EQ(bits("TQ2_0"), 2.0625);
  EXPECT_EQ(bits("MXFP4"), 4.25);
  EXPECT_EQ(bits("NVFP4"), 4.5);
  EXPECT_EQ(bits("F6_E2M3"), 6);
}

TEST(EncodedSize, CountsWholeBlocks) {
  EXPECT_EQ(encoded_size({2, 3}, Encoding::f16, "x"), 12u);
  EXPECT_EQ(encoded_size({}, Encoding::f32, "x"), 4u);
  EXPECT_EQ(encoded_size({5, 0, 7}, Encoding::f32, "x"), 0u);
  EXPECT_EQ(encoded_size({3, 256}, Encoding::q4_k, "x"), 432u);
  EXPECT_EQ(encoded_size({4, 2}, Encoding::f4, "x"), 4u);
}

TEST(EncodedSize, RefusesWhatCannotBe) {
  const int64_t big = int64_t{1} << 40;
  const auto message = [](const Shape& shape, Encoding encoding) {
    return test::error_of([&] { encoded_size(shape, encoding, "tensor 'a'"); });
  };
  EXPECT_STREQ(message({-1}, Encoding::f32).what(),
               "tensor 'a': expected extents of zero or more, found [-1]. The file is damaged or "
               "was written by a faulty program; download it again");
  EXPECT_EQ(message({big, big}, Encoding::u8).facts().expected,
            "a shape whose size fits in 63 bits");
  EXPECT_EQ(message({big, big, 0}, Encoding::u8).code(), ErrorCode::malformed);
  EXPECT_EQ(message({int64_t{1} << 61}, Encoding::f32).code(), ErrorCode::malformed);
  EXPECT_EQ(message({3, 33}, Encoding::q8_0).facts().expected, "whole Q8_0 blocks of 32 elements");
  EXPECT_EQ(message(Shape(33, 1), Encoding::u8).facts().found, "33");
}

TEST(Names, AreShortenedAndMadePrintableForMessages) {
  EXPECT_EQ(tensor_subject("a.b"), "tensor 'a.b'");
  EXPECT_EQ(in_quotes("a\xff"), "'a\xef\xbf\xbd'");
  EXPECT_LT(in_quotes(std::string(100000, 'x')).size(), 200u);
}

TEST(Names, AreUtf8OrNot) {
  for (const char* good : {"", "abc", "\xc3\xa9", "\xe2\x98\x83", "\xf0\x9f\x98\x80"})
    EXPECT_TRUE(is_utf8(good)) << good;
  for (const char* bad : {"\x80", "\xc0\xaf", "\xc3", "\xe0\x80\xaf", "\xed\xa0\x80",
                          "\xf0\x80\x80\xaf", "\xf4\x90\x80\x80", "\xff", "\xe2\x98"})
    EXPECT_FALSE(is_utf8(bad)) << bad;
}

}  // namespace
}  // namespace atelier
