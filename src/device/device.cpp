// Devices through libtorch's device-neutral interface, and /proc/meminfo for the CPU.
#include "device/device.h"

#include <ATen/DeviceAccelerator.h>
#include <dlfcn.h>
#include <fmt/format.h>

#include "base/error.h"
#include "device/memory_info.h"

namespace atelier {
namespace {

struct KindRow {
  DeviceKind kind;
  std::string_view name;
  at::DeviceType type;
};
constexpr KindRow kKinds[] = {
    {DeviceKind::cpu, "cpu", at::kCPU},
    {DeviceKind::cuda, "cuda", at::kCUDA},
};
const KindRow& row(DeviceKind kind) { return kKinds[static_cast<size_t>(kind)]; }

struct DtypeRow {
  at::ScalarType dtype;
  std::string_view name;
};
constexpr DtypeRow kDtypes[] = {
    {at::kFloat, "fp32"},
    {at::kBFloat16, "bf16"},
    {at::kHalf, "fp16"},
};

int accelerators() {
  const bool present = at::hasCUDA() && at::accelerator::isAccelerator(at::kCUDA);
  return present ? static_cast<int>(at::accelerator::deviceCount()) : 0;
}

DeviceMemory host_memory() {
  const MemoryInfo memory = read_memory_info();
  return {memory.usable_available(), memory.usable_total()};
}

// The CUDA runtime is there only when libtorch brought it, so it is asked by name.
int cuda_compute_major(int index) {
  constexpr int kComputeCapabilityMajor = 75;
  using Attribute = int(int* value, int attribute, int device);
  auto* const attribute =
      reinterpret_cast<Attribute*>(dlsym(RTLD_DEFAULT, "cudaDeviceGetAttribute"));
  int major = 0;
  const bool known = attribute && attribute(&major, kComputeCapabilityMajor, index) == 0;
  return known ? major : 0;
}

bool cpu_computes(at::ScalarType dtype) {
  if (dtype == at::kFloat) return true;
#if defined(__x86_64__)
  if (dtype == at::kBFloat16) return __builtin_cpu_supports("avx512bf16") != 0;
  if (dtype == at::kHalf) return __builtin_cpu_supports("avx512fp16") != 0;
#endif
  return false;
}

}  // namespace

at::Device Device::torch() const {
  return is_cpu() ? at::Device(at::kCPU) : at::Device(row(kind).type, index);
}

std::string to_string(Device device) {
  const std::string_view name = row(device.kind).name;
  return device.is_cpu() ? std::string(name) : fmt::format("{}:{}", name, device.index);
}

std::vector<Device> devices() {
  std::vector<Device> all{Device{}};
  for (int i = 0; i < accelerators(); ++i)
    all.push_back({DeviceKind::cuda, static_cast<int8_t>(i)});
  return all;
}

Device parse_device(std::string_view text) {
  const std::vector<Device> known = devices();
  std::string names;
  for (const Device& device : known) {
    const std::string name = to_string(device);
    if (text == name || (device.index == 0 && text == row(device.kind).name)) return device;
    names += (names.empty() ? "" : ", ") + name;
  }
  throw Error(ErrorCode::invalid_argument,
              {.subject = "device", .expected = names, .found = fmt::format("'{}'", text)});
}

DeviceMemory device_memory(Device device) {
  if (device.is_cpu()) return host_memory();
  const auto [free, total] = at::accelerator::getMemoryInfo(device.index);
  return {Bytes(static_cast<int64_t>(free)), Bytes(static_cast<int64_t>(total))};
}

bool computes_natively(Device device, at::ScalarType dtype) {
  if (device.is_cpu()) return cpu_computes(dtype);
  if (dtype == at::kBFloat16) return cuda_compute_major(device.index) >= 8;
  return dtype == at::kFloat || dtype == at::kHalf;
}

at::ScalarType default_dtype(Device device, std::span<const at::ScalarType> preference) {
  if (device.is_cpu()) return cpu_computes(at::kBFloat16) ? at::kBFloat16 : at::kFloat;
  for (const at::ScalarType dtype : preference)
    if (computes_natively(device, dtype)) return dtype;
  return at::kFloat;
}

std::string_view dtype_name(at::ScalarType dtype) {
  for (const DtypeRow& known : kDtypes)
    if (known.dtype == dtype) return known.name;
  return c10::toString(dtype);
}

at::ScalarType parse_dtype(std::string_view text) {
  for (const DtypeRow& known : kDtypes)
    if (known.name == text) return known.dtype;
  throw Error(
      ErrorCode::invalid_argument,
      {.subject = "dtype", .expected = "fp32, bf16 or fp16", .found = fmt::format("'{}'", text)});
}

}  // namespace atelier
