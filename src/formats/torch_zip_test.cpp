// Tests of the torch reader: tensors of a hand-made pickle, one test per field that can lie.
#include "formats/torch_zip.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include "formats/checkpoint.h"
#include "formats/contents.h"
#include "formats/test_files.h"

namespace atelier {
namespace {

using namespace std::string_literals;
using test::ByteBuilder;
using test::error_of;
using test::text_of;
using test::view;
using test::zip_file;
using test::ZipPart;

std::string text(std::string_view value) {
  return ByteBuilder().raw("X").u32(static_cast<uint32_t>(value.size())).raw(value).bytes();
}
std::string integer(int64_t value) { return ByteBuilder().raw("\x8a\x08").number(value).bytes(); }
std::string tuple(const std::vector<std::string>& items) {
  std::string opcodes = "(";
  for (const std::string& item : items) opcodes += item;
  return opcodes + "t";
}
std::string integers(const std::vector<int64_t>& values) {
  std::vector<std::string> items;
  for (const int64_t value : values) items.push_back(integer(value));
  return tuple(items);
}
std::string dict(const std::vector<std::pair<std::string, std::string>>& items) {
  std::string opcodes = "}(";
  for (const auto& [key, value] : items) opcodes += text(key) + value;
  return opcodes + "u";
}

/// A tensor of storage "0", and the lies it may tell.
struct Tensor {
  std::string function = "_rebuild_tensor_v2";
  std::string storage_type = "ctorch\nFloatStorage\n";
  std::string key = "0";
  int64_t storage_elements = 6;
  int64_t offset = 0;
  std::vector<int64_t> shape = {2, 3};
  std::vector<int64_t> strides = {3, 1};
  std::string more = "\x89}";  // requires_grad, hooks, and what follows

