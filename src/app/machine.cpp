// Readers of /proc and /etc.
#include "app/machine.h"

#include <fmt/format.h>
#include <sys/utsname.h>

#include <algorithm>
#include <fstream>
#include <string_view>

namespace atelier {
namespace {

/// Value of the line "PRETTY_NAME=..." without its quotes.
std::string distribution() {
  constexpr std::string_view key = "PRETTY_NAME=";
  std::ifstream in("/etc/os-release");
  for (std::string line; std::getline(in, line);) {
    if (!line.starts_with(key)) continue;
    std::erase(line, '"');
    return line.substr(key.size());
  }
  return {};
}

std::string system_name() {
  utsname names{};
  const std::string kernel = uname(&names) == 0 ? fmt::format("{} {}", names.sysname, names.release)
                                                : std::string("unknown kernel");
  const std::string name = distribution();
  return name.empty() ? kernel : name + ", " + kernel;
}

std::string nvidia_driver() {
  std::ifstream in("/proc/driver/nvidia/version");
  for (std::string word; in >> word;)
    if (std::count(word.begin(), word.end(), '.') >= 1 &&
        word.find_first_not_of("0123456789.") == word.npos)
      return word;
  return {};
}

}  // namespace

Machine look_at_machine() {
  return {system_name(), detect_cpu_features(), read_memory_info(), nvidia_driver()};
}

}  // namespace atelier
