// Tests of the safetensors reader, one per field that can lie, and of the writer.
#include "formats/safetensors.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <array>

#include "formats/checkpoint.h"
#include "formats/contents.h"
#include "formats/test_files.h"

namespace atelier {
namespace {

using test::error_of;
using test::safetensors_file;
using test::TestFolder;
using test::text_of;
using test::view;

FileContents read(const std::string& file) { return read_safetensors(view(file)); }

/// What the reader says about a header with 8 bytes of data.
std::string complaint(std::string_view header, std::string_view data = "01234567") {
  const std::string file = safetensors_file(header, data);
  const Error error = error_of([&] { read(file); });
  EXPECT_NE(error.code(), ErrorCode::internal) << header;
  return fmt::format("{} | {} | {}", error.facts().subject, error.facts().expected,
                     error.facts().found);
}

TEST(Safetensors, GivesTensorsInPlaceAndMetadata) {
  const FileContents contents = read(safetensors_file(
      R"({"__metadata__":{"format":"pt"},"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}})",
      "01234567"));
  EXPECT_EQ(contents.metadata, (Metadata{{"format", "pt"}}));
  const TensorInfo& info = contents.tensors.at("a");
  EXPECT_EQ(info.shape, Shape{2});
  EXPECT_EQ(info.encoding, Encoding::f32);
  EXPECT_EQ(info.size, 8u);
  EXPECT_EQ(info.offset, 8u + 86u - 1u);
}

TEST(Safetensors, TakesEveryDtypeUnderItsName) {
  for (const EncodingInfo& row : encodings()) {
    if (row.safetensors.empty()) continue;
    const int bytes = row.block_bytes;
    const FileContents contents = read(safetensors_file(
        fmt::format(R"({{"a":{{"dtype":"{}","shape":[{}],"data_offsets":[0,{}]}}}})",
                    row.safetensors, row.block_elements, bytes),
        std::string(static_cast<size_t>(bytes), 'x')));
    EXPECT_EQ(contents.tensors.at("a").encoding, row.encoding);
  }
}

TEST(Safetensors, TakesAnEmptyFileAndUnknownFields) {
  EXPECT_TRUE(read(safetensors_file("{}")).tensors.empty());
  EXPECT_TRUE(read(safetensors_file(R"({"__metadata__":null}   )")).tensors.empty());
  EXPECT_EQ(read(safetensors_file(R"({"a":{"new":{"deep":[1,{"x":null}]},"dtype":"U8","shape":[1],)"
                                  R"("data_offsets":[0,1],"also":true}})",
                                  "x"))
                .tensors.size(),
            1u);
}

TEST(Safetensors, HeaderLengthLies) {
  const auto with_length = [](uint64_t length) {
    const std::string file = test::ByteBuilder().u64(length).raw("{}").bytes();
    return error_of([&] { read(file); });
  };
  EXPECT_EQ(with_length(3).facts().found, "2 left");
  EXPECT_EQ(with_length(99'000'000).facts().hint,
            "The file is cut short; download or copy it again");
  EXPECT_EQ(with_length(~0ull).facts().expected, "at most 100000000 bytes");
  const std::string tiny = "abc";
  EXPECT_EQ(error_of([&] { read(tiny); }).code(), ErrorCode::malformed);
}

TEST(Safetensors, HeaderIsNoObjectOfObjects) {
  EXPECT_EQ(complaint("{"), "header | JSON | an error at its byte 2");
  EXPECT_EQ(complaint("[]"), "header | an object | a list");
  EXPECT_EQ(complaint(R"({"a":5})"), "tensor 'a' | an object | 5");
  EXPECT_EQ(complaint(R"({"a":[]})"), "tensor 'a' | an object | a list");
  EXPECT_EQ(complaint(R"({"__metadata__":"x"})"), "__metadata__ | an object | text");
  EXPECT_EQ(complaint(R"({"__metadata__":{"k":5}})"), "metadata 'k' | text | 5");
  EXPECT_EQ(complaint(R"({"__metadata__":{"k":{}}})"), "metadata 'k' | text | an object");
  EXPECT_EQ(complaint("{\"a\xff\":{}}"), "header | JSON | an error at its byte 4");
  EXPECT_EQ(complaint(std::string("{\"a\":{\"x\":") + std::string(100000, '[')),
            "header | nesting of at most 16 | deeper");
}

