// Declares the options of one command and turns every wrong use into a one-line error.
#pragma once

#include <CLI/App.hpp>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace atelier {

/// The options of one command, filled into the caller's variables by `parse`. Every setter throws
/// `invalid_argument` naming the option; what the values mean together the caller checks.
class CommandLine {
 public:
  CommandLine(std::string_view command, std::string summary);

  /// Options declared from here on stand under this heading of the help.
  void group(std::string heading) { group_ = std::move(heading); }
  /// An empty text is refused where `needed` says what is wanted instead.
  void text(std::string names, std::string placeholder, std::string& value, std::string help,
            std::string_view needed = {});
  /// May be given several times; each takes one value, kept in order.
  void texts(std::string names, std::string placeholder, std::vector<std::string>& values,
             std::string help);
  void path(std::string names, std::string placeholder, std::filesystem::path& value,
            std::string help);
  /// Takes one or more values at once, and may be repeated.
  void paths(std::string names, std::string placeholder, std::vector<std::filesystem::path>& values,
             std::string help);
  /// The one argument that has no option name.
  void positional(std::string name, std::filesystem::path& value, std::string help);
  void integer(std::string names, std::optional<int64_t>& value, int64_t least, int64_t most,
               std::string help);
  void integer(std::string names, int64_t& value, int64_t least, int64_t most, std::string help);
  void number(std::string names, std::optional<double>& value, double least, double most,
              std::string help);
  void number(std::string names, double& value, double least, double most, std::string help);
  /// 0 to 2^64-1; -1 leaves the value unset.
  void seed(std::string names, std::optional<uint64_t>& value, std::string help);
  /// One of `known`; another word is an error that names the nearest.
  void choice(std::string names, std::string placeholder, std::string& value,
              std::span<const std::string_view> known, std::string help);
  void flag(std::string names, bool& value, std::string help);
  void footer(std::string text) { app_.footer(std::move(text)); }

  /// Reads the arguments after the command's name. Returns false if help was asked for and printed.
  bool parse(std::span<const std::string> arguments);

 private:
  CLI::Option* single(std::string names, std::string placeholder, std::string help,
                      std::function<void(const std::string&)> take);
  [[noreturn]] void fail_unknown(const std::string& argument) const;

  std::string command_, group_ = "Options";
  CLI::App app_;
};

/// "Did you mean 'x'?", or "Known are a, b, c" when nothing is near.
std::string suggest(std::string_view name, std::span<const std::string_view> known);

}  // namespace atelier
