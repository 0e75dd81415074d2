// What can be wrong with the options of a run and is known without opening the model.
#pragma once

#include <filesystem>
#include <string_view>

#include "app/generate_options.h"

namespace atelier {

/// Sizes of pictures this program draws, in pixels; both sides are multiples of kSizeStep.
inline constexpr int64_t kLeastSize = 16, kMostSize = 16384, kSizeStep = 8;

/// Throws `invalid_argument`, `not_found` or `unreadable` naming the option for the first thing
/// wrong: missing options, options that need another, sizes, unreadable files, file names.
void check_options(const GenerateOptions& options);

/// Throws `invalid_argument` unless a step is left between --start-step and --end-step of `steps`.
void check_steps(const GenerateOptions& options, int64_t steps);

/// Throws `not_found` naming `subject` (with the most similar name in that folder) or `unreadable`
/// unless `path` is a file, or a folder where `folder_allowed`, that can be read.
enum class Wanted { file, folder, either };
void check_readable(const std::filesystem::path& path, std::string_view subject, Wanted wanted);

/// Creates the folder `file` will lie in. Throws `write_failed` naming `subject` if it cannot be
/// written to, or if `file` is there and no file that could be replaced.
void prepare_folder_of(const std::filesystem::path& file, std::string_view subject);

/// Throws `invalid_argument` naming `subject` if the file to be written is the one `other` reads.
/// Empty paths are never the same.
void check_apart(const std::filesystem::path& written, std::string_view subject,
                 const std::filesystem::path& read, std::string_view other);

}  // namespace atelier
