// Shapes as people read them, and how many elements they have.
#include "formats/tensor_source.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

namespace atelier {

int64_t TensorInfo::elements() const {
  int64_t count = 1;
  for (const int64_t extent : shape) count *= extent;
  return count;
}

std::string to_string(const Shape& shape) { return fmt::format("[{}]", fmt::join(shape, ", ")); }

}  // namespace atelier
