// The table of subcommands, and the two that only print.
#include "app/commands.h"

#include <fmt/format.h>

#include <array>
#include <cstdio>
#include <vector>

#include "app/command_line.h"
#include "base/error.h"

namespace atelier {
namespace {

constexpr std::array kCommands = {
    Command{"generate", "draw pictures from a prompt", run_generate},
    Command{"inspect", "say what a checkpoint file holds", run_inspect},
    Command{"quantize", "write a model file in another encoding", run_quantize},
    Command{"doctor", "look at this machine and this installation", run_doctor},
    Command{"help", "print help, also of one command: atelier help generate", run_help},
    Command{"version", "print the version", run_version},
};

}  // namespace

std::span<const Command> commands() { return kCommands; }

int run_help(std::span<const std::string> arguments) {
  if (!arguments.empty()) {
    const std::string help = "--help";
    for (const Command& command : kCommands)
      if (command.name == arguments.front() && command.run != run_help &&
          command.run != run_version)
        return command.run({&help, 1});
    std::vector<std::string_view> names;
    for (const Command& command : kCommands) names.push_back(command.name);
    throw Error(ErrorCode::invalid_argument,
                {.expected = fmt::format("no help on '{}'", arguments.front()),
                 .hint = suggest(arguments.front(), names)});
  }
  fmt::print(
      "Draws pictures with diffusion models.\n\nUsage: atelier COMMAND [OPTIONS]\n\nCommands:\n");
  for (const Command& command : kCommands)
    fmt::print("  {:<10} {}\n", command.name, command.summary);
  fmt::print(
      "\n'atelier COMMAND --help' lists the options of one command. For a first picture:\n"
      "  atelier generate --model models/demo/atelier-demo.safetensors --prompt \"a red "
      "circle\"\n\n"
      "Exit codes: 0 done, 1 failed, 2 wrong use, 130 stopped by Ctrl-C, 70 an error in "
      "atelier.\n");
  return 0;
}

int run_version(std::span<const std::string>) {
  fmt::print("atelier {}\n", ATELIER_VERSION);
  return 0;
}

}  // namespace atelier
