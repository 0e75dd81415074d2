// Copying rows into a larger picture.
#include "app/engine/contact_sheet.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "base/error.h"

namespace atelier {
namespace {

constexpr int32_t kGap = 8;
constexpr uint8_t kGround = 32;
constexpr int64_t kMostSide = 65535;  // of a picture

}  // namespace

int32_t sheet_columns(int64_t runs, int64_t batch) {
  if (runs > 1 && batch > 1) return static_cast<int32_t>(batch);
  return static_cast<int32_t>(std::ceil(std::sqrt(static_cast<double>(runs * batch))));
}

Image contact_sheet(std::span<const Image> pictures, int32_t columns) {
  ATELIER_CHECK(!pictures.empty() && columns > 0);
  int64_t cell_width = 0, cell_height = 0;
  for (const Image& picture : pictures) {
    cell_width = std::max<int64_t>(cell_width, picture.width);
    cell_height = std::max<int64_t>(cell_height, picture.height);
  }
  const auto count = static_cast<int64_t>(pictures.size());
  const int64_t across = std::min<int64_t>(columns, count);
  const int64_t down = (count + across - 1) / across;
  const int64_t width = across * (cell_width + kGap) + kGap;
  const int64_t height = down * (cell_height + kGap) + kGap;
  if (width > kMostSide || height > kMostSide)
    throw Error(ErrorCode::unsupported,
                {.subject = "--sheet",
                 .expected = fmt::format("a sheet of at most {} pixels a side", kMostSide),
                 .found = fmt::format("{}x{}", width, height)});
  Image sheet = make_image(static_cast<int32_t>(width), static_cast<int32_t>(height), 3);
  std::fill(sheet.pixels.begin(), sheet.pixels.end(), kGround);
  for (int64_t i = 0; i < count; ++i) {
    const Image picture = convert_channels(pictures[static_cast<size_t>(i)], 3);
    const int64_t left = kGap + i % across * (cell_width + kGap);
    const int64_t top = kGap + i / across * (cell_height + kGap);
    for (int64_t y = 0; y < picture.height; ++y)
      std::copy_n(picture.pixels.begin() + y * picture.width * 3, picture.width * 3,
                  sheet.pixels.begin() + ((top + y) * width + left) * 3);
  }
  return sheet;
}

}  // namespace atelier