  std::string storage() const {
    return tuple(
               {text("storage"), storage_type, text(key), text("cpu"), integer(storage_elements)}) +
           "Q";
  }
  std::string opcodes() const {
    return "ctorch._utils\n" + function + "\n(" + storage() + integer(offset) + integers(shape) +
           integers(strides) + more + "tR";
  }
};

const std::string kData = "000011112222333344445555";

std::string archive(const std::string& value, std::vector<ZipPart> more = {}) {
  std::vector<ZipPart> parts = {{.name = "x/data.pkl", .data = "\x80\x02" + value + "."},
                                {.name = "x/byteorder", .data = "little"},
                                {.name = "x/data/0", .data = kData}};
  parts.insert(parts.end(), more.begin(), more.end());
  return zip_file(parts);
}

std::string complaint(const std::string& file) {
  const Error error = error_of([&] { read_torch_zip(view(file)); });
  EXPECT_NE(error.code(), ErrorCode::internal);
  return fmt::format("{} | {} | {}", error.facts().subject, error.facts().expected,
                     error.facts().found);
}
std::string complaint(const Tensor& tensor) {
  return complaint(archive(dict({{"a", tensor.opcodes()}})));
}

TEST(TorchZip, PlacesTensorsInTheArchive) {
  const std::string file =
      archive(dict({{"a", Tensor{}.opcodes()},
                    {"tail", Tensor{.offset = 4, .shape = {2}, .strides = {1}}.opcodes()},
                    {"half", Tensor{.storage_type = "ctorch\nHalfStorage\n"}.opcodes()},
                    {"scalar", Tensor{.offset = 5, .shape = {}, .strides = {}}.opcodes()},
                    {"fp8", Tensor{.function = "_rebuild_tensor_v3",
                                   .storage_type = "ctorch.storage\nUntypedStorage\n",
                                   .more = "\x89}ctorch\nfloat8_e4m3fn\n"}
                                .opcodes()}}));
  const FileContents contents = read_torch_zip(view(file));
  const uint64_t data = file.find(kData);
  ASSERT_EQ(contents.tensors.size(), 5u);
  EXPECT_EQ(contents.tensors.at("a").offset, data);
  EXPECT_EQ(contents.tensors.at("a").size, 24u);
  EXPECT_EQ(contents.tensors.at("tail").offset, data + 16);
  EXPECT_EQ(contents.tensors.at("half").encoding, Encoding::f16);
  EXPECT_EQ(contents.tensors.at("half").size, 12u);
  EXPECT_EQ(contents.tensors.at("scalar").offset, data + 20);
  EXPECT_EQ(contents.tensors.at("fp8").encoding, Encoding::f8_e4m3);
  EXPECT_TRUE(contents.strides.empty());
}

TEST(TorchZip, UnwrapsParametersAndSubclasses) {
  const std::string tensor = Tensor{}.opcodes();
  const std::string parameter = "ctorch._utils\n_rebuild_parameter\n(" + tensor + "\x88}tR";
  const std::string arguments =
      "(" + Tensor{}.storage() + integer(0) + integers({2}) + integers({1}) + "\x89}t";
  const std::string subclass =
      "ctorch._tensor\n_rebuild_from_type_v2\n(ctorch._utils\n_rebuild_tensor_v2\n"
      "ctorch.nn.parameter\nParameter\n" +
      arguments + "}tR";
  const std::string file = archive(dict({{"p", parameter}, {"s", subclass}}));
  const FileContents contents = read_torch_zip(view(file));
  EXPECT_EQ(contents.tensors.at("p").shape, (Shape{2, 3}));
  EXPECT_EQ(contents.tensors.at("s").shape, Shape{2});
}

TEST(TorchZip, GathersTensorsStoredInAnotherOrder) {
  const test::TestFolder folder;
  const auto path = folder.write(
      "a.pt",
      archive(dict({{"t", Tensor{.shape = {3, 2}, .strides = {1, 3}}.opcodes()},
                    {"column", Tensor{.offset = 1, .shape = {2, 1}, .strides = {3, 1}}.opcodes()},
                    {"one", Tensor{.shape = {1, 3}, .strides = {99, 1}}.opcodes()}})));
  const auto file = open_checkpoint(path);
  EXPECT_EQ(text_of(file->bytes("t")), "000033331111444422225555");
  EXPECT_EQ(file->bytes("t").data(), file->bytes("t").data());
  EXPECT_EQ(text_of(file->bytes("column")), "11114444");
  EXPECT_TRUE(file->tensors().at("t").strided);
  EXPECT_FALSE(file->tensors().at("one").strided);
  EXPECT_EQ(file->format(), "torch zip");
}

TEST(TorchZip, NamesTensorsByTheirPathAndUnwrapsAStateDict) {
  const std::string tensor = Tensor{}.opcodes();
  const std::string nested = archive(dict({{"a", dict({{"b", tensor}})},
                                           {"list", "](" + tensor + "K\x05" + tensor + "e"},
                                           {"epoch", integer(3)},
                                           {"name", text("x")}}));
  const FileContents contents = read_torch_zip(view(nested));
  std::vector<std::string> names;
  for (const auto& [name, info] : contents.tensors) names.push_back(name);
  EXPECT_EQ(names, (std::vector<std::string>{"a.b", "list.0", "list.2"}));
  EXPECT_EQ(contents.metadata, (Metadata{{"epoch", "3"}, {"name", "x"}}));
  const std::string training =
      archive(dict({{"optimizer", dict({{"m", tensor}})}, {"state_dict", dict({{"w", tensor}})}}));
  const FileContents unwrapped = read_torch_zip(view(training));
  EXPECT_EQ(unwrapped.tensors.size(), 1u);
  EXPECT_TRUE(unwrapped.tensors.contains("w"));
}

TEST(TorchZip, TheArchiveLies) {
  EXPECT_EQ(complaint(zip_file({{.name = "x/a.npy", .data = ""}})),
            "zip archive | a file of torch.save, with data.pkl | 1 entries without it");
  EXPECT_EQ(
      complaint(zip_file({{.name = "x/data.pkl", .data = ""}, {.name = "y/data.pkl", .data = ""}})),
      "zip archive | one data.pkl | 'x/data.pkl' and 'y/data.pkl'");
  EXPECT_EQ(complaint(archive("}", {{.name = "x/constants.pkl", .data = ""}})),
            "zip archive | tensors | a TorchScript program");
  EXPECT_EQ(complaint(zip_file({{.name = "x/data.pkl", .data = "\x80\x02}."},
                                {.name = "x/byteorder", .data = "big"}})),
            "zip entry 'byteorder' | little | 'big'");
  EXPECT_EQ(complaint(zip_file({{.name = "x/data.pkl", .data = "\x80\x02}.", .method = 8}})),
            "zip entry 'x/data.pkl' | stored data | deflate compression");
}

TEST(TorchZip, ALoneTensorGetsAName) {
  const FileContents contents = read_torch_zip(view(archive(Tensor{}.opcodes())));
  ASSERT_EQ(contents.tensors.size(), 1u);
  EXPECT_EQ(contents.tensors.at("tensor").shape, (Shape{2, 3}));
}

TEST(TorchZip, TheRootIsNoDictionary) {
  EXPECT_EQ(complaint(archive("]")), "data.pkl | a dictionary of tensors | another value");
  EXPECT_EQ(complaint(archive("}(N" + Tensor{}.opcodes() + "u")),
            "dictionary '' | keys of text or integers | another key");
}

TEST(TorchZip, StoragesLie) {
  EXPECT_EQ(complaint(Tensor{.key = "7"}),
            "tensor 'a' | its data in zip entry 'x/data/7' | no such entry");
  EXPECT_EQ(complaint(Tensor{.key = "../0"}),
            "tensor 'a' | its data in zip entry 'x/data/../0' | no such entry");
  EXPECT_EQ(complaint(Tensor{.storage_elements = 7}), "tensor 'a' | 28 bytes in storage '0' | 24");
  EXPECT_EQ(complaint(Tensor{.storage_elements = -1}),
            "tensor 'a' | the storage's length as an integer of at least 0 | -1");
  EXPECT_EQ(complaint(Tensor{.storage_elements = INT64_MAX}),
            "tensor 'a' | a storage whose size fits in 64 bits | 9223372036854775807 elements");
  EXPECT_EQ(complaint(Tensor{.storage_type = text("FloatStorage")}),
            "tensor 'a' | a reference to a storage | another value");
  EXPECT_EQ(complaint(Tensor{.storage_type = "ctorch\nQInt8Storage\n"}).substr(0, 12),
            "pickle byte ");
  const std::string no_reference =
      "ctorch._utils\n_rebuild_tensor\n(K\x01" + integer(0) + integers({}) + integers({}) + "tR";
  EXPECT_EQ(complaint(archive(dict({{"a", no_reference}}))),
            "tensor 'a' | a reference to a storage | another value");
}

TEST(TorchZip, StoragesOverlap) {
  // Entry data/1 lies within the bytes of data/0.
  const std::string inner = ByteBuilder()
                                .u32(0x04034b50)
                                .u16(20)
                                .u16(0)
                                .u16(0)
                                .u32(0)
                                .u32(0)
                                .u32(4)
                                .u32(4)
                                .u16(8)
                                .u16(0)
                                .raw(
                                    "x/data/1"
                                    "abcd")
                                .bytes();
  const std::string pickle = dict(
      {{"a", Tensor{.storage_elements = 10, .shape = {10}, .strides = {1}}.opcodes()},
       {"b", Tensor{.key = "1", .storage_elements = 1, .shape = {1}, .strides = {1}}.opcodes()}});
  std::vector<ZipPart> parts = {{.name = "x/data.pkl", .data = "\x80\x02" + pickle + "."},
                                {.name = "x/data/0", .data = inner},
                                {.name = "x/data/1", .data = "abcd"}};
  EXPECT_EQ(error_of([&] { read_torch_zip(view(zip_file(parts))); }).code(), ErrorCode::internal);
  parts[2].header = zip_file(parts).find(inner);
  EXPECT_EQ(complaint(zip_file(parts)), "storage '1' | bytes of its own | bytes of storage '0'");
}

TEST(TorchZip, ShapesLie) {
  const int64_t big = int64_t{1} << 40;
  EXPECT_EQ(complaint(Tensor{.shape = {-2, 3}}),
            "tensor 'a' | its size as an integer of at least 0 | -2");
  EXPECT_EQ(complaint(Tensor{.shape = {big, big}}),
            "tensor 'a' | a shape whose size fits in 63 bits | [1099511627776, 1099511627776]");
  EXPECT_EQ(complaint(Tensor{.shape = {2, 4}}),
            "tensor 'a' | elements within the 24 bytes of its storage | shape [2, 4], strides [3, "
            "1], offset 0");
  EXPECT_EQ(complaint(Tensor{.shape = std::vector<int64_t>(33, 1)}),
            "tensor 'a' | its size as a tuple of at most 32 integers | another value");
}

TEST(TorchZip, StridesAndOffsetsLie) {
  EXPECT_EQ(complaint(Tensor{.strides = {3}}), "tensor 'a' | 2 strides | 1");
  EXPECT_EQ(complaint(Tensor{.strides = {3, -1}}),
            "tensor 'a' | its strides as an integer of at least 0 | -1");
  for (const Tensor& tensor : {Tensor{.strides = {INT64_MAX, INT64_MAX}}, Tensor{.strides = {4, 1}},
                               Tensor{.offset = 1}, Tensor{.offset = INT64_MAX}})
    EXPECT_TRUE(complaint(tensor).starts_with("tensor 'a' | elements within the 24 bytes"));
  EXPECT_EQ(complaint(Tensor{.offset = -1}),
            "tensor 'a' | its offset as an integer of at least 0 | -1");
  EXPECT_EQ(complaint(Tensor{.shape = {int64_t{1} << 50, 3}, .strides = {0, 1}}),
            "tensor 'a' | each element stored once | an expanded view, strides [0, 1]");
}

TEST(TorchZip, CallsLie) {
  EXPECT_EQ(complaint(Tensor{.more = ""}), "tensor 'a' | 6 arguments of its rebuild function | 4");
  EXPECT_EQ(complaint(Tensor{.more = "\x89}}}"}),
            "tensor 'a' | 6 arguments of its rebuild function | 8");
  EXPECT_EQ(complaint(Tensor{.more = "\x89}" + dict({{"conj", "\x88"}})}),
            "tensor 'a' | a plain tensor | one with a conjugate or negative bit");
  EXPECT_EQ(complaint(Tensor{.function = "_rebuild_tensor_v3", .more = "\x89}K\x05"}),
            "tensor 'a' | a dtype | another value");
  EXPECT_EQ(complaint(archive(dict({{"a", "ctorch._utils\n_rebuild_parameter\n)R"}}))),
            "tensor 'a' | 1 or more arguments | 0");
  EXPECT_EQ(complaint(archive(dict({{"a", "ctorch\nFloatStorage\n)R"}}))),
            "tensor 'a' | a tensor | a call of another function");
  std::string wrapped = Tensor{}.opcodes();
  for (int i = 0; i < 20; ++i)
    wrapped = "ctorch._utils\n_rebuild_parameter\n(" + wrapped + "\x88}tR";
  EXPECT_EQ(complaint(archive(dict({{"a", wrapped}}))),
            "tensor 'a' | a tensor | a call of another function");
}

TEST(TorchZip, NamesComeTwice) {
  const std::string tensor = Tensor{}.opcodes();
  const std::string expected = "tensor 'a.b' | every name once | it twice";
  EXPECT_EQ(complaint(archive(dict({{"a.b", tensor}, {"a", dict({{"b", tensor}})}}))), expected);
  EXPECT_EQ(complaint(archive(dict({{"a.b", tensor}, {"a.b", tensor}}))), expected);
}

TEST(TorchZip, NestingIsBounded) {
  std::string deep, wide = "]q\x01";
  for (int i = 0; i < 100; ++i) deep += "}" + text("k");
  for (int i = 0; i < 100; ++i) deep += "s";
  deep.insert(deep.size() - 100, "}");
  EXPECT_NE(complaint(archive(deep)).find("nested at most 32 deep"), std::string::npos);
  // A list that contains itself.
  EXPECT_NE(complaint(archive("}" + text("k") +
                              "]q\x01h\x01"
                              "as"))
                .find("nested at most 32 deep"),
            std::string::npos);
  // Thirty lists, each holding the one before twice.
  std::string doubling = "]q\x00"s;
  for (char i = 1; i < 31; ++i) doubling += "](h"s + char(i - 1) + "h"s + char(i - 1) + "eq"s + i;
  const std::string bomb = archive("}" + text("k") + "(" + doubling +
                                   "1h\x1e"
                                   "s");
  EXPECT_NE(complaint(bomb).find("at most 2000000 of them"), std::string::npos);
}

}  // namespace
}  // namespace atelier
