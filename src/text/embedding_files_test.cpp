// Tests of finding embedding files: endings, order, and names that try to get out.
#include "text/embedding_files.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <fstream>
#include <string>
#include <vector>

namespace atelier {
namespace {

namespace fs = std::filesystem;

class EmbeddingFiles : public testing::Test {
 protected:
  void SetUp() override {
    fs::create_directories(root_ / "one" / "sub");
    fs::create_directories(root_ / "two");
    for (const char* name : {"secret.pt", "one/a.pt", "one/a.safetensors", "one/sub/b.bin",
                             "two/a.bin", "two/c.v1.pt", "one/d.txt"})
      std::ofstream(root_ / name) << "x";
  }
  void TearDown() override { fs::remove_all(root_); }
  /// The file found, relative to the root; "" if none.
  std::string found(std::string_view name) const {
    const std::vector<fs::path> folders = {root_ / "one", root_ / "missing", root_ / "two"};
    const auto file = find_embedding_file(folders, name);
    return file ? file->lexically_relative(root_).string() : "";
  }
  fs::path root_ = fs::temp_directory_path() / ("atelier_embeddings_" + std::to_string(::getpid()));
};

TEST_F(EmbeddingFiles, AreFoundByNameWithAndWithoutEnding) {
  EXPECT_EQ(found("a"), "one/a.safetensors");
  EXPECT_EQ(found("a.pt"), "one/a.pt");
  EXPECT_EQ(found("a.bin"), "two/a.bin");
  EXPECT_EQ(found("c.v1"), "two/c.v1.pt");
  EXPECT_EQ(found("sub/b"), "one/sub/b.bin");
  EXPECT_EQ(found("sub\\b"), "one/sub/b.bin");
  EXPECT_EQ(found("./sub/../a"), "one/a.safetensors");
}

TEST_F(EmbeddingFiles, AreNotFoundOutsideOrOfAnotherKind) {
  const std::string absolute = (root_ / "secret").string();
  for (const std::string& name :
       {std::string("../secret"), std::string("sub/../../secret.pt"), absolute, absolute + ".pt",
        std::string("..\\secret"), std::string("d.txt"), std::string("d"), std::string("sub"),
        std::string("."), std::string(".."), std::string("/"), std::string(""),
        std::string("a\0.pt", 5), std::string(100'000, 'x')})
    EXPECT_EQ(found(name), "") << name.substr(0, 40);
}

TEST_F(EmbeddingFiles, FollowTheLinksOfTheFolder) {
  fs::create_symlink(root_ / "secret.pt", root_ / "one" / "linked.pt");
  EXPECT_EQ(found("linked"), "one/linked.pt");
}

}  // namespace
}  // namespace atelier
