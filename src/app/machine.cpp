// Readers of /proc and the cgroup files.
#include "app/machine.h"

#include <fmt/format.h>
#include <sched.h>
#include <sys/utsname.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <fstream>
#include <sstream>

namespace atelier {
namespace {

constexpr std::array<std::string_view, 11> kFeatures = {
    "avx2",        "fma",         "f16c",     "avx512f",  "avx512_vnni", "avx_vnni",
    "avx512_bf16", "avx512_fp16", "amx_tile", "amx_bf16", "amx_int8"};

/// Value of the first line "key<separator>value", without the spaces around it.
std::string line_value(const char* file, std::string_view key, char separator) {
  std::ifstream in(file);
  for (std::string line; std::getline(in, line);) {
    const size_t at = line.find(separator);
    if (at == line.npos || !line.starts_with(key)) continue;
    if (line.find_first_not_of(" \t", key.size()) != at) continue;
    const size_t begin = line.find_first_not_of(" \t\"", at + 1);
    const size_t end = line.find_last_not_of(" \t\"");
    return begin == line.npos ? "" : line.substr(begin, end - begin + 1);
  }
  return {};
}

Bytes memory_line(std::string_view key) {
  const std::string text = line_value("/proc/meminfo", key, ':');
  int64_t kibibytes = 0;
  std::from_chars(text.data(), text.data() + text.size(), kibibytes);
  return Bytes(kibibytes << 10);
}

/// The number a cgroup file holds, or -1 for "max" and missing files.
int64_t cgroup_number(const char* file) {
  std::ifstream in(file);
  int64_t number = -1;
  return in >> number ? number : -1;
}

void apply_cgroup_limit(Machine& machine) {
  const int64_t limit = cgroup_number("/sys/fs/cgroup/memory.max");
  const int64_t used = cgroup_number("/sys/fs/cgroup/memory.current");
  if (limit <= 0 || limit >= machine.memory.count()) return;
  machine.memory = Bytes(limit);
  if (used >= 0)
    machine.memory_available =
        std::min(machine.memory_available, Bytes(std::max<int64_t>(limit - used, 0)));
}

int usable_cores() {
  cpu_set_t set;
  CPU_ZERO(&set);
  int cores = sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : 1;
  std::ifstream in("/sys/fs/cgroup/cpu.max");
  double quota = 0, period = 0;
  if (in >> quota >> period && period > 0)
    cores = std::min(cores, std::max(1, static_cast<int>(std::ceil(quota / period))));
  return cores;
}

std::vector<std::string> features() {
  std::istringstream words(line_value("/proc/cpuinfo", "flags", ':'));
  std::vector<std::string> found;
  for (std::string word; words >> word;)
    if (std::find(kFeatures.begin(), kFeatures.end(), word) != kFeatures.end())
      found.push_back(word);
  return found;
}

std::string system_name() {
  utsname names{};
  const std::string kernel = uname(&names) == 0 ? fmt::format("{} {}", names.sysname, names.release)
                                                : std::string("unknown kernel");
  const std::string distribution = line_value("/etc/os-release", "PRETTY_NAME", '=');
  return distribution.empty() ? kernel : distribution + ", " + kernel;
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
  Machine machine;
  machine.system = system_name();
  machine.processor = line_value("/proc/cpuinfo", "model name", ':');
  machine.features = features();
  machine.cores = usable_cores();
  machine.memory = memory_line("MemTotal");
  machine.memory_available = memory_line("MemAvailable");
  machine.swap = memory_line("SwapTotal");
  machine.nvidia_driver = nvidia_driver();
  apply_cgroup_limit(machine);
  return machine;
}

}  // namespace atelier
