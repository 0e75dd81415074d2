// Readers of /proc and /sys; formats as in Linux' Documentation/filesystems/proc.rst,
// accounting/psi, admin-guide/cgroup-v2, scheduler/sched-bwc and admin-guide/abi.
#include "app/engine/vitals.h"

#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>

#include "device/memory_info.h"

namespace atelier {
namespace {

/// The number behind "Key:" in a file of such lines.
double value_of(const char* path, std::string_view key) {
  std::ifstream file(path);
  for (std::string line; std::getline(file, line);)
    if (line.starts_with(key)) return std::strtod(line.c_str() + key.size(), nullptr);
  return 0;
}

double first_number(const std::filesystem::path& path) {
  std::ifstream file(path);
  double number = 0;
  return file >> number ? number : 0;
}

double seconds(const timeval& time) {
  return static_cast<double>(time.tv_sec) + 1e-6 * static_cast<double>(time.tv_usec);
}

void read_own(Vitals& vitals) {
  rusage use{};
  if (::getrusage(RUSAGE_SELF, &use) != 0) return;
  vitals.own = seconds(use.ru_utime) + seconds(use.ru_stime);
  vitals.major_faults = static_cast<uint64_t>(use.ru_majflt);
}

/// "cpu  user nice system idle iowait irq softirq steal ...", in ticks.
void read_processors(Vitals& vitals) {
  std::ifstream file("/proc/stat");
  std::string cpu;
  double user = 0, nice = 0, system = 0, idle = 0, wait = 0, irq = 0, soft = 0, steal = 0;
  if (!(file >> cpu >> user >> nice >> system >> idle >> wait >> irq >> soft >> steal)) return;
  const double tick = 1.0 / static_cast<double>(std::max(1L, ::sysconf(_SC_CLK_TCK)));
  vitals.busy = tick * (user + nice + system + irq + soft);
  vitals.stolen = tick * steal;
  vitals.processors = static_cast<int>(std::max(1L, ::sysconf(_SC_NPROCESSORS_ONLN)));
}

/// "some avg10=0.00 ... total=MICROSECONDS"
double memory_stall() {
  std::ifstream file("/proc/pressure/memory");
  for (std::string line; std::getline(file, line);)
    if (const size_t total = line.find("total="); line.starts_with("some") && total != line.npos)
      return 1e-6 * std::strtod(line.c_str() + total + 6, nullptr);
  return 0;
}

/// What a cpu.stat says: "throttled_usec N", or "throttled_time N" in nanoseconds (version 1).
double held_back_in(const std::filesystem::path& stat) {
  std::ifstream file(stat);
  std::string key;
  for (double value = 0; file >> key >> value;) {
    if (key == "throttled_usec") return 1e-6 * value;
    if (key == "throttled_time") return 1e-9 * value;
  }
  return 0;
}

/// Of this process's cgroups that can limit processors, and their ancestors: lines "id:names:path".
double held_back() {
  constexpr int kDeepest = 64;
  double sum = 0;
  std::ifstream file("/proc/self/cgroup");
  for (std::string line; std::getline(file, line);) {
    const size_t first = line.find(':'), second = line.find(':', first + 1);
    if (second == line.npos) continue;
    const std::string names = "," + line.substr(first + 1, second - first - 1) + ",";
    if (names != ",," && names.find(",cpu,") == names.npos) continue;
    const std::string root = names == ",," ? "/sys/fs/cgroup" : "/sys/fs/cgroup/cpu";
    std::filesystem::path path = line.substr(second + 1);
    for (int depth = 0; depth < kDeepest; ++depth, path = path.parent_path()) {
      sum += held_back_in(root + (path / "cpu.stat").string());
      if (path == path.parent_path()) break;
    }
  }
  return sum;
}

void read_clocks(Vitals& vitals) {
  double sum = 0;
  int known = 0;
  for (int i = 0; i < vitals.processors; ++i) {
    const std::filesystem::path cpu = "/sys/devices/system/cpu/cpu" + std::to_string(i);
    vitals.throttled +=
        static_cast<uint64_t>(first_number(cpu / "thermal_throttle/core_throttle_count"));
    const double kilohertz = first_number(cpu / "cpufreq/scaling_cur_freq");
    sum += kilohertz * 1e-3;
    known += kilohertz > 0;
  }
  if (known > 0) vitals.megahertz = sum / known;
}

}  // namespace

Vitals read_vitals() {
  Vitals vitals;
  const MemoryInfo memory = read_memory_info();
  vitals.allowed = memory.usable_total();
  vitals.available = memory.usable_available();
  vitals.resident = read_process_memory().resident;
  vitals.swapped = Bytes(static_cast<int64_t>(value_of("/proc/self/status", "VmSwap:")) << 10);
  vitals.read = Bytes(static_cast<int64_t>(value_of("/proc/self/io", "read_bytes:")));
  vitals.memory_stall = memory_stall();
  vitals.held_back = held_back();
  read_own(vitals);
  read_processors(vitals);
  read_clocks(vitals);
  return vitals;
}

}  // namespace atelier
