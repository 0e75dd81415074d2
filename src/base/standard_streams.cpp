// Placeholders for closed descriptors, and a stream that forgives.
#include "base/standard_streams.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>

namespace atelier {
namespace {

/// Takes the descriptors' numbers, opened the wrong way round: using them stays an error.
void take_closed_descriptors() {
  for (const int wanted : {STDIN_FILENO, STDOUT_FILENO, STDERR_FILENO}) {
    if (::fcntl(wanted, F_GETFD) >= 0 || errno != EBADF) continue;
    // The lowest free number is given, so this is `wanted`.
    ::open("/dev/null", wanted == STDIN_FILENO ? O_WRONLY : O_RDONLY);
  }
}

ssize_t write_or_lose(void*, const char* text, size_t size) {
  for (size_t done = 0; done < size;) {
    const ssize_t written = ::write(STDERR_FILENO, text + done, size - done);
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0) break;
    done += static_cast<size_t>(written);
  }
  return static_cast<ssize_t>(size);
}

}  // namespace

void settle_standard_streams() {
  take_closed_descriptors();
  std::FILE* forgiving = ::fopencookie(
      nullptr, "w", {.read = nullptr, .write = write_or_lose, .seek = nullptr, .close = nullptr});
  if (forgiving == nullptr) return;
  std::setvbuf(forgiving, nullptr, _IONBF, 0);
  stderr = forgiving;  // a variable in glibc, and meant to be set
}

void put(std::FILE* out, std::string_view text) noexcept {
  // The stream remembers.
  [[maybe_unused]] const size_t written = std::fwrite(text.data(), 1, text.size(), out);
}

}  // namespace atelier
