// Counts of bytes: a strong type, literals, and how people read and write them.
#pragma once

#include <compare>
#include <cstdint>
#include <string>
#include <string_view>

namespace atelier {

/// A number of bytes. Adds and compares; anything else goes through `count()`.
class Bytes {
 public:
  constexpr Bytes() = default;
  constexpr explicit Bytes(int64_t count) : count_(count) {}
  constexpr int64_t count() const { return count_; }
  constexpr auto operator<=>(const Bytes&) const = default;
  constexpr Bytes operator+(Bytes other) const { return Bytes(count_ + other.count_); }
  constexpr Bytes operator-(Bytes other) const { return Bytes(count_ - other.count_); }
  constexpr Bytes& operator+=(Bytes other) { return count_ += other.count_, *this; }

 private:
  int64_t count_ = 0;
};

constexpr Bytes operator""_B(unsigned long long n) { return Bytes(static_cast<int64_t>(n)); }
constexpr Bytes operator""_KiB(unsigned long long n) {
  return Bytes(static_cast<int64_t>(n) << 10);
}
constexpr Bytes operator""_MiB(unsigned long long n) {
  return Bytes(static_cast<int64_t>(n) << 20);
}
constexpr Bytes operator""_GiB(unsigned long long n) {
  return Bytes(static_cast<int64_t>(n) << 30);
}

/// "1.50 GiB", "12 B": three significant digits, binary units.
std::string to_string(Bytes bytes);

/// Reads "512MiB", "2.5gb", "800 k" or plain bytes; kb/mb/gb are decimal, kib/mib/gib and bare
/// k/m/g binary. Throws `invalid_argument` naming `subject`.
Bytes parse_bytes(std::string_view text, std::string_view subject);

}  // namespace atelier
