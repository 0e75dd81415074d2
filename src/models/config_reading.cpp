// Shapes with the rank and size a config can be read from.
#include "models/config_reading.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/error.h"

namespace atelier {

Shape checked_shape(const Scope& w, std::string_view name, size_t rank) {
  constexpr int64_t kMost = int64_t{1} << 20;
  Shape shape = w.shape(name);
  const bool sane = std::ranges::all_of(shape, [](int64_t n) { return n >= 1 && n <= kMost; });
  if (shape.size() == rank && sane) return shape;
  throw Error(ErrorCode::mismatch, {.subject = fmt::format("{}{}", w.name(), name),
                                    .expected = fmt::format("{} extents from 1 to {}", rank, kMost),
                                    .found = to_string(shape)});
}

}  // namespace atelier
