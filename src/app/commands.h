// The subcommands of `atelier`, one row each; a command is one function in its own file.
#pragma once

#include <span>
#include <string>
#include <string_view>

namespace atelier {

/// Runs a command with the words after its name and returns the exit code; throws `Error` for
/// wrong use and for failures.
using CommandFunction = int (*)(std::span<const std::string> arguments);

struct Command {
  std::string_view name;
  std::string_view summary;
  CommandFunction run;
};

std::span<const Command> commands();

int run_generate(std::span<const std::string> arguments);
int run_inspect(std::span<const std::string> arguments);
int run_quantize(std::span<const std::string> arguments);
int run_doctor(std::span<const std::string> arguments);
int run_help(std::span<const std::string> arguments);
int run_version(std::span<const std::string> arguments);

}  // namespace atelier
