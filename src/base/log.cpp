// The log's sink: one line for each message, whatever it quotes.
#include "base/log.h"

#include <fmt/format.h>
#include <spdlog/sinks/base_sink.h>

#include <mutex>

#include "base/one_line.h"
#include "base/standard_streams.h"

namespace atelier::log {
namespace {

class Sink final : public spdlog::sinks::base_sink<std::mutex> {
 private:
  void sink_it_(const spdlog::details::log_msg& message) override {
    const auto level = spdlog::level::to_string_view(message.level);
    put(stderr, fmt::format("{}: {}\n", std::string_view(level.data(), level.size()),
                            one_line({message.payload.data(), message.payload.size()})));
  }
  void flush_() override { std::fflush(stderr); }
};

}  // namespace

void set_up(bool verbose) {
  auto logger = std::make_shared<spdlog::logger>("atelier", std::make_shared<Sink>());
  logger->set_level(verbose ? spdlog::level::debug : spdlog::level::info);
  spdlog::set_default_logger(std::move(logger));
}

}  // namespace atelier::log
