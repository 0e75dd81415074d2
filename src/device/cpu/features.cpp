// Processor facts from cpuid, xgetbv, the affinity mask and the cgroup's files.
#include "device/cpu/features.h"

#include <sched.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <iterator>
#include <string>

#if defined(__x86_64__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace atelier {
namespace {

constexpr CpuFlag kFlags[] = {
    {"avx2", &CpuFeatures::avx2},
    {"fma", &CpuFeatures::fma},
    {"f16c", &CpuFeatures::f16c},
    {"avx_vnni", &CpuFeatures::avx_vnni},
    {"avx512f", &CpuFeatures::avx512f},
    {"avx512bw", &CpuFeatures::avx512bw},
    {"avx512vl", &CpuFeatures::avx512vl},
    {"avx512dq", &CpuFeatures::avx512dq},
    {"avx512_vnni", &CpuFeatures::avx512_vnni},
    {"avx512_vbmi", &CpuFeatures::avx512_vbmi},
    {"avx512_bf16", &CpuFeatures::avx512_bf16},
    {"avx512_fp16", &CpuFeatures::avx512_fp16},
    {"amx_tile", &CpuFeatures::amx_tile},
    {"amx_bf16", &CpuFeatures::amx_bf16},
    {"amx_int8", &CpuFeatures::amx_int8},
};

#if defined(__x86_64__)

struct Cpuid {
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
  bool valid = false;
  explicit Cpuid(unsigned leaf, unsigned subleaf = 0) {
    valid = __get_cpuid_count(leaf, subleaf, &eax, &ebx, &ecx, &edx) != 0;
  }
};

uint64_t enabled_states() {
  unsigned low = 0, high = 0;
  asm volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return uint64_t{high} << 32 | low;
}

// Tile registers need the kernel's permission, asked for once per process (Linux,
// Documentation/arch/x86/xstate.rst). Asking again is harmless.
bool request_tiles() {
#if defined(__linux__)
  constexpr long kRequestPermission = 0x1023;
  constexpr long kTileData = 18;
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
#else
  return false;
#endif
}

void append_registers(std::string& text, std::initializer_list<unsigned> registers) {
  for (const unsigned value : registers) {
    for (int shift = 0; shift < 32; shift += 8) {
      const char c = static_cast<char>(value >> shift & 0xff);
      if (c != '\0') text += c;
    }
  }
}

void read_names(CpuFeatures& f) {
  const Cpuid vendor(0);
  append_registers(f.vendor, {vendor.ebx, vendor.edx, vendor.ecx});
  for (unsigned leaf = 0x80000002; leaf <= 0x80000004; ++leaf) {
    const Cpuid part(leaf);
    append_registers(f.model, {part.eax, part.ebx, part.ecx, part.edx});
  }
  const size_t first = f.model.find_first_not_of(' ');
  const size_t last = f.model.find_last_not_of(' ');
  f.model = first == std::string::npos ? "" : f.model.substr(first, last - first + 1);
}

void read_flags(CpuFeatures& f) {
  const auto bit = [](unsigned word, int index) { return (word >> index & 1U) != 0; };
  const Cpuid basic(1);
  if (!basic.valid || !bit(basic.ecx, 27)) return;  // the system saves no vector state
  constexpr uint64_t kYmm = 0x6, kZmm = 0xe6, kTiles = 0x60000;
  const uint64_t states = enabled_states();
  const Cpuid extended(7, 0), more(7, 1);
  if ((states & kYmm) != kYmm) return;
  f.fma = bit(basic.ecx, 12);
  f.f16c = bit(basic.ecx, 29);
  f.avx2 = bit(extended.ebx, 5);
  f.avx_vnni = bit(more.eax, 4);
  if ((states & kZmm) == kZmm) {
    f.avx512f = bit(extended.ebx, 16);
    f.avx512dq = bit(extended.ebx, 17);
    f.avx512bw = bit(extended.ebx, 30);
    f.avx512vl = bit(extended.ebx, 31);
    f.avx512_vbmi = bit(extended.ecx, 1);
    f.avx512_vnni = bit(extended.ecx, 11);
    f.avx512_fp16 = bit(extended.edx, 23);
    f.avx512_bf16 = bit(more.eax, 5);
  }
  if ((states & kTiles) == kTiles && bit(extended.edx, 24) && request_tiles()) {
    f.amx_bf16 = bit(extended.edx, 22);
    f.amx_tile = true;
    f.amx_int8 = bit(extended.edx, 25);
  }
}

// Deterministic cache parameters: leaf 4 on Intel, 0x8000001d with the same layout on AMD.
void read_caches(CpuFeatures& f) {
  const unsigned leaf = f.vendor == "AuthenticAMD" ? 0x8000001d : 4;
  for (unsigned i = 0; i < 16; ++i) {
    const Cpuid cache(leaf, i);
    const unsigned type = cache.eax & 0x1f, level = cache.eax >> 5 & 7;
    constexpr unsigned kNone = 0, kInstruction = 2;
    if (!cache.valid || type == kNone) return;
    if (type == kInstruction) continue;
    const int64_t line = (cache.ebx & 0xfff) + 1, partitions = (cache.ebx >> 12 & 0x3ff) + 1;
    const int64_t ways = (cache.ebx >> 22) + 1, sets = int64_t{cache.ecx} + 1;
    const Bytes size(line * partitions * ways * sets);
    if (level == 1) f.l1d = size;
    if (level == 2) f.l2 = size;
    if (level == 3) f.l3 = size;
  }
}

#else

void read_names(CpuFeatures&) {}
void read_flags(CpuFeatures&) {}
void read_caches(CpuFeatures&) {}

#endif

int affinity_count() {
  cpu_set_t set;
  CPU_ZERO(&set);
  return sched_getaffinity(0, sizeof set, &set) == 0 ? std::max(1, CPU_COUNT(&set)) : 1;
}

// "max 100000" or "150000 100000" (cgroup v2), or two files with one number each (v1).
double cgroup_quota() {
  std::string quota;
  double period = 0;
  if (std::ifstream file("/sys/fs/cgroup/cpu.max"); !(file >> quota >> period)) {
    std::ifstream("/sys/fs/cgroup/cpu/cpu.cfs_quota_us") >> quota;
    std::ifstream("/sys/fs/cgroup/cpu/cpu.cfs_period_us") >> period;
  }
  const double granted = std::strtod(quota.c_str(), nullptr);
  return granted > 0 && period > 0 ? granted / period : 0;
}

}  // namespace

int CpuFeatures::usable_threads() const {
  if (cpu_quota <= 0) return cpus;
  return std::clamp(static_cast<int>(std::ceil(cpu_quota)), 1, cpus);
}

std::span<const CpuFlag> cpu_flags() { return kFlags; }

CpuFeatures detect_cpu_features() {
  CpuFeatures features;
  read_names(features);
  read_flags(features);
  read_caches(features);
  features.cpus = affinity_count();
  features.cpu_quota = cgroup_quota();
  return features;
}

}  // namespace atelier
