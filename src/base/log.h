// The log: the only place from which libraries print. Messages go to standard error.
#pragma once

#include <spdlog/spdlog.h>

namespace atelier::log {

using spdlog::debug;
using spdlog::info;
using spdlog::warn;

/// Sends the log to standard error without decoration; `verbose` adds debug messages. Called once
/// by the command.
void set_up(bool verbose);

}  // namespace atelier::log
