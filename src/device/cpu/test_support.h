// What the kernel tests share: arrays in either storage type, random numbers, and a list of the
// instruction sets this machine runs.
#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "device/cpu/kernels.h"
#include "device/cpu/scalar.h"

namespace atelier {

/// Numbers stored as fp32 or bf16, readable as double.
class Array {
 public:
  Array(CpuType type, int64_t count)
      : type_(type), count_(count), bytes_(static_cast<size_t>(count) * width()) {}

  /// Normally distributed, rounded to `type`.
  static Array random(CpuType type, int64_t count, uint32_t seed, float deviation = 1) {
    std::mt19937 engine(seed);
    std::normal_distribution<float> normal(0, deviation);
    Array array(type, count);
    for (int64_t i = 0; i < count; ++i) array.set(i, normal(engine));
    return array;
  }

  CpuType type() const { return type_; }
  int64_t count() const { return count_; }
  void* data() { return bytes_.data(); }
  const void* data() const { return bytes_.data(); }
  bool operator==(const Array& other) const { return bytes_ == other.bytes_; }

  double at(int64_t i) const {
    if (type_ == CpuType::fp32) return static_cast<double>(read<float>(i));
    return static_cast<double>(type_ == CpuType::bf16 ? widen(read<Bf16>(i))
                                                      : widen(read<Fp16>(i)));
  }
  void set(int64_t i, float value) {
    if (type_ == CpuType::fp32) return write(i, value);
    Bf16 half;
    narrow(value, half);
    write(i, half);
  }

 private:
  size_t width() const { return type_ == CpuType::fp32 ? 4 : 2; }
  template <class T>
  T read(int64_t i) const {
    T value;
    std::memcpy(&value, bytes_.data() + static_cast<size_t>(i) * sizeof(T), sizeof(T));
    return value;
  }
  template <class T>
  void write(int64_t i, T value) {
    std::memcpy(bytes_.data() + static_cast<size_t>(i) * sizeof(T), &value, sizeof(T));
  }

  CpuType type_;
  int64_t count_;
  std::vector<char> bytes_;
};

/// Memory for packed weights, aligned as kernels want it, filled with a pattern that is no number.
class PackedBytes {
 public:
  explicit PackedBytes(int64_t count) : bytes_(static_cast<size_t>(count) + 64, '\xff') {}
  void* data() {
    const auto address = reinterpret_cast<uintptr_t>(bytes_.data());
    return bytes_.data() + (64 - address % 64) % 64;
  }

 private:
  std::vector<char> bytes_;
};

/// Rows of an array, copied when asked for.
class CopyingReader final : public CpuWeightReader {
 public:
  CopyingReader(const Array& weights, int64_t row) : weights_(weights), row_(row) {}
  void read(int64_t first, int64_t count, void* to) const override {
    const int64_t size = weights_.type() == CpuType::fp32 ? 4 : 2;
    std::memcpy(to, static_cast<const char*>(weights_.data()) + first * row_ * size,
                static_cast<size_t>(count * row_ * size));
  }

 private:
  const Array& weights_;
  int64_t row_;
};

/// Root of the mean squared difference over the root of the mean square of `want`.
inline double relative_error(const Array& got, const std::vector<double>& want) {
  double off = 0, norm = 0;
  for (int64_t i = 0; i < got.count(); ++i) {
    const double w = want[static_cast<size_t>(i)];
    off += (got.at(i) - w) * (got.at(i) - w);
    norm += w * w;
  }
  return std::sqrt(off / (norm > 0 ? norm : 1));
}

/// One instruction set and one storage type.
struct Variant {
  CpuIsa isa;
  CpuType type;
};

inline std::vector<Variant> all_variants() {
  std::vector<Variant> variants;
  for (const CpuIsa isa : cpu_isas(detect_cpu_features())) {
    variants.push_back({isa, CpuType::fp32});
    variants.push_back({isa, CpuType::bf16});
  }
  return variants;
}

/// The base of tests that run once for every variant.
class KernelTest : public testing::TestWithParam<Variant> {
 protected:
  const CpuKernels& kernels() const { return cpu_kernels(detect_cpu_features(), GetParam().isa); }
  CpuType type() const { return GetParam().type; }
  /// `fp32` or `bf16`, whichever the variant stores.
  double tolerance(double fp32, double bf16) const { return type() == CpuType::fp32 ? fp32 : bf16; }
};

inline std::string variant_name(const testing::TestParamInfo<Variant>& info) {
  return std::string(cpu_isa_name(info.param.isa)) +
         (info.param.type == CpuType::fp32 ? "_fp32" : "_bf16");
}

}  // namespace atelier
