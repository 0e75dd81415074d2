// A thread waits for the signals that all others block.
#include "app/interrupt.h"

#include <signal.h>
#include <unistd.h>

#include <string_view>

namespace atelier {
namespace {

constexpr int kLeave = SIGUSR1;  // sent by the destructor to the watcher alone

sigset_t watched() {
  sigset_t set;
  sigemptyset(&set);
  for (const int signal : {SIGINT, SIGTERM, kLeave}) sigaddset(&set, signal);
  return set;
}

void say(std::string_view text) {
  [[maybe_unused]] const ssize_t written = ::write(STDERR_FILENO, text.data(), text.size());
}

void watch(std::stop_source source, std::string_view stopping) {
  const sigset_t set = watched();
  int number = 0;
  while (::sigwait(&set, &number) == 0 && number != kLeave) {
    if (source.stop_requested()) {
      ::signal(number, SIG_DFL);
      sigset_t only;
      sigemptyset(&only);
      sigaddset(&only, number);
      pthread_sigmask(SIG_UNBLOCK, &only, nullptr);
      ::kill(::getpid(), number);
    }
    source.request_stop();
    if (!::isatty(STDERR_FILENO)) continue;
    say("\n");
    say(stopping);
    say("; once more to leave at once.\n");
  }
}

}  // namespace

Interrupt::Interrupt(std::string_view stopping) {
  const sigset_t set = watched();
  pthread_sigmask(SIG_BLOCK, &set, nullptr);
  watcher_ = std::thread(watch, source_, stopping);
}

Interrupt::~Interrupt() {
  pthread_kill(watcher_.native_handle(), kLeave);
  watcher_.join();
  const sigset_t set = watched();
  pthread_sigmask(SIG_UNBLOCK, &set, nullptr);
}

}  // namespace atelier
