// A place that computes: read this header first. The CPU, or one accelerator by number.
#pragma once

#include <c10/core/Device.h>
#include <c10/core/ScalarType.h>

#include <compare>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/bytes.h"

namespace atelier {

enum class DeviceKind : uint8_t { cpu, cuda };

/// A compute device by kind and number. A cheap value; says nothing about whether it exists.
struct Device {
  DeviceKind kind = DeviceKind::cpu;
  int8_t index = 0;

  bool is_cpu() const { return kind == DeviceKind::cpu; }
  /// The same place in libtorch's terms.
  at::Device torch() const;
  constexpr auto operator<=>(const Device&) const = default;
};

/// "cpu", "cuda:1"
std::string to_string(Device device);
/// Reads "cpu", "cuda" (the first) or "cuda:1" and checks that this machine has it. Throws
/// `invalid_argument`.
Device parse_device(std::string_view text);
/// Every device of this machine, the CPU first.
std::vector<Device> devices();

/// Memory of a device at this moment; of the CPU what this process may use (device/memory_info.h).
struct DeviceMemory {
  Bytes free, total;
};
DeviceMemory device_memory(Device device);

/// Whether matrix products in `dtype` are native there: fp32 everywhere, bf16 on CPUs with
/// AVX512-BF16 or AMX and on CUDA from compute capability 8.0, fp16 on CUDA and on CPUs with
/// AVX512-FP16.
bool computes_natively(Device device, at::ScalarType dtype);

/// The compute dtype `auto` means on `device`: on the CPU bf16 if native, else fp32; elsewhere the
/// first native entry of `preference` (a model's own order), else fp32.
at::ScalarType default_dtype(Device device, std::span<const at::ScalarType> preference);

/// "fp32", "bf16", "fp16"; the reverse throws `invalid_argument`.
std::string_view dtype_name(at::ScalarType dtype);
at::ScalarType parse_dtype(std::string_view text);

}  // namespace atelier
