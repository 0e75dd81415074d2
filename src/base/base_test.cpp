// Tests of errors, bytes, files, JSON limits and suggestions.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstring>
#include <fstream>

#include "base/bytes.h"
#include "base/error.h"
#include "base/json.h"
#include "base/mapped_file.h"
#include "base/nearest.h"
#include "base/one_line.h"

namespace atelier {
namespace {

namespace fs = std::filesystem;

struct Folder {
  fs::path path = fs::temp_directory_path() / ("atelier_base_" + std::to_string(::getpid()));
  Folder() { fs::create_directories(path); }
  ~Folder() { fs::remove_all(path); }
};

ErrorCode code_of(const std::function<void()>& action) {
  try {
    action();
  } catch (const Error& error) {
    return error.code();
  }
  return ErrorCode::internal;
}

TEST(Error, SaysSubjectExpectedFoundAndHintInOneLine) {
  const Error error(ErrorCode::malformed, {"a.gguf", "an offset below 10", "20", "Truncated?"});
  EXPECT_STREQ(error.what(), "a.gguf: expected an offset below 10, found 20. Truncated?");
  EXPECT_STREQ(error.within("folder").what(),
               "folder: a.gguf: expected an offset below 10, found 20. Truncated?");
}

TEST(Error, ControlCharactersFromOutsideNeverReachTheTerminal) {
  const Error error(ErrorCode::malformed, {.subject = "a\x1b[31m", .expected = "b"});
  EXPECT_EQ(std::string(error.what()).find('\x1b'), std::string::npos);
}

TEST(Error, IsOneLineAndNotLongerThanNeeded) {
  const Error error(ErrorCode::malformed, {.subject = "a\nerror: b", .expected = "c\x7f\xff"});
  EXPECT_STREQ(error.what(), "a\\nerror: b: c\\x7f\\xff");
  const std::string many(5000, 'x');
  const Error quoted(ErrorCode::malformed, {.expected = "T5's", .found = "'" + many + "'"});
  EXPECT_EQ(quoted.what(), "expected T5's, found '" + many.substr(0, 200) + "...'");
  EXPECT_LT(std::strlen(Error(ErrorCode::malformed, {.expected = many}).what()), 2100U);
}

TEST(OneLine, EscapesWhatCouldDisturbAndKeepsTheRest) {
  EXPECT_EQ(one_line("gr\u00fcn \u732b \ufffd"), "gr\u00fcn \u732b \ufffd");
  EXPECT_EQ(one_line("a\r\n\tb\x1b[0m"), "a\\r\\n\\tb\\x1b[0m");
  EXPECT_EQ(one_line("\u0080\u009f\u00a0\u2028"), "\\xc2\\x80\\xc2\\x9f\u00a0\\xe2\\x80\\xa8");
  EXPECT_EQ(one_line("\x9b\xe2\x82"), "\\x9b\\xe2\\x82");
  EXPECT_EQ(shortened("gr\u00fcn", 3), "gr...");
}

TEST(Error, WrongUseExitsWithTwo) {
  EXPECT_EQ(error_info(ErrorCode::invalid_argument).exit_code, 2);
  EXPECT_EQ(error_info(ErrorCode::malformed).exit_code, 1);
}

TEST(Bytes, AreReadAsPeopleWriteThem) {
  EXPECT_EQ(parse_bytes("6GiB", "x"), 6_GiB);
  EXPECT_EQ(parse_bytes("2.5gb", "x"), Bytes(2'500'000'000));
  EXPECT_EQ(parse_bytes("800 k", "x"), 800_KiB);
  EXPECT_EQ(parse_bytes("17", "x"), 17_B);
  for (const char* bad : {"", "gb", "-1gb", "1e30gb", "5 parsecs", "nan", "inf"})
    EXPECT_EQ(code_of([&] { parse_bytes(bad, "--vram"); }), ErrorCode::invalid_argument) << bad;
}

TEST(Bytes, AreShownWithThreeDigits) {
  EXPECT_EQ(to_string(12_B), "12 B");
  EXPECT_EQ(to_string(1536_MiB), "1.50 GiB");
  EXPECT_EQ(to_string(130_MiB), "130 MiB");
}

TEST(MappedFile, GivesTheBytesAndOutlivesItsHandle) {
  const Folder folder;
  std::ofstream(folder.path / "a") << "hello";
  MappedFile copy;
  {
    const MappedFile file = MappedFile::open(folder.path / "a");
    file.will_need(0, 1 << 20);
    file.wont_need(0, 1 << 20);
    copy = file;
  }
  ASSERT_EQ(copy.bytes().size(), 5u);
  EXPECT_EQ(static_cast<char>(copy.bytes()[4]), 'o');
}

TEST(MappedFile, SaysWhatIsWrong) {
  const Folder folder;
  EXPECT_EQ(code_of([&] { MappedFile::open(folder.path / "none"); }), ErrorCode::not_found);
  EXPECT_EQ(code_of([&] { MappedFile::open(folder.path); }), ErrorCode::unreadable);
  std::ofstream(folder.path / "empty").flush();
  EXPECT_TRUE(MappedFile::open(folder.path / "empty").bytes().empty());
}

class AtomicFiles : public testing::TestWithParam<AtomicFile::Until> {};

TEST_P(AtomicFiles, LeaveNothingUnlessCommitted) {
  const Folder folder;
  {
    AtomicFile(folder.path / "a", GetParam()).write("half");
  }
  EXPECT_TRUE(fs::is_empty(folder.path));
  for (const char* text : {"first", "whole"}) {
    AtomicFile whole(folder.path / "a", GetParam());
    whole.write(text);
    whole.commit();
  }
  EXPECT_EQ(fs::file_size(folder.path / "a"), 5u);
  EXPECT_EQ(std::distance(fs::directory_iterator(folder.path), {}), 1);
  EXPECT_EQ(code_of([&] { AtomicFile(folder.path / "no" / "a", GetParam()); }),
            ErrorCode::write_failed);
}

TEST_P(AtomicFiles, AreReadableAsTheUserWantsNewFilesToBe) {
  const Folder folder;
  std::ofstream(folder.path / "plain") << "x";
  AtomicFile file(folder.path / "a", GetParam());
  file.commit();
  EXPECT_EQ(fs::status(folder.path / "a").permissions(),
            fs::status(folder.path / "plain").permissions());
}

TEST_P(AtomicFiles, TakeThePermissionsOfTheFileTheyReplace) {
  const Folder folder;
  const fs::path path = folder.path / "a";
  std::ofstream(path) << "old";
  fs::permissions(path, fs::perms::owner_read | fs::perms::owner_write);
  AtomicFile file(path, GetParam());
  file.write("new");
  file.commit();
  EXPECT_EQ(fs::status(path).permissions(), fs::perms::owner_read | fs::perms::owner_write);
}

TEST(LinkTarget, IsWhereTheLastLinkLeads) {
  const Folder folder;
  fs::create_directory(folder.path / "other");
  fs::create_symlink("other/b", folder.path / "a");
  fs::create_symlink(folder.path / "c", folder.path / "other" / "b");
  EXPECT_EQ(link_target(folder.path / "a"), folder.path / "c");
  EXPECT_EQ(link_target(folder.path / "none"), folder.path / "none");
  fs::create_symlink("two", folder.path / "one");
  fs::create_symlink("one", folder.path / "two");
  EXPECT_EQ(code_of([&] { link_target(folder.path / "one"); }), ErrorCode::write_failed);
  EXPECT_EQ(code_of([&] { link_target(folder.path / std::string(300, 'x')); }),
            ErrorCode::write_failed);
}

TEST(AtomicFile, HasNoNameWhileItIsWritten) {
  const Folder folder;
  const int probe = ::open(folder.path.c_str(), O_TMPFILE | O_WRONLY, 0600);
  if (probe < 0) GTEST_SKIP() << "this file system knows no nameless files";
  ::close(probe);
  AtomicFile file(folder.path / "a");
  file.write("half");
  EXPECT_TRUE(fs::is_empty(folder.path));
}

TEST_P(AtomicFiles, TakeANewNameOnlyIfItIsFree) {
  const Folder folder;
  std::ofstream(folder.path / "a") << "old";
  AtomicFile file(folder.path / "a", GetParam());
  file.write("newer");
  EXPECT_FALSE(file.commit_new());
  EXPECT_EQ(fs::file_size(folder.path / "a"), 3u);
  file.rename(folder.path / "b");
  EXPECT_TRUE(file.commit_new());
  EXPECT_EQ(fs::file_size(folder.path / "b"), 5u);
  EXPECT_EQ(std::distance(fs::directory_iterator(folder.path), {}), 2);
}

TEST_P(AtomicFiles, ReplaceNoPipeAndNoFolder) {
  const Folder folder;
  ASSERT_EQ(::mkfifo((folder.path / "pipe").c_str(), 0600), 0);
  fs::create_directory(folder.path / "folder");
  for (const char* name : {"pipe", "folder"}) {
    EXPECT_EQ(code_of([&] {
                AtomicFile file(folder.path / name, GetParam());
                file.commit();
              }),
              ErrorCode::write_failed);
    EXPECT_FALSE(fs::is_regular_file(folder.path / name));
  }
  EXPECT_EQ(std::distance(fs::directory_iterator(folder.path), {}), 2);
  EXPECT_EQ(code_of([&] { MappedFile::open(folder.path / "pipe"); }), ErrorCode::unreadable);
}

TEST_P(AtomicFiles, MayHaveTheLongestNameAFolderHolds) {
  const Folder folder;
  const std::string name(255, 'n');
  for (int i = 0; i < 2; ++i) {
    AtomicFile file(folder.path / name, GetParam());
    file.commit();
  }
  EXPECT_TRUE(fs::exists(folder.path / name));
  EXPECT_EQ(std::distance(fs::directory_iterator(folder.path), {}), 1);
}

TEST(AtomicFile, CannotReplaceWhatCannotBeLookedAt) {
  const Folder folder;
  fs::create_symlink("loop", folder.path / "loop");
  for (const fs::path& name : {folder.path / std::string(300, 'n'), folder.path / "loop" / "a"})
    EXPECT_EQ(code_of([&] { AtomicFile::check_replaceable(name); }), ErrorCode::write_failed);
  AtomicFile::check_replaceable(folder.path / "none" / "a");
}

INSTANTIATE_TEST_SUITE_P(Kinds, AtomicFiles,
                         testing::Values(AtomicFile::Until::nameless,
                                         AtomicFile::Until::temporary_name));

TEST(Json, KeepsOrderAndRefusesWhatLies) {
  EXPECT_EQ(parse_json(R"({"b":1,"a":[2]})", "x").dump(), R"({"b":1,"a":[2]})");
  const std::string deep(100, '[');
  for (const std::string& bad :
       {std::string("{"), std::string("{}x"), std::string(R"({"a":1,"a":2})"), deep,
        std::string("\"\xff\""), std::string(), std::string("[1e999]")})
    EXPECT_EQ(code_of([&] { parse_json(bad, "x"); }), ErrorCode::malformed) << bad;
}

TEST(Nearest, FindsTheIntendedNameAndNothingFarOff) {
  constexpr std::array<std::string_view, 3> names = {"euler", "dpmpp_2m", "uni_pc"};
  EXPECT_EQ(nearest("eular", names), "euler");
  EXPECT_EQ(nearest("DPMPP2M", names), "dpmpp_2m");
  EXPECT_EQ(nearest("something", names), "");
}

}  // namespace
}  // namespace atelier
