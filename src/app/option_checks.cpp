// Checks in the order a user would want to hear of them.
#include "app/option_checks.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <string>
#include <system_error>
#include <vector>

#include "app/lora_option.h"
#include "app/out_pattern.h"
#include "app/output_checks.h"
#include "base/bytes.h"
#include "base/error.h"
#include "base/mapped_file.h"
#include "base/nearest.h"

namespace atelier {
namespace {

namespace fs = std::filesystem;

[[noreturn]] void fail(ErrorCode code, std::string_view subject, std::string statement,
                       std::string hint = {}) {
  throw Error(
      code,
      {.subject = std::string(subject), .expected = std::move(statement), .hint = std::move(hint)});
}

/// "Did you mean 'x'?" with a file of the same folder, or "".
std::string similar_file(const fs::path& path) {
  constexpr size_t kMostFiles = 10'000;
  std::error_code error;
  const fs::path folder = path.has_parent_path() ? path.parent_path() : fs::path(".");
  std::vector<std::string> names;
  for (fs::directory_iterator it(folder, error), end; !error && it != end; it.increment(error)) {
    names.push_back(it->path().filename().string());
    if (names.back() == path.filename()) names.pop_back();
    if (names.size() == kMostFiles) break;
  }
  const std::vector<std::string_view> views(names.begin(), names.end());
  const std::string_view close = nearest(path.filename().string(), views);
  if (close.empty()) return {};
  return fmt::format("Did you mean '{}'?", (path.parent_path() / close).string());
}

void check_size(const std::optional<int64_t>& size, std::string_view option) {
  if (!size || *size % kSizeStep == 0) return;
  const int64_t below = std::max(*size / kSizeStep * kSizeStep, kLeastSize);
  throw Error(ErrorCode::invalid_argument,
              {.subject = std::string(option),
               .expected = fmt::format("a multiple of {}", kSizeStep),
               .found = std::to_string(*size),
               .hint = fmt::format("Nearest are {} and {}", below, below + kSizeStep)});
}

void check_needs(bool given, std::string_view option, bool needed, std::string_view other) {
  if (given && !needed)
    fail(ErrorCode::invalid_argument, option, fmt::format("needs {} as well", other));
}

/// What begins in the middle of a run, and where it ends.
void check_course(const GenerateOptions& o) {
  const bool begun = !o.init_image.empty() || !o.init_latent.empty();
  check_needs(o.strength.has_value(), "--strength", begun, "--init-image or --init-latent");
  check_needs(!o.mask.empty(), "--mask", !o.init_image.empty(), "--init-image");
  check_needs(o.no_noise, "--no-noise", begun, "--init-image or --init-latent");
  check_needs(o.keep_noise, "--keep-noise", o.end_step.has_value(), "--end-step");
  if (!o.init_image.empty() && !o.init_latent.empty())
    fail(ErrorCode::invalid_argument, "--init-latent", "cannot be used with --init-image");
  if (o.strength && o.start_step)
    fail(ErrorCode::invalid_argument, "--start-step", "cannot be used with --strength",
         "Both say where the run begins");
  if (o.steps) check_steps(o, *o.steps);
}

void check_latent_name(const std::string& name) {
  const std::string extension = fs::path(name).extension().string();
  constexpr std::array<std::string_view, 2> known = {".safetensors", ".latent"};
  if (std::find(known.begin(), known.end(), extension) == known.end())
    fail(ErrorCode::invalid_argument, "--save-latent",
         fmt::format("a latent file ends in .safetensors or .latent, not '{}'", extension));
}

void check_inputs(const GenerateOptions& o) {
  check_readable(o.model, "--model", Wanted::either);
  if (!o.vae.empty()) check_readable(o.vae, "--vae", Wanted::either);
  for (const fs::path& file : o.text_encoders)
    check_readable(file, "--text-encoder", Wanted::either);
  for (const auto& [file, option] :
       {std::pair(&o.clip_l, "--clip-l"), std::pair(&o.clip_g, "--clip-g"),
        std::pair(&o.t5, "--t5"), std::pair(&o.t5_tokenizer, "--t5-tokenizer")})
    if (!file->empty()) check_readable(*file, option, Wanted::either);
  for (const fs::path& file : o.references) check_readable(file, "--reference", Wanted::file);
  if (!o.control_image.empty()) check_readable(o.control_image, "--control-image", Wanted::file);
  if (!o.embeddings.empty()) check_readable(o.embeddings, "--embeddings", Wanted::folder);
  for (const std::string& lora : o.loras)
    check_readable(parse_lora_option(lora).file, "--lora", Wanted::file);
  if (!o.preview_decoder.empty())
    check_readable(o.preview_decoder, "--preview-decoder", Wanted::file);
  if (!o.init_image.empty()) check_readable(o.init_image, "--init-image", Wanted::file);
  if (!o.init_latent.empty()) check_readable(o.init_latent, "--init-latent", Wanted::file);
  if (!o.mask.empty()) check_readable(o.mask, "--mask", Wanted::file);
}

}  // namespace

void check_readable(const fs::path& path, std::string_view subject, Wanted wanted) {
  std::error_code error;
  const fs::file_status status = fs::status(path, error);
  if (!fs::exists(status)) {
    if (error && error != std::errc::no_such_file_or_directory)
      fail(ErrorCode::unreadable, subject,
           fmt::format("'{}' cannot be read ({})", path.string(), error.message()));
    if (fs::is_symlink(fs::symlink_status(path, error)))
      fail(ErrorCode::not_found, subject,
           fmt::format("'{}' is a link to '{}', which does not exist", path.string(),
                       fs::read_symlink(path, error).string()));
    fail(ErrorCode::not_found, subject, fmt::format("'{}' does not exist", path.string()),
         similar_file(path));
  }
  const bool folder = fs::is_directory(status);
  if (folder && wanted == Wanted::file)
    fail(ErrorCode::unreadable, subject,
         fmt::format("'{}' is a folder, not a file", path.string()));
  if (!folder && wanted == Wanted::folder)
    fail(ErrorCode::unreadable, subject, fmt::format("'{}' is not a folder", path.string()));
  if (!folder && !fs::is_regular_file(status))
    fail(ErrorCode::unreadable, subject, fmt::format("'{}' is not a regular file", path.string()));
  if (::access(path.c_str(), folder ? R_OK | X_OK : R_OK) != 0)
    fail(ErrorCode::unreadable, subject, fmt::format("'{}' may not be read", path.string()),
         "Check its permissions");
}

void check_steps(const GenerateOptions& o, int64_t steps) {
  const int64_t start = o.start_step.value_or(0), end = std::min(o.end_step.value_or(steps), steps);
  if (start >= end)
    fail(ErrorCode::invalid_argument, o.end_step ? "--end-step" : "--start-step",
         fmt::format("no step is left between {} and {} of {}", start, end, steps));
}

void prepare_folder_of(const fs::path& file, std::string_view subject) {
  const fs::path folder = file.has_parent_path() ? file.parent_path() : fs::path(".");
  std::error_code error;
  fs::create_directories(folder, error);
  if (error)
    fail(ErrorCode::write_failed, subject,
         fmt::format("folder '{}' cannot be made ({})", folder.string(), error.message()));
  if (::access(folder.c_str(), W_OK | X_OK) != 0)
    fail(ErrorCode::write_failed, subject,
         fmt::format("folder '{}' may not be written to", folder.string()),
         "Choose another one or change its permissions");
  try {
    AtomicFile::check_replaceable(file);
  } catch (const Error& reason) {
    throw reason.within(subject);
  }
}

void check_apart(const fs::path& written, std::string_view subject, const fs::path& read,
                 std::string_view other) {
  std::error_code none;
  if (!written.empty() && !read.empty() && fs::equivalent(written, read, none))
    fail(ErrorCode::invalid_argument, subject,
         fmt::format("'{}' is the file of {} and would be replaced", written.string(), other),
         "Choose another name");
}

void check_options(const GenerateOptions& o) {
  if (o.model.empty())
    fail(ErrorCode::invalid_argument, "--model", "a checkpoint file or folder is needed",
         "For the small model of the repository: --model models/demo/atelier-demo.safetensors");
  if (o.prompts.empty())
    fail(ErrorCode::invalid_argument, "--prompt", "what to draw is needed",
         "For example --prompt \"a red circle\"");
  if (!o.ram.empty()) parse_bytes(o.ram, "--ram");
  check_size(o.width, "--width");
  check_size(o.height, "--height");
  check_course(o);
  if (o.shift && (o.base_shift || o.max_shift))
    fail(ErrorCode::invalid_argument, "--shift", "cannot be used with --base-shift or --max-shift",
         "One is fixed, they go by the size");
  check_needs(!o.preview_decoder.empty(), "--preview-decoder", !o.preview.empty(), "--preview");
  check_out_pattern(o.out, "--out");
  if (!o.sheet.empty()) check_picture_extension(o.sheet, "--sheet");
  if (!o.preview.empty()) check_picture_extension(o.preview, "--preview");
  if (!o.save_latent.empty()) check_latent_name(o.save_latent.string());
  check_inputs(o);
  check_outputs(o, written_files(o));
}

}  // namespace atelier
