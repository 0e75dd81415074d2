// Set-up of the log sink.
#include "base/log.h"

#include <spdlog/sinks/stdout_sinks.h>

namespace atelier::log {

void set_up(bool verbose) {
  auto logger = std::make_shared<spdlog::logger>("atelier",
                                                 std::make_shared<spdlog::sinks::stderr_sink_mt>());
  logger->set_pattern("%l: %v");
  logger->set_level(verbose ? spdlog::level::debug : spdlog::level::info);
  spdlog::set_default_logger(std::move(logger));
}

}  // namespace atelier::log
