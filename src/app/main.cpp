// The `atelier` command: picks the subcommand and is the last to catch an error.
#include <fmt/format.h>

#include <algorithm>
#include <cstdio>
#include <string>
#include <system_error>
#include <vector>

#include "app/command_line.h"
#include "app/commands.h"
#include "app/fatal_signals.h"
#include "base/error.h"
#include "base/json.h"
#include "base/log.h"
#include "base/standard_streams.h"

namespace {

using atelier::Command;
using atelier::Error;
using atelier::ErrorCode;

int dispatch(const std::vector<std::string>& words) {
  if (words.empty()) {
    atelier::run_help({});
    return atelier::error_info(ErrorCode::invalid_argument).exit_code;
  }
  const std::string& name = words.front();
  const std::span rest = std::span(words).subspan(1);
  if (name == "--help" || name == "-h") return atelier::run_help({});
  if (name == "--version" || name == "-V") return atelier::run_version({});
  std::vector<std::string_view> names;
  for (const Command& command : atelier::commands()) {
    if (command.name == name) return command.run(rest);
    names.push_back(command.name);
  }
  throw Error(ErrorCode::invalid_argument, {.expected = fmt::format("unknown command '{}'", name),
                                            .hint = atelier::suggest(name, names)});
}

bool wants_json(const std::vector<std::string>& words) {
  return std::ranges::find(words, "--json") != words.end();
}

/// The one line on standard error, and the event that JSON readers wait for.
int report(const Error& error, const std::vector<std::string>& words) {
  const atelier::ErrorInfo& info = atelier::error_info(error.code());
  atelier::put(stderr, fmt::format("error: {}\n", error.what()));
  if (wants_json(words)) {
    const atelier::Json event = {{"event", "error"},
                                 {"code", info.name},
                                 {"message", error.what()},
                                 {"exit_code", info.exit_code}};
    atelier::put(stdout,
                 event.dump(-1, ' ', false, atelier::Json::error_handler_t::replace) + "\n");
  }
  return info.exit_code;
}

Error output_failed() {
  return {ErrorCode::write_failed, {.subject = "standard output", .expected = "cannot be written"}};
}

}  // namespace

int main(int argc, char** argv) {
  atelier::settle_standard_streams();
  // Not even the program's own name need be there.
  const std::vector<std::string> words(argv + std::min(argc, 1), argv + argc);
  try {
    atelier::settle_fatal_signals(wants_json(words));
    atelier::log::set_up(false);
    const int code = dispatch(words);
    if (code == 0 && (std::fflush(stdout) != 0 || std::ferror(stdout) != 0)) throw output_failed();
    return code;
  } catch (const Error& error) {
    return report(error, words);
  } catch (const std::system_error& error) {
    // fmt throws it where it prints; whatever else does says what for.
    if (std::ferror(stdout) != 0) return report(output_failed(), words);
    return report(Error(ErrorCode::internal, {.expected = error.what()}), words);
  } catch (const std::bad_alloc&) {
    return report(Error(ErrorCode::out_of_memory, {.expected = "out of memory"}), words);
  } catch (const std::exception& error) {
    return report(Error(ErrorCode::internal, {.expected = error.what()}), words);
  }
}