TEST(Safetensors, DtypeLies) {
  EXPECT_EQ(complaint(R"({"a":{"shape":[8],"data_offsets":[0,8]}})"), "tensor 'a' | dtype | none");
  EXPECT_EQ(complaint(R"({"a":{"dtype":"F7","shape":[8],"data_offsets":[0,8]}})"),
            "tensor 'a' | a dtype of safetensors such as F16, BF16 or F8_E4M3 | 'F7'");
  EXPECT_EQ(complaint(R"({"a":{"dtype":7,"shape":[8],"data_offsets":[0,8]}})"),
            "tensor 'a' | dtype as text | 7");
  EXPECT_EQ(complaint(R"({"a":{"dtype":"U8","dtype":"U8","shape":[8],"data_offsets":[0,8]}})"),
            "tensor 'a' | one dtype | two");
}

TEST(Safetensors, ShapeLies) {
  EXPECT_EQ(complaint(R"({"a":{"dtype":"U8","data_offsets":[0,8]}})"), "tensor 'a' | shape | none");
  for (const char* shape :
       {"[-8]", "[8.0]", "[1e3]", "[18446744073709551615]", "[null]", "\"8\"", "[[8]]", "{}"})
    EXPECT_TRUE(
        complaint(fmt::format(R"({{"a":{{"dtype":"U8","shape":{},"data_offsets":[0,8]}}}})", shape))
            .starts_with("tensor 'a' | shape as a list of whole numbers"))
        << shape;
  EXPECT_EQ(complaint(R"({"a":{"dtype":"U8","shape":[7],"data_offsets":[0,8]}})"),
            "tensor 'a' | 7 bytes for U8 [7] | 8 (data_offsets [0, 8])");
  EXPECT_EQ(
      complaint(R"({"a":{"dtype":"U8","shape":[4294967296,4294967296],"data_offsets":[0,8]}})"),
      "tensor 'a' | a shape whose size fits in 63 bits | [4294967296, 4294967296]");
  std::string many = "1";
  for (int i = 0; i < 100000; ++i) many += ",1";
  EXPECT_EQ(complaint(R"({"a":{"dtype":"U8","shape":[)" + many + R"(],"data_offsets":[0,1]}})"),
            "tensor 'a' | at most 32 dimensions | 33");
}

TEST(Safetensors, OffsetsLie) {
  const auto with = [](std::string_view offsets) {
    return complaint(
        fmt::format(R"({{"a":{{"dtype":"U8","shape":[8],"data_offsets":{}}}}})", offsets));
  };
  EXPECT_EQ(with("[8,0]"), "tensor 'a' | data_offsets in rising order | [8, 0]");
  EXPECT_EQ(with("[8,16]"),
            "tensor 'a' | data within the 8 bytes behind the header | data_offsets [8, 16]");
  EXPECT_EQ(with("[18446744073709551608,18446744073709551615]"),
            "tensor 'a' | data within the 8 bytes behind the header | data_offsets "
            "[18446744073709551608, 18446744073709551615]");
  EXPECT_EQ(with("[0]"), "tensor 'a' | two data_offsets | 1");
  EXPECT_EQ(with("[0,8,9]"), "tensor 'a' | two data_offsets | more");
  EXPECT_EQ(with("[0,-8]"), "tensor 'a' | data_offsets as a list of two whole numbers | -8");
  EXPECT_EQ(complaint(R"({"a":{"dtype":"U8","shape":[8]}})"), "tensor 'a' | data_offsets | none");
}

TEST(Safetensors, TensorsOverlapOrLeaveBytesOut) {
  const auto two = [](std::string_view a, std::string_view b) {
    return complaint(fmt::format(R"({{"a":{{"dtype":"U8","shape":[4],"data_offsets":{}}},)"
                                 R"("b":{{"dtype":"U8","shape":[4],"data_offsets":{}}}}})",
                                 a, b));
  };
  EXPECT_TRUE(two("[0,4]", "[3,7]").starts_with("tensor 'b' | data after that of tensor 'a'"));
  EXPECT_TRUE(two("[0,4]", "[0,4]").starts_with("tensor 'b' | data after that of tensor 'a'"));
  EXPECT_TRUE(complaint(R"({"a":{"dtype":"U8","shape":[4],"data_offsets":[4,8]}})")
                  .find("leaving none out") != std::string::npos);
  EXPECT_TRUE(complaint(R"({"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}})")
                  .starts_with("end of the file | the last tensor to end at byte"));
}

TEST(Safetensors, NamesComeTwice) {
  EXPECT_EQ(complaint(R"({"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},)"
                      R"("a":{"dtype":"U8","shape":[4],"data_offsets":[4,8]}})"),
            "tensor 'a' | every name once | it twice");
  EXPECT_EQ(complaint(R"({"__metadata__":{"k":"1","k":"2"}})"),
            "metadata 'k' | every key once | it twice");
  EXPECT_EQ(complaint(R"({"__metadata__":{},"__metadata__":{}})"),
            "header | one __metadata__ | two");
}

