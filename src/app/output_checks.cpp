// Files are compared by what they are on the disk, and by name where they are not there yet.
#include "app/output_checks.h"

#include <fmt/format.h>
#include <sys/stat.h>

#include <climits>
#include <fstream>
#include <iterator>
#include <map>
#include <optional>
#include <string>
#include <system_error>
#include <utility>

#include "app/lora_option.h"
#include "app/out_pattern.h"
#include "base/error.h"
#include "base/mapped_file.h"

namespace atelier {
namespace {

namespace fs = std::filesystem;
using FileId = std::pair<uint64_t, uint64_t>;  // device, inode

[[noreturn]] void fail(ErrorCode code, std::string_view subject, std::string statement,
                       std::string hint = {}) {
  throw Error(
      code,
      {.subject = std::string(subject), .expected = std::move(statement), .hint = std::move(hint)});
}

std::optional<FileId> id_of(const fs::path& path) {
  struct stat status{};
  if (::stat(path.c_str(), &status) != 0) return {};
  return FileId{status.st_dev, status.st_ino};
}

/// Every file that options read, and which option.
class ReadFiles {
 public:
  explicit ReadFiles(const GenerateOptions& o) {
    const std::pair<const fs::path*, std::string_view> rows[] = {
        {&o.model, "--model"},
        {&o.vae, "--vae"},
        {&o.clip_l, "--clip-l"},
        {&o.clip_g, "--clip-g"},
        {&o.t5, "--t5"},
        {&o.t5_tokenizer, "--t5-tokenizer"},
        {&o.embeddings, "--embeddings"},
        {&o.preview_decoder, "--preview-decoder"},
        {&o.init_image, "--init-image"},
        {&o.mask, "--mask"},
        {&o.init_latent, "--init-latent"},
        {&o.control_image, "--control-image"}};
    for (const auto& [path, option] : rows) add(*path, option);
    for (const fs::path& file : o.text_encoders) add(file, "--text-encoder");
    for (const fs::path& file : o.references) add(file, "--reference");
    for (const std::string& word : o.loras) add(parse_lora_option(word).file, "--lora");
  }
  /// The option that reads the file at `path`, or "".
  std::string_view option_of(const fs::path& path) const {
    const auto id = id_of(path);
    const auto found = id ? options_.find(*id) : options_.end();
    return found == options_.end() ? std::string_view() : found->second;
  }

 private:
  void add(const fs::path& path, std::string_view option) {
    if (path.empty()) return;
    if (const auto id = id_of(path)) options_.emplace(*id, option);
    std::error_code none;
    if (fs::is_directory(path, none))
      add_folder(path, option);
    else if (path.extension() == ".json")
      add_shards(path, option);
  }
  /// Pictures in a folder of models are nothing that is read.
  void add_folder(const fs::path& folder, std::string_view option) {
    constexpr size_t kMostFiles = 100'000;
    std::error_code error;
    const auto skip = fs::directory_options::skip_permission_denied;
    size_t count = 0;
    for (fs::recursive_directory_iterator it(folder, skip, error), end;
         !error && it != end && ++count < kMostFiles; it.increment(error))
      if (!has_picture_extension(it->path()))
        if (const auto id = id_of(it->path())) options_.emplace(*id, option);
  }
  /// The files beside an index that it names.
  void add_shards(const fs::path& index, std::string_view option) {
    std::ifstream in(index, std::ios::binary);
    const std::string text{std::istreambuf_iterator<char>(in), {}};
    const fs::path folder = index.has_parent_path() ? index.parent_path() : fs::path(".");
    std::error_code error;
    for (fs::directory_iterator it(folder, error), end; !error && it != end; it.increment(error))
      if (text.find('"' + it->path().filename().string() + '"') != text.npos)
        if (const auto id = id_of(it->path())) options_.emplace(*id, option);
  }
  std::map<FileId, std::string_view> options_;
};

/// The same text for two names of one place.
std::string place_of(const fs::path& path) {
  std::error_code error;
  const fs::path place = fs::weakly_canonical(fs::absolute(path, error), error);
  return error || place.empty() ? path.lexically_normal().string() : place.string();
}

void check_different(std::span<const Written> files) {
  std::map<std::string, std::string_view> places;
  std::map<FileId, std::string_view> there;
  for (const Written& file : files) {
    const auto id = id_of(file.path);
    const std::string_view others[] = {
        places.emplace(place_of(file.path), file.option).first->second,
        id ? there.emplace(*id, file.option).first->second : file.option};
    for (const std::string_view other : others)
      if (other != file.option)
        fail(ErrorCode::invalid_argument, file.option,
             fmt::format("'{}' is the file of {}, too", file.path.string(), other),
             "Choose another name");
  }
}

/// Names longer than a folder can hold.
void check_lengths(const fs::path& file, std::string_view subject) {
  for (const fs::path& part : file)
    if (part.native().size() > NAME_MAX)
      fail(ErrorCode::write_failed, subject,
           fmt::format("'{}' is a name of {} bytes, and {} are the most", part.string(),
                       part.native().size(), NAME_MAX));
}

/// The folder, or the nearest above it that is there.
fs::path existing_folder(fs::path folder) {
  std::error_code none;
  while (!folder.empty() && fs::status(folder, none).type() == fs::file_type::not_found)
    folder = folder == folder.parent_path() ? fs::path() : folder.parent_path();
  return folder.empty() ? fs::path(".") : folder;
}

}  // namespace

std::vector<Written> written_files(const GenerateOptions& o) {
  std::vector<Written> files;
  if (!o.sheet.empty()) files.push_back({o.sheet, "--sheet", o.overwrite});
  if (!o.preview.empty()) files.push_back({o.preview, "--preview", true});
  if (!o.save_latent.empty()) files.push_back({o.save_latent, "--save-latent", o.overwrite});
  if (!o.collect_imatrix.empty()) files.push_back({o.collect_imatrix, "--collect-imatrix", true});
  if (o.out.find_first_of("{}") == o.out.npos) files.push_back({o.out, "--out", o.overwrite});
  return files;
}

void check_outputs(const GenerateOptions& options, std::span<const Written> files) {
  const ReadFiles read(options);
  for (const Written& file : files) {
    const std::string_view reader = file.replaces ? read.option_of(file.path) : "";
    if (!reader.empty())
      fail(ErrorCode::invalid_argument, file.option,
           fmt::format("'{}' is {} {} and would be replaced", file.path.string(),
                       reader == "--embeddings" || reader == "--model" ? "read by" : "the file of",
                       reader),
           "Choose another name");
  }
  check_different(files);
  for (const Written& file : files) check_writable(file.path, file.option);
}

void check_writable(const fs::path& file, std::string_view subject) {
  check_lengths(file, subject);
  const fs::path parent = file.has_parent_path() ? file.parent_path() : fs::path(".");
  const fs::path folder = existing_folder(parent);
  std::error_code error;
  const bool is_folder = fs::is_directory(folder, error);
  if (!is_folder)
    fail(ErrorCode::write_failed, subject,
         fmt::format("folder '{}' cannot be made ({})", parent.string(),
                     error ? error.message() : fmt::format("'{}' is no folder", folder.string())));
  try {
    const AtomicFile probe(folder / "probe");
  } catch (const Error&) {
    fail(ErrorCode::write_failed, subject,
         fmt::format("folder '{}' may not be written to", folder.string()),
         "Choose another one or change its permissions");
  }
  try {
    AtomicFile::check_replaceable(file);
  } catch (const Error& reason) {
    throw reason.within(subject);
  }
}

}  // namespace atelier
