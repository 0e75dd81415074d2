// Tests of the zip directory reader, one per field that can lie.
#include "formats/zip.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include "formats/test_files.h"

namespace atelier {
namespace {

using test::error_of;
using test::text_of;
using test::view;
using test::zip_file;
using test::ZipPart;

/// Reads every entry; what is wrong, if anything.
Error problem(const std::string& file) {
  return error_of([&] {
    for (const auto& [name, entry] : read_zip_directory(view(file)))
      zip_entry_bytes(view(file), name, entry);
  });
}

std::string complaint(const std::string& file) {
  const Error error = problem(file);
  EXPECT_NE(error.code(), ErrorCode::internal);
  return fmt::format("{} | {} | {}", error.facts().subject, error.facts().expected,
                     error.facts().found);
}

std::string patched(std::string file, size_t at, std::string_view bytes) {
  return file.replace(at, bytes.size(), bytes);
}

TEST(Zip, GivesStoredEntriesInPlace) {
  for (const bool zip64 : {false, true}) {
    const std::string file = zip_file({{.name = "a/x", .data = "12", .zip64 = zip64},
                                       {.name = "a/y", .data = "", .zip64 = zip64}},
                                      zip64);
    const ZipDirectory directory = read_zip_directory(view(file));
    ASSERT_EQ(directory.size(), 2u);
    const auto bytes = zip_entry_bytes(view(file), "a/x", directory.at("a/x"));
    EXPECT_EQ(text_of(bytes), "12");
    EXPECT_GE(text_of(view(file)).find("12"), 30u);
    EXPECT_EQ(zip_entry_bytes(view(file), "a/y", directory.at("a/y")).size(), 0u);
  }
}

TEST(Zip, ACommentBehindTheDirectoryIsSkipped) {
  std::string file = zip_file({{.name = "a", .data = "12"}});
  file[file.size() - 2] = 5;
  file += "hello";
  EXPECT_EQ(read_zip_directory(view(file)).size(), 1u);
}

TEST(Zip, CompressionAndEncryptionAreRefusedByName) {
  EXPECT_EQ(complaint(zip_file({{.name = "a", .data = "12", .method = 8}})),
            "zip entry 'a' | stored data | deflate compression");
  EXPECT_EQ(complaint(zip_file({{.name = "a", .data = "12", .method = 77}})),
            "zip entry 'a' | stored data | compression 77");
  EXPECT_EQ(complaint(zip_file({{.name = "a", .data = "12", .flags = 1}})),
            "zip entry 'a' | readable data | encrypted data");
}

TEST(Zip, EntriesLie) {
  EXPECT_EQ(complaint(zip_file({{.name = "a", .data = "12", .local_name = "b"}})),
            "zip entry 'a' | its own name in its header | 'b'");
  EXPECT_EQ(complaint(zip_file({{.name = "a", .data = "12", .header = 3}})),
            "zip entry 'a' | its header at byte 3 | other bytes");
  EXPECT_EQ(complaint(zip_file({{.name = "a", .data = "12", .header = 1 << 30}})),
            "zip entry 'a' | a place within the file | byte 1073741824");
  EXPECT_TRUE(complaint(zip_file({{.name = "a", .data = "12", .size = 1 << 30}}))
                  .starts_with("zip entry 'a' | 1073741824 bytes of its data"));
  EXPECT_TRUE(complaint(zip_file({{.name = "a", .data = "12", .zip64 = true, .size = ~0ull}}))
                  .starts_with("zip entry 'a' | 18446744073709551615 bytes of its data"));
  EXPECT_EQ(complaint(zip_file({{.name = "a", .data = "1"}, {.name = "a", .data = "2"}})),
            "zip entry 'a' | every name once | it twice");
  const std::string file = zip_file({{.name = "a", .data = "12"}});
  EXPECT_EQ(complaint(patched(file, 8, std::string_view("\x08\x00", 2))),
            "zip entry 'a' | stored data, as the directory says | compression 8 in its header");
}

TEST(Zip, TheDirectoryLies) {
  const std::string file = zip_file({{.name = "a", .data = "12"}});
  const size_t end = file.size() - 22, directory = file.find("PK\x01\x02");
  EXPECT_EQ(complaint("PK\x03\x04"), "zip archive | a directory at its end | none");
  EXPECT_EQ(complaint(patched(file, directory, "XX")),
            "zip directory | entry 1 of 1 | other bytes");
  EXPECT_TRUE(complaint(patched(file, end + 10, std::string_view("\xff\x7f", 2)))
                  .starts_with("zip directory | entries within its 47 bytes | 32767 entries"));
  EXPECT_TRUE(complaint(patched(file, end + 12, "\xff\xff\xff\x7f"))
                  .starts_with("zip directory | it within the first "));
  EXPECT_TRUE(complaint(patched(file, end + 16, "\xff\xff\xff\x7f"))
                  .starts_with("zip directory | it within the first "));
  EXPECT_EQ(complaint(patched(file, end + 4, std::string_view("\x01\x00", 2))),
            "zip archive | a single volume | one of several");
  EXPECT_TRUE(complaint(patched(file, directory + 28, "\xff\xff"))
                  .starts_with("zip directory | 65535 bytes of a name"));
}

TEST(Zip, TheZip64RecordsLie) {
  const std::string file = zip_file({{.name = "a", .data = "12", .zip64 = true}}, true);
  const size_t locator = file.size() - 22 - 20, record = locator - 56;
  const std::string ones(8, '\xff');
  EXPECT_EQ(complaint(patched(file, locator + 8, ones)),
            "zip64 end record | an offset within the file | 18446744073709551615");
  EXPECT_EQ(complaint(patched(file, record, "XX")),
            "zip64 end record | its signature | other bytes");
  EXPECT_TRUE(complaint(patched(file, record + 32, ones))
                  .starts_with("zip directory | entries within its "));
  for (const size_t field : {40, 48})
    EXPECT_TRUE(complaint(patched(file, record + field, ones))
                    .starts_with("zip directory | it within the first "));
  const size_t extra = file.find("PK\x01\x02") + 46 + 1;
  EXPECT_EQ(complaint(patched(file, extra + 2, "\xff\xff")),
            "zip entry 'a' | extra fields of their stated size | a longer one");
  EXPECT_TRUE(complaint(patched(file, extra + 2, std::string_view("\x04\x00", 2)))
                  .starts_with("zip entry | 8 bytes of a zip64 field"));
}

TEST(Zip, EveryCutOfAFileIsRefused) {
  const std::string whole = zip_file({{.name = "a", .data = "12"}, {.name = "b", .data = "3"}});
  for (size_t size = 0; size < whole.size(); ++size)
    EXPECT_EQ(problem(whole.substr(0, size)).code(), ErrorCode::malformed) << size;
}

}  // namespace
}  // namespace atelier
