// Parsing and filling of output patterns.
#include "app/out_pattern.h"

#include <fmt/chrono.h>
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <ctime>
#include <functional>
#include <vector>

#include "base/error.h"
#include "base/nearest.h"

namespace atelier {
namespace {

constexpr std::array<std::string_view, 4> kExtensions = {".png", ".jpg", ".jpeg", ".webp"};

[[noreturn]] void fail(std::string_view subject, std::string statement, std::string hint) {
  throw Error(
      ErrorCode::invalid_argument,
      {.subject = std::string(subject), .expected = std::move(statement), .hint = std::move(hint)});
}

/// Letters and digits of `text`, everything else as single underscores, about 48 bytes.
std::string slug(std::string_view text) {
  constexpr size_t kLongest = 48;
  std::string name;
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    const bool continues = (byte & 0xC0) == 0x80;
    if (name.size() >= kLongest && !continues) break;
    const bool kept = (byte >= '0' && byte <= '9') || ((byte | 32) >= 'a' && (byte | 32) <= 'z') ||
                      byte == '-' || byte >= 0x80;
    if (kept) name += c;
    if (!kept && !name.empty() && name.back() != '_') name += '_';
  }
  while (!name.empty() && name.back() == '_') name.pop_back();
  return name.empty() ? "untitled" : name;
}

/// The model's name with what would be a folder or a hidden file taken out.
std::string file_part(std::string text) {
  for (char& c : text)
    if (c == '/' || c == '\\' || static_cast<unsigned char>(c) < ' ') c = '_';
  return text.empty() || text.front() == '.' ? "_" + text : text;
}

std::string now(const char* format) {
  const std::time_t seconds = std::time(nullptr);
  return fmt::format(fmt::runtime(fmt::format("{{:{}}}", format)), fmt::localtime(seconds));
}

struct Field {
  Placeholder placeholder;
  std::string (*value)(const OutFacts&);
};

const std::array kFields = {
    Field{{"model", "name of the model file without its ending"},
          [](const OutFacts& f) { return file_part(f.model); }},
    Field{{"seed", "the seed"}, [](const OutFacts& f) { return std::to_string(f.seed); }},
    Field{{"index", "number of the picture in this call, from 0001"},
          [](const OutFacts& f) { return fmt::format("{:04}", f.index); }},
    Field{{"prompt", "the first words of the prompt"},
          [](const OutFacts& f) { return slug(f.prompt); }},
    Field{{"width", "width in pixels"}, [](const OutFacts& f) { return std::to_string(f.width); }},
    Field{{"height", "height in pixels"},
          [](const OutFacts& f) { return std::to_string(f.height); }},
    Field{{"steps", "number of steps"}, [](const OutFacts& f) { return std::to_string(f.steps); }},
    Field{{"cfg", "guidance scale"}, [](const OutFacts& f) { return fmt::format("{:g}", f.cfg); }},
    Field{{"sampler", "name of the sampler"}, [](const OutFacts& f) { return f.sampler; }},
    Field{{"scheduler", "name of the scheduler"}, [](const OutFacts& f) { return f.scheduler; }},
    Field{{"date", "today, as 2026-01-31"}, [](const OutFacts&) { return now("%Y-%m-%d"); }},
    Field{{"time", "the time, as 15-04-59"}, [](const OutFacts&) { return now("%H-%M-%S"); }},
};

const Field* find_field(std::string_view name) {
  for (const Field& f : kFields)
    if (f.placeholder.name == name) return &f;
  return nullptr;
}

std::string suggestion(std::string_view name) {
  std::vector<std::string_view> names;
  for (const Field& f : kFields) names.push_back(f.placeholder.name);
  if (const std::string_view close = nearest(name, names); !close.empty())
    return fmt::format("Did you mean '{{{}}}'?", close);
  return fmt::format("Known are {{{}}}", fmt::join(names, "}, {"));
}

/// Calls `text` for literal bytes and `field` for names between braces.
void walk(std::string_view pattern, std::string_view subject, const std::function<void(char)>& text,
          const std::function<void(const Field&)>& field) {
  for (size_t i = 0; i < pattern.size(); ++i) {
    const char c = pattern[i];
    if ((c == '{' || c == '}') && i + 1 < pattern.size() && pattern[i + 1] == c) {
      text(c);
      ++i;
    } else if (c == '}') {
      fail(subject, "a '}' without its '{'", "Write '}}' for a brace in the name");
    } else if (c == '{') {
      const size_t end = pattern.find('}', i);
      if (end == pattern.npos)
        fail(subject, "a '{' without its '}'", "Write '{{' for a brace in the name");
      const std::string_view name = pattern.substr(i + 1, end - i - 1);
      const Field* found = find_field(name);
      if (!found)
        fail(subject, fmt::format("unknown placeholder '{{{}}}'", name), suggestion(name));
      field(*found);
      i = end;
    } else {
      text(c);
    }
  }
}

}  // namespace

std::vector<Placeholder> placeholders() {
  std::vector<Placeholder> rows;
  for (const Field& f : kFields) rows.push_back(f.placeholder);
  return rows;
}

bool has_picture_extension(const std::filesystem::path& file) {
  const std::string extension = file.extension().string();
  return std::ranges::any_of(
      kExtensions, [&](std::string_view known) { return edit_distance(extension, known) == 0; });
}

void check_picture_extension(const std::filesystem::path& file, std::string_view subject) {
  if (has_picture_extension(file)) return;
  const std::string extension = file.extension().string();
  const std::string_view close = nearest(extension, kExtensions);
  fail(subject,
       extension.empty() ? fmt::format("'{}' has no ending, so no picture format", file.string())
                         : fmt::format("no picture format has the ending '{}'", extension),
       close.empty() || extension.empty() ? "Known endings are .png, .jpg, .jpeg and .webp"
                                          : fmt::format("Did you mean '{}'?", close));
}

void check_out_pattern(std::string_view pattern, std::string_view subject) {
  std::string shape;
  walk(pattern, subject, [&](char c) { shape += c; }, [&](const Field&) { shape += 'x'; });
  if (shape.empty() || shape.back() == '/')
    fail(subject, fmt::format("'{}' names a folder, not a file", pattern),
         "End it with a file name, e.g. outputs/{seed}_{index}.png");
  check_picture_extension(shape, subject);
}

std::filesystem::path fill_out_pattern(std::string_view pattern, const OutFacts& facts) {
  std::string name;
  walk(
      pattern, "--out", [&](char c) { name += c; },
      [&](const Field& field) { name += field.value(facts); });
  return name;
}

}  // namespace atelier
