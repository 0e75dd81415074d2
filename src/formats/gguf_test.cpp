// Tests of the GGUF reader: values, shapes, one test per field that can lie, and its speed.
#include "formats/gguf.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <cstdio>

#include "formats/checkpoint.h"
#include "formats/contents.h"
#include "formats/test_files.h"

namespace atelier {
namespace {

using test::ByteBuilder;
using test::error_of;
using test::view;

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr double kOpenSeconds = 5;  // a sanitizer slows every byte that is looked at
#else
constexpr double kOpenSeconds = 0.2;
#endif

/// One tensor info; lies are written by setting fields.
struct Tensor {
  std::string name = "t";
  std::vector<uint64_t> dims = {4};
  uint32_t type = 0;
  uint64_t offset = 0;
};

/// A GGUF file: header, ready-made metadata pairs, tensors, alignment, data.
struct File {
  std::string magic = "GGUF";
  uint32_t version = 3;
  std::vector<std::string> pairs = {};
  std::vector<Tensor> tensors = {Tensor{}};
  std::string data = std::string(64, 'd');
  size_t alignment = 32;
  std::optional<uint64_t> tensor_count = {}, pair_count = {};
  std::optional<uint32_t> rank = {};
  std::optional<uint64_t> name_length = {};

  std::string bytes() const {
    ByteBuilder file;
    file.raw(magic).u32(version).u64(tensor_count.value_or(tensors.size()));
    file.u64(pair_count.value_or(pairs.size()));
    for (const std::string& pair : pairs) file.raw(pair);
    for (const Tensor& tensor : tensors) {
      file.u64(name_length.value_or(tensor.name.size())).raw(tensor.name);
      file.u32(rank.value_or(static_cast<uint32_t>(tensor.dims.size())));
      for (const uint64_t dim : tensor.dims) file.u64(dim);
      file.u32(tensor.type).u64(tensor.offset);
    }
    return file.align(alignment).raw(data).bytes();
  }
};

template <class T>
std::string pair(std::string_view key, uint32_t type, T value) {
  return ByteBuilder().text(key).u32(type).number(value).bytes();
}
std::string text_pair(std::string_view key, std::string_view value) {
  return ByteBuilder().text(key).u32(8).text(value).bytes();
}
template <class T>
std::string array_pair(std::string_view key, uint32_t type, const std::vector<T>& values) {
  ByteBuilder builder;
  builder.text(key).u32(9).u32(type).u64(values.size());
  for (const T value : values) builder.number(value);
  return builder.bytes();
}

std::string complaint(const File& file) {
  const std::string bytes = file.bytes();
  const Error error = error_of([&] { read_gguf(view(bytes)); });
  EXPECT_NE(error.code(), ErrorCode::internal);
  return fmt::format("{} | {} | {}", error.facts().subject, error.facts().expected,
                     error.facts().found);
}

TEST(Gguf, ReversesDimensionsAndPlacesData) {
  const std::string bytes = File{.tensors = {Tensor{"a", {2, 3}, 0, 32}, Tensor{"b", {}, 1, 0}},
                                 .data = std::string(56, 'd')}
                                .bytes();
  const FileContents contents = read_gguf(view(bytes));
  EXPECT_EQ(contents.tensors.at("a").shape, (Shape{3, 2}));
  EXPECT_EQ(contents.tensors.at("a").size, 24u);
  EXPECT_EQ(contents.tensors.at("a").offset, bytes.size() - 24);
  EXPECT_EQ(contents.tensors.at("b").shape, Shape());
  EXPECT_EQ(contents.tensors.at("b").size, 2u);
}

TEST(Gguf, TakesEveryTensorTypeWithItsBlocks) {
  for (const EncodingInfo& row : encodings()) {
    if (row.ggml_type < 0) continue;
    const Tensor tensor{"t",
                        {2 * static_cast<uint64_t>(row.block_elements), 3},
                        static_cast<uint32_t>(row.ggml_type),
                        0};
    const std::string bytes =
        File{.tensors = {tensor},
             .data = std::string(6u * static_cast<size_t>(row.block_bytes), 'd')}
            .bytes();
    const FileContents contents = read_gguf(view(bytes));
    EXPECT_EQ(contents.tensors.at("t").encoding, row.encoding);
    EXPECT_EQ(contents.tensors.at("t").size, 6u * static_cast<size_t>(row.block_bytes)) << row.name;
  }
}

TEST(Gguf, AnswersTypedQuestionsOnlyWhereTheyFit) {
  const std::string bytes =
      File{.version = 2,
           .pairs = {pair<int16_t>("i", 3, -5), pair<double>("d", 12, 0.5), text_pair("s", "x"),
                     pair<uint8_t>("b", 7, 1), array_pair<int32_t>("a", 5, {1, -2}),
                     pair<uint64_t>("big", 10, ~0ull), array_pair<float>("f", 6, {0.5f})}}
          .bytes();
  const FileContents contents = read_gguf(view(bytes));
  const GgufMetadata& gguf = contents.gguf;
  EXPECT_EQ(gguf.at("i").integer(), -5);
  EXPECT_EQ(gguf.at("i").number(), -5.0);
  EXPECT_EQ(gguf.at("i").text(), std::nullopt);
  EXPECT_EQ(gguf.at("d").number(), 0.5);
  EXPECT_EQ(gguf.at("d").integer(), std::nullopt);
  EXPECT_EQ(gguf.at("s").text(), "x");
  EXPECT_EQ(gguf.at("s").count(), 0u);
  EXPECT_EQ(gguf.at("b").boolean(), true);
  EXPECT_EQ(gguf.at("b").integer(), std::nullopt);
  EXPECT_EQ(gguf.at("a").integers(), (std::vector<int64_t>{1, -2}));
  EXPECT_EQ(gguf.at("a").numbers(), (std::vector<double>{1, -2}));
  EXPECT_TRUE(gguf.at("a").texts().empty());
  EXPECT_EQ(gguf.at("a").describe(), "[2 x i32]");
  EXPECT_EQ(gguf.at("f").numbers(), std::vector<double>{0.5});
  EXPECT_TRUE(gguf.at("f").integers().empty());
  EXPECT_EQ(gguf.at("big").integer(), std::nullopt);
  EXPECT_EQ(gguf.at("big").describe(), "18446744073709551615");
  EXPECT_EQ(contents.metadata.at("i"), "-5");
  EXPECT_FALSE(contents.metadata.contains("a"));
}

TEST(Gguf, LongOrBinaryTextsStayViews) {
  const std::string bytes =
      File{.pairs = {text_pair("long", std::string(70000, 'x')), text_pair("binary", "\xff\xfe")}}
          .bytes();
  const FileContents contents = read_gguf(view(bytes));
  EXPECT_TRUE(contents.metadata.empty());
  EXPECT_EQ(contents.gguf.at("long").text()->size(), 70000u);
}

TEST(Gguf, AlignmentIsObeyed) {
  const std::string bytes =
      File{.pairs = {pair<uint32_t>("general.alignment", 4, 128)}, .alignment = 128}.bytes();
  EXPECT_EQ(read_gguf(view(bytes)).tensors.at("t").offset % 128, 0u);
  for (const uint32_t bad : {0u, 3u, 48u, 1u << 30})
    EXPECT_EQ(
        complaint({.pairs = {pair<uint32_t>("general.alignment", 4, bad)}}),
        fmt::format("metadata 'general.alignment' | a u32 power of two of at most 1048576 | {}",
                    bad));
  EXPECT_EQ(complaint({.pairs = {text_pair("general.alignment", "32")}}),
            "metadata 'general.alignment' | a u32 power of two of at most 1048576 | a text");
}

TEST(Gguf, OriginalShapesReplaceFoldedOnes) {
  const auto shape = [](const std::vector<int32_t>& extents) {
    return array_pair<int32_t>("comfy.gguf.orig_shape.t", 5, extents);
  };
  const std::string bytes = File{.pairs = {shape({2, 1, 2, 1})}}.bytes();
  EXPECT_EQ(read_gguf(view(bytes)).tensors.at("t").shape, (Shape{2, 1, 2, 1}));
  const std::string subject = "metadata 'comfy.gguf.orig_shape.t' | ";
  EXPECT_EQ(complaint({.pairs = {shape({5})}}), subject + "4 elements, as in [4] | [5]");
  EXPECT_EQ(complaint({.pairs = {shape({-2, -2})}}),
            subject + "extents of zero or more | [-2, -2]");
  EXPECT_EQ(complaint({.pairs = {shape({})}}),
            subject + "an array of 1 to 32 integers | [0 x i32]");
  EXPECT_EQ(complaint({.pairs = {shape(std::vector<int32_t>(33, 1))}}),
            subject + "an array of 1 to 32 integers | [33 x i32]");
  EXPECT_EQ(complaint({.pairs = {text_pair("comfy.gguf.orig_shape.t", "4")}}),
            subject + "an array of 1 to 32 integers | a text");
  const std::string other =
      File{.pairs = {array_pair<int32_t>("comfy.gguf.orig_shape.none", 5, {9})}}.bytes();
  EXPECT_EQ(read_gguf(view(other)).tensors.size(), 1u);
}

TEST(Gguf, MagicAndVersionLie) {
  EXPECT_EQ(complaint({.magic = "GGML"}), "header | the magic number GGUF | other bytes");
  const std::string expected = "header | GGUF version 2 or 3, little-endian | ";
  EXPECT_EQ(complaint({.version = 1}), expected + "version 1");
  EXPECT_EQ(complaint({.version = 4}), expected + "version 4");
  EXPECT_EQ(complaint({.version = 0}), expected + "version 0");
  EXPECT_EQ(complaint({.version = 0x03000000}), expected + "a big-endian file");
}

TEST(Gguf, CountsLie) {
  EXPECT_TRUE(complaint({.tensor_count = ~0ull}).starts_with("header | at most "));
  EXPECT_TRUE(complaint({.pair_count = 1ull << 40}).starts_with("header | at most "));
  // A count one too high reads data as a name.
  EXPECT_NE(complaint({.tensor_count = 2}).find("tensor name at byte"), std::string::npos);
}

TEST(Gguf, NamesLie) {
  EXPECT_EQ(complaint({.name_length = 1ull << 60}),
            "tensor name at byte 24 | at most 65535 bytes | 1152921504606846976");
  EXPECT_EQ(complaint({.name_length = 65535}).substr(0, 28), "header | 65535 bytes of a na");
  EXPECT_EQ(complaint({.tensors = {Tensor{"\xff"}}}),
            "tensor name at byte 24 | UTF-8 | '\xef\xbf\xbd'");
  EXPECT_EQ(complaint({.tensors = {Tensor{}, Tensor{.offset = 32}}}),
            "tensor 't' | every name once | it twice");
  EXPECT_EQ(complaint({.pairs = {text_pair("k", "1"), text_pair("k", "2")}}),
            "metadata 'k' | every key once | it twice");
}

TEST(Gguf, ValueTypesLie) {
  EXPECT_EQ(complaint({.pairs = {pair<uint32_t>("k", 13, 0)}}),
            "metadata 'k' | a value type from 0 to 12 | 13");
  EXPECT_EQ(complaint({.pairs = {pair<uint8_t>("k", 7, 2)}}),
            "metadata 'k' | a boolean of 0 or 1 | 2");
  EXPECT_EQ(
      complaint({.pairs = {ByteBuilder().text("k").u32(8).u64(1ull << 50).bytes()}}).substr(0, 41),
      "header | 1125899906842624 bytes of a text");
}

TEST(Gguf, ArraysLie) {
  const auto array = [](uint32_t type, uint64_t count) {
    return File{.pairs = {ByteBuilder().text("k").u32(9).u32(type).u64(count).bytes()}};
  };
  EXPECT_TRUE(complaint(array(4, 1ull << 62)).starts_with("metadata 'k' | an array within the "));
  EXPECT_TRUE(complaint(array(8, ~0ull)).starts_with("metadata 'k' | an array within the "));
  EXPECT_EQ(complaint(array(99, 1)), "metadata 'k' | a value type from 0 to 12 | 99");
  EXPECT_EQ(complaint({.pairs = {array_pair<uint8_t>("k", 7, {1, 0, 9})}}),
            "metadata 'k' | a boolean of 0 or 1 | 9");
  ByteBuilder bomb;
  bomb.text("k").u32(9);
  for (int i = 0; i < 1000; ++i) bomb.u32(9).u64(1);
  EXPECT_EQ(complaint({.pairs = {bomb.bytes()}}),
            "metadata 'k' | arrays nested at most 4 deep | deeper");
}

TEST(Gguf, NestedArraysWithinTheLimitAreSkippedWhole) {
  ByteBuilder nested;
  nested.text("k").u32(9).u32(9).u64(2).u32(4).u64(1).u32(7).u32(8).u64(1).text("x");
  const std::string bytes = File{.pairs = {nested.bytes(), text_pair("after", "y")}}.bytes();
  const FileContents contents = read_gguf(view(bytes));
  EXPECT_EQ(contents.gguf.at("k").describe(), "[2 x array]");
  EXPECT_EQ(contents.metadata.at("after"), "y");
}

TEST(Gguf, DimensionsLie) {
  const auto with = [](std::vector<uint64_t> dims, uint32_t type = 0) {
    return complaint({.tensors = {Tensor{"t", std::move(dims), type, 0}}});
  };
  EXPECT_EQ(complaint({.rank = 0xFFFFFFFF}), "tensor 't' | at most 32 dimensions | 4294967295");
  EXPECT_EQ(with({~0ull}), "tensor 't' | extents below 2^63 | 18446744073709551615");
  EXPECT_EQ(with({1ull << 40, 1ull << 40}),
            "tensor 't' | a shape whose size fits in 63 bits | [1099511627776, 1099511627776]");
  EXPECT_EQ(with({33, 32}, 8), "tensor 't' | rows of whole 32-element blocks | rows of 33");
  EXPECT_TRUE(with({1ull << 20}).starts_with("tensor 't' | data within bytes "));
}

TEST(Gguf, TensorTypesLie) {
  const auto with = [](uint32_t type) {
    return complaint({.tensors = {Tensor{"t", {32}, type, 0}}});
  };
  EXPECT_EQ(with(77), "tensor 't' | a tensor type of GGUF | number 77");
  EXPECT_EQ(with(31), "tensor 't' | a tensor type of GGUF | Q4_0_4_4, which was withdrawn");
  EXPECT_EQ(with(4), "tensor 't' | a tensor type of GGUF | Q4_2, which was withdrawn");
}

TEST(Gguf, OffsetsLie) {
  const auto with = [](uint64_t offset) {
    return complaint({.tensors = {Tensor{"a", {8}, 0, 0}, Tensor{"t", {8}, 0, offset}}});
  };
  EXPECT_EQ(with(33), "tensor 't' | an offset aligned to 32 | 33");
  EXPECT_TRUE(with(64).starts_with("tensor 't' | data within bytes "));
  EXPECT_EQ(with(~0ull - 31), "tensor 't' | an offset within the file | 18446744073709551584");
  EXPECT_NE(with(0).find("'t' | data after that of tensor 'a'"), std::string::npos);
}

TEST(Gguf, PartsOfASplitModelAreRefused) {
  EXPECT_EQ(complaint({.pairs = {pair<uint16_t>("split.count", 2, 3)}}),
            "metadata 'split.count' | a whole model | one of 3 parts");
}

TEST(Gguf, EveryCutOfAFileIsRefused) {
  const std::string whole = File{.pairs = {text_pair("k", "v"), array_pair<int32_t>("a", 5, {1})},
                                 .data = std::string(16, 'd')}
                                .bytes();
  for (size_t size = 0; size < whole.size(); ++size) {
    const std::string part = whole.substr(0, size);
    EXPECT_EQ(error_of([&] { read_gguf(view(part)); }).code(), ErrorCode::malformed) << size;
  }
}

TEST(Gguf, AVocabularyOf256000TextsOpensQuickly) {
  constexpr uint64_t kTokens = 256'000;
  ByteBuilder tokens, scores, merges;
  tokens.text("tokenizer.ggml.tokens").u32(9).u32(8).u64(kTokens);
  merges.text("tokenizer.ggml.merges").u32(9).u32(8).u64(kTokens);
  scores.text("tokenizer.ggml.scores").u32(9).u32(6).u64(kTokens);
  for (uint64_t i = 0; i < kTokens; ++i) {
    tokens.text(fmt::format("token{}", i));
    merges.text(fmt::format("tok en{}", i));
    scores.number(-static_cast<float>(i));
  }
  const test::TestFolder folder;
  const auto path = folder.write(
      "big.gguf", File{.pairs = {tokens.bytes(), merges.bytes(), scores.bytes()}}.bytes());
  // The best of several, so that a busy machine does not fail the test.
  double opened = 1e9, listed = 1e9;
  for (int i = 0; i < 5; ++i) {
    const auto begin = std::chrono::steady_clock::now();
    const auto seconds = [&] {
      return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
    };
    const auto file = open_checkpoint(path);
    opened = std::min(opened, seconds());
    const auto texts = file->gguf().at("tokenizer.ggml.tokens").texts();
    listed = std::min(listed, seconds());
    ASSERT_EQ(texts.size(), kTokens);
    EXPECT_EQ(texts.back(), "token255999");
    EXPECT_EQ(file->gguf().at("tokenizer.ggml.scores").numbers()[7], -7);
  }
  EXPECT_LT(opened, kOpenSeconds);
  std::printf("opened in %.1f ms, tokens listed after %.1f ms\n", opened * 1e3, listed * 1e3);
}

}  // namespace
}  // namespace atelier