TEST(Safetensors, EveryCutOfAFileIsRefused) {
  const std::string whole =
      safetensors_file(R"({"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}})", "1234");
  for (size_t size = 0; size < whole.size(); ++size) {
    const std::string part = whole.substr(0, size);
    EXPECT_EQ(error_of([&] { read(part); }).code(), ErrorCode::malformed) << size;
  }
}

TEST(SafetensorsWriter, WritesWhatTheReaderReads) {
  const TestFolder folder;
  const std::array<TensorSpec, 3> specs = {TensorSpec{"odd", {3}, Encoding::f8_e4m3},
                                           TensorSpec{"b \"\\ \u2603", {1, 2}, Encoding::f32},
                                           TensorSpec{"empty", {0}, Encoding::f32}};
  const std::array<std::string, 3> data = {"abc", "01234567", ""};
  size_t calls = 0;
  write_safetensors(folder.path / "a.safetensors", specs,
                    [&](size_t i) { return ++calls, view(data[i]); }, {{"k", "v\n"}});
  EXPECT_EQ(calls, 3u);
  const auto file = open_checkpoint(folder.path / "a.safetensors");
  EXPECT_EQ(file->format(), "safetensors");
  EXPECT_EQ(file->metadata(), (Metadata{{"k", "v\n"}}));
  ASSERT_EQ(file->tensors().size(), 3u);
  for (size_t i = 0; i < 3; ++i) {
    EXPECT_EQ(text_of(file->bytes(specs[i].name)), data[i]);
    EXPECT_EQ(file->tensors().at(specs[i].name).shape, specs[i].shape);
  }
  EXPECT_EQ(file->tensors().at(specs[1].name).offset % 8, 0u);
}

TEST(SafetensorsWriter, WritesTheBytesOfTheReferencePackage) {
  const TestFolder folder;
  const std::array<TensorSpec, 3> specs = {TensorSpec{"half", {3}, Encoding::f16},
                                           TensorSpec{"b", {4}, Encoding::f32},
                                           TensorSpec{"a", {2, 1}, Encoding::f32}};
  const std::array<float, 4> b = {0, 1, 2, 3};
  const std::array<float, 2> a = {1, 1};
  const std::array<uint16_t, 3> half = {0x3c00, 0x3c00, 0x3c00};
  const std::array<std::span<const std::byte>, 3> data = {
      std::as_bytes(std::span(half)), std::as_bytes(std::span(b)), std::as_bytes(std::span(a))};
  write_safetensors(folder.path / "plain.safetensors", specs, [&](size_t i) { return data[i]; },
                    {{"format", "pt"}});
  const auto bytes_of = [](const std::filesystem::path& path) {
    return text_of(MappedFile::open(path).bytes());
  };
  EXPECT_EQ(bytes_of(folder.path / "plain.safetensors"),
            bytes_of(std::filesystem::path(ATELIER_SOURCE_DIR) /
                     "tests/golden/formats/plain.safetensors"));
}

TEST(SafetensorsWriter, RefusesWhatItCannotWriteAndLeavesNoFile) {
  const TestFolder folder;
  const auto write = [&](std::vector<TensorSpec> specs, std::string data, Metadata metadata = {}) {
    return error_of([&] {
             write_safetensors(
                 folder.path / "a.safetensors", specs, [&](size_t) { return view(data); },
                 metadata);
           })
        .code();
  };
  const ErrorCode refused = ErrorCode::invalid_argument;
  EXPECT_EQ(write({{"a", {1}, Encoding::u8}, {"a", {1}, Encoding::u8}}, "x"), refused);
  EXPECT_EQ(write({{"a", {32}, Encoding::q4_0}}, std::string(18, 'x')), refused);
  EXPECT_EQ(write({{"a", {2}, Encoding::u8}}, "x"), refused);
  EXPECT_EQ(write({{"a", {-1}, Encoding::u8}}, "x"), refused);
  EXPECT_EQ(write({{"a\xff", {1}, Encoding::u8}}, "x"), refused);
  EXPECT_EQ(write({{"__metadata__", {1}, Encoding::u8}}, "x"), refused);
  EXPECT_EQ(write({{"a", {1}, Encoding::u8}}, "x", {{"k", "\xff"}}), refused);
  EXPECT_TRUE(std::filesystem::is_empty(folder.path));
}

}  // namespace
}  // namespace atelier
