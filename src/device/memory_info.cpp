// Memory facts from /proc and the cgroup file system.
#include "device/memory_info.h"

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <map>
#include <string>

namespace atelier {
namespace {

namespace fs = std::filesystem;

// "Key:   123 kB" lines; values in bytes.
std::map<std::string, Bytes> read_kib_lines(const char* path) {
  std::map<std::string, Bytes> values;
  std::ifstream file(path);
  for (std::string line; std::getline(file, line);) {
    const size_t colon = line.find(':');
    if (colon == std::string::npos || line.find("kB") == std::string::npos) continue;
    values[line.substr(0, colon)] =
        Bytes(std::strtoll(line.c_str() + colon + 1, nullptr, 10) << 10);
  }
  return values;
}

// A file that holds one number; "max" and what cannot be read are 0.
int64_t read_number(const fs::path& path) {
  int64_t value = 0;
  std::ifstream file(path);
  return file >> value ? value : 0;
}

int64_t read_stat(const fs::path& path, const std::string& wanted) {
  std::ifstream file(path);
  std::string key;
  for (int64_t value = 0; file >> key >> value;) {
    if (key == wanted) return value;
  }
  return 0;
}

struct CgroupFiles {
  const char* root;
  const char* controller;  // as /proc/self/cgroup names it
  const char* limit;
  const char* used;
  const char* droppable;  // key in memory.stat
};
constexpr CgroupFiles kCgroupVersions[] = {
    {"/sys/fs/cgroup", "", "memory.max", "memory.current", "inactive_file"},
    {"/sys/fs/cgroup/memory", "memory", "memory.limit_in_bytes", "memory.usage_in_bytes",
     "total_inactive_file"},
};

// Path of this process below the root of the hierarchy with `controller`: lines "id:names:path".
fs::path cgroup_path(const std::string& controller) {
  std::ifstream file("/proc/self/cgroup");
  for (std::string line; std::getline(file, line);) {
    const size_t first = line.find(':'), second = line.find(':', first + 1);
    if (second == std::string::npos) continue;
    if (line.substr(first + 1, second - first - 1) == controller) return line.substr(second + 1);
  }
  return "/";
}

void read_cgroup(const CgroupFiles& files, MemoryInfo& info) {
  fs::path path = cgroup_path(files.controller);
  constexpr int kDeepest = 64;
  for (int depth = 0; depth < kDeepest; ++depth, path = path.parent_path()) {
    const fs::path folder = files.root + path.string();
    const Bytes limit(read_number(folder / files.limit));
    const bool binding = limit > 0_B && limit < info.total;
    if (binding && (info.cgroup_limit == 0_B || limit < info.cgroup_limit)) {
      const int64_t used = read_number(folder / files.used);
      const int64_t droppable = read_stat(folder / "memory.stat", files.droppable);
      info.cgroup_limit = limit;
      info.cgroup_used = Bytes(std::max<int64_t>(0, used - droppable));
    }
    if (path == path.parent_path()) return;
  }
}

}  // namespace

Bytes MemoryInfo::usable_total() const {
  return cgroup_limit > 0_B ? std::min(total, cgroup_limit) : total;
}

Bytes MemoryInfo::usable_available() const {
  if (cgroup_limit == 0_B) return available;
  return std::min(available, std::max(0_B, cgroup_limit - cgroup_used));
}

MemoryInfo read_memory_info() {
  auto machine = read_kib_lines("/proc/meminfo");
  MemoryInfo info{.total = machine["MemTotal"],
                  .available = machine["MemAvailable"],
                  .cgroup_limit = {},
                  .cgroup_used = {}};
  for (const CgroupFiles& files : kCgroupVersions) read_cgroup(files, info);
  return info;
}

ProcessMemory read_process_memory() {
  auto status = read_kib_lines("/proc/self/status");
  return {.resident = status["VmRSS"], .peak = status["VmHWM"]};
}

}  // namespace atelier
