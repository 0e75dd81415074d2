// An odometer over the shape, carrying the place of the current element along.
#include "formats/gather.h"

#include <cstring>

namespace atelier {

std::vector<std::byte> gather(std::span<const std::byte> file, const TensorInfo& info,
                              const Shape& strides) {
  const auto width = static_cast<size_t>(encoding_info(info.encoding).block_bytes);
  const auto elements = file.subspan(info.offset);
  std::vector<std::byte> result(info.size);
  Shape index(info.shape.size(), 0);
  int64_t place = 0;
  for (size_t written = 0; written < result.size(); written += width) {
    std::memcpy(&result[written], &elements[static_cast<size_t>(place) * width], width);
    for (size_t axis = index.size(); axis-- > 0;) {
      place += strides[axis];
      if (++index[axis] < info.shape[axis]) break;
      place -= strides[axis] * info.shape[axis];
      index[axis] = 0;
    }
  }
  return result;
}

}  // namespace atelier
