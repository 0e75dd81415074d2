// What calls of the CPU's kernels share.
#pragma once

#include <ATen/record_function.h>
#include <fmt/format.h>

#include <string>
#include <string_view>

#include "nn/cpu.h"

namespace atelier::nn::cpu {

/// Shows a kernel's run to libtorch's profilers as "kind detail, N GFLOP"; costs next to nothing
/// when none listens.
class Recorded {
 public:
  template <class Detail>
  Recorded(std::string_view kind, int64_t flops, const Detail& detail) {
    if (!record_.isActive()) return;
    name_ = fmt::format("{} {}, {:.3f} GFLOP", kind, detail(), static_cast<double>(flops) * 1e-9);
    record_.before(std::string_view(name_));
  }

 private:
  std::string name_;  // outlives the record that views it
  at::RecordFunction record_{at::RecordScope::USER_SCOPE};
};

/// Of a tensor that `takes` says yes to.
inline CpuType type_of(const Tensor& x) { return *compute_type(x.scalar_type()); }

}  // namespace atelier::nn::cpu
