// Resizing pictures.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>

#include "media/image.h"

namespace atelier {

enum class Filter { nearest, area, bilinear, bicubic, lanczos };

/// The name of each filter, in the order of the enum.
std::span<const std::string_view> filter_names();
/// The filter with this name. Throws `invalid_argument` with the nearest name.
Filter parse_filter(std::string_view name);

/// Resizes with Pillow's arithmetic: the filter widens when the picture shrinks, rows first, each
/// pass rounded to 8 bits, RGBA with alpha multiplied in; `area` is Pillow's box. Throws
/// `invalid_argument` for sizes outside 1..65535 or results above 2^30 samples.
Image resize(const Image& image, int32_t width, int32_t height, Filter filter);

}  // namespace atelier
