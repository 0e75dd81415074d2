// What this processor can do: instruction sets the operating system has enabled, caches, cores.
#pragma once

#include <span>
#include <string>
#include <string_view>

#include "base/bytes.h"

namespace atelier {

/// The processor as this process may use it. On other architectures every flag is false.
struct CpuFeatures {
  std::string vendor;
  std::string model;
  bool avx2 = false;
  bool fma = false;
  bool f16c = false;
  bool avx_vnni = false;
  bool avx512f = false;
  bool avx512bw = false;
  bool avx512vl = false;
  bool avx512dq = false;
  bool avx512_vnni = false;
  bool avx512_vbmi = false;
  bool avx512_bf16 = false;
  bool avx512_fp16 = false;
  bool amx_tile = false;
  bool amx_bf16 = false;
  bool amx_int8 = false;
  Bytes l1d;  // one core's; 0 where unknown
  Bytes l2;
  Bytes l3;
  int cpus = 1;  // logical processors in this process's affinity mask
  double cpu_quota = 0;  // processors' worth of time its cgroup grants; 0 = no limit

  /// Threads worth starting: `cpus`, or the quota rounded up where that is less.
  int usable_threads() const;
};

/// One flag by name, for tables of them.
struct CpuFlag {
  std::string_view name;
  bool CpuFeatures::* value;
};

/// All flags of CpuFeatures in the order of the struct.
std::span<const CpuFlag> cpu_flags();

/// Asks the processor and the kernel; for AMX also asks the kernel for permission to use the tile
/// registers in this process. Costs well under a millisecond. Never throws for what it cannot read.
CpuFeatures detect_cpu_features();

}  // namespace atelier
