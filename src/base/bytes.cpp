// Reading and writing counts of bytes.
#include "base/bytes.h"

#include <fmt/format.h>

#include <array>
#include <charconv>
#include <cmath>

#include "base/error.h"

namespace atelier {
namespace {

struct Unit {
  std::string_view name;
  double factor;
};
constexpr std::array kUnits = {
    Unit{"", 1},
    Unit{"b", 1},
    Unit{"k", 1024.0},
    Unit{"kib", 1024.0},
    Unit{"kb", 1e3},
    Unit{"m", 1048576.0},
    Unit{"mib", 1048576.0},
    Unit{"mb", 1e6},
    Unit{"g", 1073741824.0},
    Unit{"gib", 1073741824.0},
    Unit{"gb", 1e9},
    Unit{"t", 1099511627776.0},
    Unit{"tib", 1099511627776.0},
    Unit{"tb", 1e12},
};

}  // namespace

std::string to_string(Bytes bytes) {
  constexpr std::array kNames = {"B", "KiB", "MiB", "GiB", "TiB"};
  double value = static_cast<double>(bytes.count());
  size_t unit = 0;
  while (std::abs(value) >= 1024 && unit + 1 < kNames.size()) value /= 1024, ++unit;
  if (unit == 0) return fmt::format("{} B", bytes.count());
  const int decimals = std::abs(value) >= 100 ? 0 : std::abs(value) >= 10 ? 1 : 2;
  return fmt::format("{:.{}f} {}", value, decimals, kNames[unit]);
}

Bytes parse_bytes(std::string_view text, std::string_view subject) {
  double value = 0;
  const auto [end, failure] = std::from_chars(text.data(), text.data() + text.size(), value);
  std::string unit;
  for (const char* p = end; p != text.data() + text.size(); ++p)
    if (*p != ' ') unit += static_cast<char>(*p >= 'A' && *p <= 'Z' ? *p - 'A' + 'a' : *p);
  for (const Unit& row : kUnits)
    if (failure == std::errc() && unit == row.name && value >= 0 && value * row.factor < 9e18)
      return Bytes(static_cast<int64_t>(value * row.factor));
  throw Error(ErrorCode::invalid_argument, {.subject = std::string(subject),
                                            .expected = "an amount of memory",
                                            .found = fmt::format("'{}'", text),
                                            .hint = "Examples: 6GiB, 512MiB, 2.5gb"});
}

}  // namespace atelier
