// Ctrl-C: the first asks the work to stop, the second ends the program at once.
#pragma once

#include <stop_token>
#include <string_view>
#include <thread>

namespace atelier {

/// Turns SIGINT and SIGTERM into a stop request while it lives. Create it on the main thread
/// before any other thread, so that all of them leave these signals to it.
class Interrupt {
 public:
  /// `stopping` is told on a terminal when the first comes: "Stopping after this step".
  explicit Interrupt(std::string_view stopping);
  Interrupt(const Interrupt&) = delete;
  Interrupt& operator=(const Interrupt&) = delete;
  ~Interrupt();
  std::stop_token token() const { return source_.get_token(); }

 private:
  std::stop_source source_;
  std::thread watcher_;
};

}  // namespace atelier
