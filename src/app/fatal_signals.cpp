// A handler that does nothing but write and leave.
#include "app/fatal_signals.h"

#include <signal.h>
#include <unistd.h>

#include <string_view>

namespace atelier {
namespace {

#define ATELIER_SHORTENED "a file was shortened while it was read, or its disk failed"

void say(int descriptor, std::string_view text) {
  [[maybe_unused]] const ssize_t written = ::write(descriptor, text.data(), text.size());
}

void leave(int) {
  say(STDERR_FILENO, "error: " ATELIER_SHORTENED "\n");
  ::_exit(1);
}

void leave_with_event(int signal) {
  say(STDOUT_FILENO,
      R"({"code":"unreadable","event":"error","exit_code":1,"message":")" ATELIER_SHORTENED
      "\"}\n");
  leave(signal);
}

}  // namespace

void settle_fatal_signals(bool json) {
  struct sigaction action{};
  action.sa_handler = json ? leave_with_event : leave;
  ::sigaction(SIGBUS, &action, nullptr);
  ::signal(SIGXFSZ, SIG_IGN);
}

}  // namespace atelier
