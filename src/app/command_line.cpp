// CLI11 does the splitting; conversions and messages are ours. Longer than most: one short function
// for each kind of option.
#include "app/command_line.h"

#include <fmt/format.h>

#include <CLI/Config.hpp>
#include <CLI/Formatter.hpp>
#include <algorithm>
#include <cctype>
#include <charconv>
#include <cmath>
#include <iostream>

#include "base/error.h"
#include "base/nearest.h"

namespace atelier {
namespace {

[[noreturn]] void fail(const std::string& option, std::string expected, std::string found,
                       std::string hint = {}) {
  throw Error(ErrorCode::invalid_argument, {.subject = option,
                                            .expected = std::move(expected),
                                            .found = std::move(found),
                                            .hint = std::move(hint)});
}

/// "--prompt" of "-p,--prompt".
std::string long_name(const std::string& names) {
  const size_t comma = names.rfind(',');
  return comma == names.npos ? names : names.substr(comma + 1);
}

template <class T>
bool read_number(const std::string& text, T& value) {
  const char* begin = text.data() + (text.starts_with('+') ? 1 : 0);
  const char* end = text.data() + text.size();
  const auto [stop, error] = std::from_chars(begin, end, value);
  return error == std::errc() && stop == end && begin != end;
}

int64_t to_integer(const std::string& option, const std::string& text, int64_t least,
                   int64_t most) {
  int64_t value = 0;
  if (!read_number(text, value) || value < least || value > most)
    fail(option, fmt::format("a whole number from {} to {}", least, most),
         fmt::format("'{}'", text));
  return value;
}

double to_number(const std::string& option, const std::string& text, double least, double most) {
  double value = 0;
  if (!read_number(text, value) || !(value >= least && value <= most))
    fail(option, fmt::format("a number from {:g} to {:g}", least, most), fmt::format("'{}'", text));
  return value;
}

/// CLI11's "--steps: 1 required TEXT missing" and the like, as a person would say it.
std::string plain_words(std::string message) {
  for (char& c : message)
    if (c == '\n') c = ' ';
  const std::string option = message.substr(0, message.find(':'));
  if (message.find("required") == message.npos || option == message) return message;
  return option + (message.find("missing") != message.npos ? ": a value is needed after it"
                                                           : ": may be given only once");
}

/// A name as other programs show it ("DPM++ 2M Karras", "Euler a") in the way names are written
/// here: "dpmpp_2m_karras", "euler_ancestral". Dashes before it go.
std::string plain_name(std::string_view name) {
  std::string plain;
  name.remove_prefix(std::min(name.find_first_not_of('-'), name.size()));
  for (const char c : name) {
    if (c == '+')
      plain += 'p';
    else if (c == ' ' || c == '-')
      plain += '_';
    else
      plain += static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  }
  if (plain.starts_with("k_")) plain.erase(0, 2);
  if (plain.ends_with("_a")) plain += "ncestral";
  return plain;
}

std::string without_last_part(const std::string& name) {
  const size_t end = name.rfind('_');
  return end == name.npos ? std::string() : name.substr(0, end);
}

}  // namespace

std::string suggest(std::string_view name, std::span<const std::string_view> known) {
  // Whole first: "dpmpp_2m_sde_karras" is nearer to "dpmpp_2m_sde" than to what its start is.
  for (std::string word = plain_name(name); !word.empty(); word = without_last_part(word))
    if (const std::string_view close = nearest(word, known); !close.empty())
      return fmt::format("Did you mean '{}'?", close);
  return fmt::format("Known are {}", fmt::join(known, ", "));
}

CommandLine::CommandLine(std::string_view command, std::string summary)
    : command_(command), app_(std::move(summary), fmt::format("atelier {}", command)) {
  app_.allow_extras();
  app_.get_formatter()->column_width(34);
  app_.set_help_flag("-h,--help", "print this help and leave")->group("General");
}

CLI::Option* CommandLine::single(std::string names, std::string placeholder, std::string help,
                                 std::function<void(const std::string&)> take) {
  return app_.add_option_function<std::string>(names, std::move(take), std::move(help))
      ->option_text(std::move(placeholder))
      ->group(group_);
}

void CommandLine::text(std::string names, std::string placeholder, std::string& value,
                       std::string help, std::string_view needed) {
  single(names, std::move(placeholder), std::move(help),
         [&value, needed, option = long_name(names)](const std::string& word) {
           if (word.empty() && !needed.empty())
             fail(option, std::string(needed), "nothing between the quotes");
           value = word;
         });
}

void CommandLine::texts(std::string names, std::string placeholder,
                        std::vector<std::string>& values, std::string help) {
  app_.add_option(std::move(names), values, std::move(help))
      ->option_text(std::move(placeholder))
      ->allow_extra_args(false)
      ->group(group_);
}

void CommandLine::path(std::string names, std::string placeholder, std::filesystem::path& value,
                       std::string help) {
  single(names, std::move(placeholder), std::move(help),
         [&value, option = long_name(names)](const std::string& word) {
           if (word.empty()) fail(option, "a path", "nothing between the quotes");
           value = word;
         });
}

void CommandLine::paths(std::string names, std::string placeholder,
                        std::vector<std::filesystem::path>& values, std::string help) {
  app_.add_option_function<std::vector<std::string>>(
          names,
          [&values, option = long_name(names)](const std::vector<std::string>& words) {
            for (const std::string& word : words) {
              if (word.empty()) fail(option, "a path", "nothing between the quotes");
              values.emplace_back(word);
            }
          },
          std::move(help))
      ->option_text(std::move(placeholder))
      ->group(group_);
}

void CommandLine::positional(std::string name, std::filesystem::path& value, std::string help) {
  app_.add_option_function<std::string>(
          name, [&value](const std::string& word) { value = word; }, std::move(help))
      ->option_text(" ")
      ->group(group_);
}

void CommandLine::integer(std::string names, std::optional<int64_t>& value, int64_t least,
                          int64_t most, std::string help) {
  single(names, "N", std::move(help),
         [&value, least, most, option = long_name(names)](const std::string& word) {
           value = to_integer(option, word, least, most);
         });
}

void CommandLine::integer(std::string names, int64_t& value, int64_t least, int64_t most,
                          std::string help) {
  single(names, "N", std::move(help),
         [&value, least, most, option = long_name(names)](const std::string& word) {
           value = to_integer(option, word, least, most);
         });
}

void CommandLine::number(std::string names, std::optional<double>& value, double least, double most,
                         std::string help) {
  single(names, "X", std::move(help),
         [&value, least, most, option = long_name(names)](const std::string& word) {
           value = to_number(option, word, least, most);
         });
}

void CommandLine::number(std::string names, double& value, double least, double most,
                         std::string help) {
  single(names, "X", std::move(help),
         [&value, least, most, option = long_name(names)](const std::string& word) {
           value = to_number(option, word, least, most);
         });
}

void CommandLine::seed(std::string names, std::optional<uint64_t>& value, std::string help) {
  single(names, "N", std::move(help), [&value, option = long_name(names)](const std::string& word) {
    uint64_t number = 0;
    if (word == "-1") return value.reset();
    if (!read_number(word, number))
      fail(option, "a whole number from 0 to 2^64-1, or -1 for a random one",
           fmt::format("'{}'", word));
    value = number;
  });
}

void CommandLine::choice(std::string names, std::string placeholder, std::string& value,
                         std::span<const std::string_view> known, std::string help) {
  single(names, std::move(placeholder), std::move(help),
         [&value, known, option = long_name(names)](const std::string& word) {
           for (std::string_view name : known)
             if (name == word) {
               value = word;
               return;
             }
           throw Error(ErrorCode::invalid_argument, {.subject = option,
                                                     .expected = fmt::format("unknown '{}'", word),
                                                     .hint = suggest(word, known)});
         });
}

void CommandLine::flag(std::string names, bool& value, std::string help) {
  app_.add_flag(std::move(names), value, std::move(help))->group(group_);
}

bool CommandLine::parse(std::span<const std::string> arguments) {
  std::vector<std::string> reversed(arguments.rbegin(), arguments.rend());
  try {
    app_.parse(std::move(reversed));
  } catch (const CLI::CallForHelp&) {
    std::cout << app_.help();
    return false;
  } catch (const CLI::ParseError& error) {
    throw Error(ErrorCode::invalid_argument,
                {.expected = plain_words(error.what()),
                 .hint = fmt::format("See 'atelier {} --help'", command_)});
  }
  if (const std::vector<std::string> extras = app_.remaining(); !extras.empty())
    fail_unknown(extras.front());
  return true;
}

void CommandLine::fail_unknown(const std::string& argument) const {
  const std::string name = argument.substr(0, argument.find('='));
  std::vector<std::string> known;
  for (const CLI::Option* option : app_.get_options())
    for (const std::string& long_option : option->get_lnames()) known.push_back("--" + long_option);
  const std::vector<std::string_view> views(known.begin(), known.end());
  const bool option = name.find_first_not_of('-') != name.npos && name.starts_with('-');
  const std::string_view close = option ? nearest(name, views) : std::string_view();
  const char* kind = option ? "unknown option" : "unexpected argument";
  throw Error(ErrorCode::invalid_argument,
              {.expected = fmt::format("{} '{}'", kind, name),
               .hint = close.empty() ? fmt::format("See 'atelier {} --help'", command_)
                                     : fmt::format("Did you mean '{}'?", close)});
}

}  // namespace atelier
