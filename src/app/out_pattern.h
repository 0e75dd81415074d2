// Names of the files a run writes: a pattern with {placeholders}, and the next free name.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

namespace atelier {

/// What the placeholders stand for in one picture's name.
struct OutFacts {
  std::string model;  // stem of the model file
  std::string prompt;  // its first words become the {prompt} part
  uint64_t seed = 0;
  int64_t index = 1;  // of the picture in this call, from 1
  int64_t width = 0, height = 0, steps = 0;
  double cfg = 0;
  std::string sampler, scheduler;
};

/// One placeholder, for the help text.
struct Placeholder {
  std::string_view name;
  std::string_view meaning;
};

std::vector<Placeholder> placeholders();

/// Throws `invalid_argument` naming `subject` on an unknown placeholder, an unclosed brace or an
/// extension no picture format has; "{{" and "}}" are literal braces.
void check_out_pattern(std::string_view pattern, std::string_view subject);

/// Whether the file name ends as a picture's does.
bool has_picture_extension(const std::filesystem::path& file);

/// Throws `invalid_argument` naming `subject` unless the file name ends as a picture's does.
void check_picture_extension(const std::filesystem::path& file, std::string_view subject);

/// The pattern filled in. No part filled in can add a folder or climb out of one.
std::filesystem::path fill_out_pattern(std::string_view pattern, const OutFacts& facts);

/// `wanted`, or the first of `wanted_2`, `wanted_3`, ... (before the extension) that `attempt`
/// accepts; `attempt` returns false when the name is taken.
template <class Attempt>
std::filesystem::path first_free(const std::filesystem::path& wanted, Attempt attempt) {
  std::filesystem::path name = wanted;
  for (int64_t n = 2; !attempt(name); ++n) {
    name = wanted;
    name.replace_filename(wanted.stem().string() + "_" + std::to_string(n) +
                          wanted.extension().string());
  }
  return name;
}

}  // namespace atelier
