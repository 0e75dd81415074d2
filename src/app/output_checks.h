// That what a run writes can be written, and takes the place of nothing it reads or writes.
#pragma once

#include <filesystem>
#include <span>
#include <string_view>
#include <vector>

#include "app/generate_options.h"

namespace atelier {

/// A file that a run will write.
struct Written {
  std::filesystem::path path;
  std::string_view option;
  bool replaces = false;  // what has this name, rather than taking another name
};

/// The files whose names are known from the options alone: all but pictures named by placeholders.
std::vector<Written> written_files(const GenerateOptions& options);

/// Throws `invalid_argument` if files of two options are the same, or one would replace a file that
/// an option has read, be it in a folder or a shard; `write_failed` where one cannot be written.
/// Makes no folder.
void check_outputs(const GenerateOptions& options, std::span<const Written> files);

/// Throws `write_failed` naming `subject` unless `file` can be written: its name is not too long,
/// nothing that is no file has it, and its folder, or the nearest above that is there, takes files.
void check_writable(const std::filesystem::path& file, std::string_view subject);

}  // namespace atelier
