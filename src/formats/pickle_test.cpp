// Tests of the pickle machine: what it lets in, what it refuses by name, and its limits.
#include "formats/pickle.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include "formats/test_files.h"

namespace atelier {
namespace {

using namespace std::string_literals;
using test::error_of;
using test::view;

PickleTree read(const std::string& opcodes) {
  static std::vector<std::string> kept;  // the tree's texts view the bytes
  kept.push_back("\x80\x02"s + opcodes + ".");
  return read_pickle(view(kept.back()));
}

std::string complaint(const std::string& opcodes) {
  const std::string bytes = "\x80\x02"s + opcodes;
  const Error error = error_of([&] { read_pickle(view(bytes)); });
  EXPECT_NE(error.code(), ErrorCode::internal);
  return fmt::format("{} | {} | {}", error.facts().subject, error.facts().expected,
                     error.facts().found);
}

const PickleValue& root(const PickleTree& tree) { return tree[tree.root]; }

TEST(Pickle, ReadsPlainValues) {
  EXPECT_EQ(root(read("K\x07")).integer, 7);
  EXPECT_EQ(root(read("M\x01\x02")).integer, 0x201);
  EXPECT_EQ(root(read("J\xff\xff\xff\xff")).integer, -1);
  EXPECT_EQ(root(read("\x8a\x02\x00\x80"s)).integer, -32768);
  EXPECT_EQ(root(read("\x8a\x00"s)).integer, 0);
  EXPECT_EQ(root(read("\x8a\x08\xff\xff\xff\xff\xff\xff\xff\x7f")).integer, INT64_MAX);
  EXPECT_EQ(root(read("\x8a\x09\x00\x00\x00\x00\x00\x00\x00\x00\x01"s)).kind, PickleKind::opaque);
  EXPECT_EQ(root(read("G\x3f\xe0\x00\x00\x00\x00\x00\x00"s)).real, 0.5);
  EXPECT_EQ(root(read("X\x02\x00\x00\x00hi"s)).text, "hi");
  EXPECT_EQ(root(read("\x8c\x02hi")).text, "hi");
  EXPECT_EQ(root(read("U\x02hi")).text, "hi");
  EXPECT_EQ(root(read("N")).kind, PickleKind::none);
  EXPECT_EQ(root(read("\x88")).integer, 1);
}

TEST(Pickle, ReadsContainersAndMemo) {
  const PickleTree tree =
      read("}q\x00(X\x01\x00\x00\x00\x61(K\x01K\x02tq\x01X\x01\x00\x00\x00\x62h\x01u"s);
  ASSERT_EQ(root(tree).kind, PickleKind::dict);
  ASSERT_EQ(root(tree).items.size(), 4u);
  EXPECT_EQ(tree[root(tree).items[0]].text, "a");
  EXPECT_EQ(root(tree).items[1], root(tree).items[3]);
  EXPECT_EQ(tree[root(tree).items[1]].items.size(), 2u);
  EXPECT_EQ(root(read("](K\x01K\x02"
                      "e"))
                .items.size(),
            2u);
  EXPECT_EQ(root(read("]K\x01"
                      "a"))
                .items.size(),
            1u);
  EXPECT_EQ(root(read("\x8f(K\x01\x90")).kind, PickleKind::set);
  EXPECT_EQ(root(read("K\x01\x85")).kind, PickleKind::tuple);
}

TEST(Pickle, OrderedDictionariesComeFilledLaterOrByPairs) {
  const std::string ordered = "ccollections\nOrderedDict\n";
  EXPECT_EQ(root(read(ordered + ")RK\x01K\x02s")).items.size(), 2u);
  EXPECT_EQ(root(read(ordered + "]](K\x01K\x02"
                                "ea\x85R"))
                .items.size(),
            2u);
  EXPECT_EQ(complaint(ordered + "]](K\x01"
                                "ea\x85R."),
            "pickle byte 35 | pairs of key and value | another value");
}

TEST(Pickle, AStateOfADictionaryIsDroppedAndOfAnythingElseRefused) {
  EXPECT_EQ(root(read("}}b")).kind, PickleKind::dict);
  EXPECT_EQ(complaint("]}b."),
            "pickle byte 4 | only opcodes that describe tensors | BUILD of an object other than a "
            "dictionary");
}

TEST(Pickle, ADictionaryOfParametersHasThoseOfItsState) {
  const std::string type = "ctorch.nn.modules.container\nParameterDict\n";
  const std::string state =
      "}(X\x08\x00\x00\x00training\x88X\x0b\x00\x00\x00_parameters}X\x01\x00\x00\x00*K\x07su"s;
  const PickleTree tree = read(type + ")\x81" + state + "b");
  ASSERT_EQ(root(tree).kind, PickleKind::dict);
  ASSERT_EQ(root(tree).items.size(), 2u);
  EXPECT_EQ(tree[root(tree).items[0]].text, "*");
  EXPECT_EQ(tree[root(tree).items[1]].integer, 7);
  EXPECT_TRUE(root(read(type + ")\x81}b")).items.empty());
  EXPECT_NE(complaint(type + ")\x81]b.").find("a state as a dictionary"), std::string::npos);
  for (const char* other : {"ccollections\nOrderedDict\n)\x81.", ")\x81.", "(\x81."})
    EXPECT_NE(complaint(other).find("only opcodes that describe tensors | NEWOBJ"),
              std::string::npos)
        << other;
  std::string doubling = type + ")\x81q\x01}(X\x0b\x00\x00\x00_parametersh\x01uq\x02"s;
  doubling += "0h\x01(K\x01K\x02u";  // its own parameters
  for (int i = 0; i < 30; ++i)
    doubling +=
        "h\x02"
        "b";
  EXPECT_NE(complaint(doubling + ".").find("at most 4000000 elements"), std::string::npos);
}

TEST(Pickle, ForeignGlobalsAreRefusedByName) {
  const auto global = [](const std::string& module, const std::string& name) {
    return complaint("c" + module + "\n" + name + "\n)R.");
  };
  const std::string expected = "pickle byte 2 | only globals that describe tensors | ";
  EXPECT_EQ(global("os", "system"), expected + "'os.system'");
  EXPECT_EQ(global("builtins", "eval"), expected + "'builtins.eval'");
  EXPECT_EQ(global("numpy.core.multiarray", "scalar"), expected + "'numpy.core.multiarray.scalar'");
  EXPECT_EQ(global("pytorch_lightning.callbacks.model_checkpoint", "ModelCheckpoint"),
            expected + "'pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint'");
  EXPECT_EQ(global("torch._utils", "_rebuild_sparse_tensor"),
            expected + "'torch._utils._rebuild_sparse_tensor'");
  EXPECT_EQ(global("torch.storage", "_load_from_bytes"),
            expected + "'torch.storage._load_from_bytes'");
  EXPECT_EQ(complaint("\x8c\x02os\x8c\x06system\x93."),
            "pickle byte 14 | only globals that describe tensors | 'os.system'");
  const Error error = error_of([] { read("cos\nsystem\n"); });
  EXPECT_EQ(error.code(), ErrorCode::unsupported);
  EXPECT_NE(error.facts().hint.find("safetensors.torch.save_file"), std::string::npos);
}

TEST(Pickle, ForeignOpcodesAreRefusedByName) {
  const std::vector<std::pair<std::string, std::string>> opcodes = {
      {"\x81", "NEWOBJ"},      {"\x92", "NEWOBJ_EX"}, {"i", "INST"}, {"o", "OBJ"},
      {"P", "PERSID"},         {"\x82", "EXT1"},      {"I", "INT"},  {"S", "STRING"},
      {"\x97", "NEXT_BUFFER"}, {"\x8b", "LONG4"},     {"2", "DUP"},
  };
  for (const auto& [code, name] : opcodes)
    EXPECT_EQ(complaint("}" + code),
              "pickle byte 3 | only opcodes that describe tensors | " + name);
  EXPECT_EQ(complaint("\x01"), "pickle byte 2 | an opcode | byte 0x01");
}

TEST(Pickle, TheStackLies) {
  for (const char* opcodes : {".",
                              "t",
                              "u",
                              "a",
                              "s",
                              "R",
                              "b",
                              "Q",
                              "0",
                              "1",
                              "\x85",
                              "h\x05",
                              "(.",
                              "K\x01K\x02.",
                              "K\x01(.",
                              "(K\x01"
                              "a",
                              "K\x01(K\x02"
                              "e",
                              "}(K\x01u",
                              "q\x01",
                              "\x93",
                              "(q\x01",
                              "K\x01K\x01R",
                              "}K\x01R"})
    EXPECT_TRUE(complaint(opcodes).starts_with("pickle byte ")) << opcodes;
}

TEST(Pickle, LengthsLie) {
  EXPECT_TRUE(complaint("X\xff\xff\xff\xff").starts_with("pickle byte 2 | texts of at most "));
  EXPECT_TRUE(
      complaint("\x8d\xff\xff\xff\xff\xff\xff\xff\xff").starts_with("pickle byte 2 | texts"));
  EXPECT_EQ(complaint("X\x05\x00\x00\x00"
                      "a"s),
            "pickle | 5 bytes of a text at byte 7 | 1 left");
  EXPECT_EQ(complaint("c" + std::string(300, 'x')),
            "pickle byte 2 | a name of at most 255 bytes | a longer one");
  EXPECT_EQ(complaint(""), "pickle | 1 bytes of an opcode at byte 2 | 0 left");
  EXPECT_EQ(complaint("\x80\x01"), "pickle byte 2 | protocol 2 to 5 | 1");
}

TEST(Pickle, BombsAreBounded) {
  EXPECT_EQ(complaint(std::string(2'000'000, ']')),
            "pickle byte 1000002 | at most 1000000 values | more");
  EXPECT_EQ(complaint(std::string(2'000'000, '(')),
            "pickle byte 1000002 | at most 1000000 values at once | more");
  std::string memo = "K\x01";
  for (uint32_t i = 0; i < 1'100'000; ++i) memo += "r" + test::ByteBuilder().u32(i * 3000u).bytes();
  EXPECT_NE(complaint(memo).find("at most 1000000 memo entries"), std::string::npos);
  std::string doubling = "]q\x01";  // appends the memo's list to itself, a thousand at a time
  for (int i = 0; i < 6000; ++i) {
    doubling += "(";
    for (int k = 0; k < 1000; ++k) doubling += "h\x01";
    doubling += "e";
  }
  EXPECT_NE(complaint(doubling).find("at most 4000000 elements"), std::string::npos);
}

}  // namespace
}  // namespace atelier
