// Tests against files that the safetensors, gguf and torch packages have written
// (tools/golden/formats.py): every tensor's shape, encoding and bytes, and what is refused.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include "base/json.h"
#include "formats/checkpoint.h"
#include "formats/test_files.h"

namespace atelier {
namespace {

const std::filesystem::path kFolder =
    std::filesystem::path(ATELIER_SOURCE_DIR) / "tests/golden/formats";

std::string hex(std::span<const std::byte> bytes) {
  std::string text;
  for (const std::byte byte : bytes) text += fmt::format("{:02x}", std::to_integer<int>(byte));
  return text;
}

Json expected() {
  const MappedFile file = MappedFile::open(kFolder / "expected.json");
  return parse_json(test::text_of(file.bytes()), "expected.json");
}

class Golden : public testing::TestWithParam<const char*> {};

TEST_P(Golden, HoldsWhatItsWriterPutIn) {
  const auto file = open_checkpoint(kFolder / GetParam());
  const Json wanted = expected().at(GetParam());
  EXPECT_EQ(file->tensors().size(), wanted.at("tensors").size());
  for (const auto& [name, tensor] : wanted.at("tensors").items()) {
    ASSERT_TRUE(file->tensors().contains(name)) << name;
    const TensorInfo& info = file->tensors().at(name);
    EXPECT_EQ(info.shape, tensor.at("shape").get<Shape>()) << name;
    EXPECT_EQ(encoding_info(info.encoding).name, tensor.at("encoding").get<std::string>()) << name;
    EXPECT_EQ(hex(file->bytes(name)), tensor.at("bytes").get<std::string>()) << name;
  }
  for (const auto& [key, value] : wanted.at("metadata").items())
    EXPECT_EQ(file->metadata().at(key), value.get<std::string>()) << key;
}

INSTANTIATE_TEST_SUITE_P(Files, Golden,
                         testing::Values("dtypes.safetensors", "packed.safetensors",
                                         "plain.safetensors", "types.gguf", "state.pt",
                                         "protocol5.pt", "training.ckpt", "embedding.pt",
                                         "parameters.pt", "parameters_first.pt", "bare_tensor.pt"),
                         [](const auto& instance) {
                           std::string name = instance.param;
                           for (char& c : name) c = c == '.' ? '_' : c;
                           return name;
                         });

TEST(GoldenGguf, KeepsArrays) {
  const auto file = open_checkpoint(kFolder / "types.gguf");
  const GgufMetadata& gguf = file->gguf();
  EXPECT_EQ(gguf.at("v.texts").texts(), (std::vector<std::string_view>{"a", "", "b\xe2\x98\x83"}));
  EXPECT_EQ(gguf.at("v.numbers").integers(), (std::vector<int64_t>{1, -2, 3}));
  EXPECT_EQ(gguf.at("v.reals").numbers(), (std::vector<double>{0.5, -1.5}));
  for (const auto& [name, info] : file->tensors()) EXPECT_EQ(info.offset % 64, 0u) << name;
}

struct Refusal {
  const char* file;
  ErrorCode code;
  const char* found;
};

class GoldenRefusal : public testing::TestWithParam<Refusal> {};

TEST_P(GoldenRefusal, IsNamed) {
  const Error error = test::error_of([&] { open_checkpoint(kFolder / GetParam().file); });
  EXPECT_EQ(error.code(), GetParam().code);
  EXPECT_EQ(error.facts().found, GetParam().found);
  EXPECT_TRUE(error.facts().subject.starts_with((kFolder / GetParam().file).string()));
  EXPECT_FALSE(error.facts().hint.empty());
}

constexpr ErrorCode kUnsupported = ErrorCode::unsupported;
INSTANTIATE_TEST_SUITE_P(
    Files, GoldenRefusal,
    testing::Values(Refusal{"legacy.pt", kUnsupported,
                            "a torch file of before 1.6, which is no zip archive"},
                    Refusal{"object.ckpt", kUnsupported, "'__main__.Unknown'"},
                    Refusal{"namespace.ckpt", kUnsupported, "'argparse.Namespace'"},
                    Refusal{"numpy_scalar.ckpt", kUnsupported, "'numpy._core.multiarray.scalar'"},
                    Refusal{"list.pt", kUnsupported, "another value"},
                    Refusal{"expanded.pt", kUnsupported, "an expanded view, strides [0, 0]"},
                    Refusal{"quantised.pt", kUnsupported, "'torch._utils._rebuild_qtensor'"},
                    Refusal{"script.pt", kUnsupported, "a TorchScript program"},
                    Refusal{"arrays.npz", kUnsupported, "1 entries without it"},
                    Refusal{"big_endian.gguf", kUnsupported, "a big-endian file"}),
    [](const auto& instance) {
      std::string name = instance.param.file;
      for (char& c : name) c = c == '.' ? '_' : c;
      return name;
    });

}  // namespace
}  // namespace atelier
