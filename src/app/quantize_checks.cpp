// Files that are read must outlive those that are written.
#include "app/quantize_checks.h"

#include <fmt/format.h>

#include <algorithm>
#include <optional>
#include <string>
#include <system_error>

#include "app/option_checks.h"
#include "base/error.h"
#include "base/mapped_file.h"

namespace atelier {
namespace {

namespace fs = std::filesystem;

[[noreturn]] void refuse(std::string expected, std::string hint) {
  throw Error(ErrorCode::invalid_argument,
              {.expected = std::move(expected), .hint = std::move(hint)});
}

/// As `canonical`, or as it is where there is no such file.
fs::path real(const fs::path& path) {
  std::error_code none;
  const fs::path found = fs::weakly_canonical(path, none);
  return none ? path : found;
}

bool is_file(const fs::path& path) {
  std::error_code none;
  return fs::is_regular_file(path, none);
}

bool mentions(const fs::path& index, const std::string& file) {
  const MappedFile mapped = MappedFile::open(index);
  const std::string_view text(reinterpret_cast<const char*>(mapped.bytes().data()),
                              mapped.bytes().size());
  return text.find('"' + file + '"') != text.npos;
}

/// Whether OUT is one of the files that IN, a folder or an index of shards, stands for.
bool is_part_of_input(const fs::path& in, const fs::path& out) {
  if (!is_file(out)) return false;
  const fs::path file = real(out), source = real(in);
  std::error_code none;
  if (fs::is_directory(source, none))
    return std::mismatch(source.begin(), source.end(), file.begin(), file.end()).first ==
           source.end();
  return file.parent_path() == source.parent_path() && source.extension() == ".json" &&
         mentions(source, file.filename().string());
}

/// Of "model-00001-of-00002.safetensors" the number of parts; nothing for other names. GGUF files
/// say it themselves.
std::optional<int> parts_of(const std::string& name) {
  constexpr std::string_view kOf = "-of-";
  constexpr size_t kDigits = 5, kWhole = 1 + kDigits + kOf.size() + kDigits;
  const std::string stem = fs::path(name).stem().string();
  if (fs::path(name).extension() == ".gguf" || stem.size() < kWhole) return {};
  const std::string_view end = std::string_view(stem).substr(stem.size() - kWhole);
  const auto digits = [](std::string_view text) {
    return std::ranges::all_of(text, [](char c) { return c >= '0' && c <= '9'; });
  };
  const std::string_view count = end.substr(kWhole - kDigits);
  if (end[0] != '-' || !digits(end.substr(1, kDigits)) ||
      end.substr(1 + kDigits, kOf.size()) != kOf || !digits(count))
    return {};
  return std::stoi(std::string(count));
}

/// The index beside a part of a split model that names it, or an empty path.
fs::path index_of(const fs::path& part) {
  constexpr uintmax_t kMostBytes = 100 << 20;
  std::error_code error;
  const fs::path folder = part.has_parent_path() ? part.parent_path() : ".";
  for (fs::directory_iterator it(folder, error), end; !error && it != end; it.increment(error)) {
    const fs::path file = it->path();
    std::error_code none;
    if (file.extension() != ".json" || file.filename().string().find("index") == std::string::npos)
      continue;
    if (is_file(file) && fs::file_size(file, none) <= kMostBytes && !none &&
        mentions(file, part.filename().string()))
      return part.parent_path() / file.filename();
  }
  return {};
}

/// A part alone would be written as if it were the model.
void check_whole(const fs::path& in) {
  const std::optional<int> parts = parts_of(in.filename().string());
  std::error_code none;
  if (!parts || *parts < 2 || fs::is_directory(in, none)) return;
  const fs::path index = index_of(in);
  throw Error(ErrorCode::unsupported,
              {.subject = in.string(),
               .expected = "a whole model",
               .found = fmt::format("one of {} parts", *parts),
               .hint = index.empty() ? "Give the index of all parts, a .json file beside them"
                                     : fmt::format("Give '{}' instead", index.string())});
}

/// The report replaces nothing that is needed, and without --overwrite nothing at all.
void check_report(const QuantizeOptions& o) {
  if (o.report.empty()) return;
  const fs::path report = link_target(o.report);
  check_apart(report, "--report", o.in, "IN");
  check_apart(report, "--report", o.imatrix, "--imatrix");
  if (real(report) == real(link_target(o.out)))
    refuse("--report and OUT are the same file", "Choose another name for the report");
  if (!o.overwrite && is_file(report))
    refuse(fmt::format("--report: '{}' exists already", o.report.string()),
           "Add --overwrite to replace it");
}

}  // namespace

void check_quantize_options(const QuantizeOptions& o) {
  if (o.in.empty() || o.out.empty())
    refuse("a file to read and a file to write are needed", "See 'atelier quantize --help'");
  if (o.type.empty()) refuse("--type is needed", "'atelier quantize --list' names the types");
  check_readable(o.in, "IN", Wanted::either);
  check_whole(o.in);
  const fs::path out = link_target(o.out);
  std::error_code none;
  if (fs::equivalent(o.in, out, none))
    refuse("IN and OUT are the same file", "Choose another name for OUT");
  for (const fs::path& file : {o.out, o.report})
    if (is_part_of_input(o.in, file))
      refuse(fmt::format("'{}' is one of the files of IN", file.string()), "Choose another name");
  if (!o.overwrite && is_file(out))
    refuse(fmt::format("'{}' exists already", o.out.string()), "Add --overwrite to replace it");
  if (!o.imatrix.empty()) check_readable(o.imatrix, "--imatrix", Wanted::file);
  check_apart(out, "OUT", o.imatrix, "--imatrix");
  check_report(o);
  prepare_folder_of(out, "OUT");
  if (!o.report.empty()) prepare_folder_of(link_target(o.report), "--report");
}

}  // namespace atelier
