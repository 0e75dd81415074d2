// Weights whose scales lie in the order tensor cores read them: NVFP4 and MXFP8 of safetensors.
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>

#include "base/error.h"
#include "formats/layout.h"
#include "formats/scale_error.h"
#include "formats/scale_finder.h"

namespace atelier {
namespace {

using E = Encoding;

/// A weight as stored, its scales as stored, and what both are.
struct Swizzled {
  E stored, scales;
  E encoding, scale;
  int64_t group;  // columns under one scale
  bool second;  // one more scale for the whole tensor, X.weight_scale_2
};
constexpr std::array kSwizzled = {
    Swizzled{E::e2m1, E::f8_e4m3, E::e2m1, E::f8_e4m3, 16, true},
    Swizzled{E::e2m1, E::u8, E::e2m1, E::f8_e4m3, 16, true},
    Swizzled{E::u8, E::f8_e4m3, E::e2m1, E::f8_e4m3, 16, true},
    Swizzled{E::f8_e4m3, E::f8_e8m0, E::f8_e4m3, E::f8_e8m0, 32, false},
    Swizzled{E::f8_e4m3, E::u8, E::f8_e4m3, E::f8_e8m0, 32, false},
    Swizzled{E::f8_e5m2, E::f8_e8m0, E::f8_e5m2, E::f8_e8m0, 32, false},
    Swizzled{E::f8_e5m2, E::u8, E::f8_e5m2, E::f8_e8m0, 32, false},
};

int64_t rounded_up(int64_t value, int64_t multiple) {
  return (value + multiple - 1) / multiple * multiple;
}

}  // namespace

/// The finite number that `name` holds, in fp32.
float ScaleFinder::number_in(const std::string& name, const std::string& why) const {
  const TensorInfo& info = need(name, why);
  if (info.encoding != E::f32 || info.elements() != 1)
    bad_scale(name, "one number of F32",
              fmt::format("{} of {}", to_string(info.shape), encoding_info(info.encoding).name));
  float value = 0;
  std::memcpy(&value, source_.bytes(name).data(), sizeof value);
  if (!std::isfinite(value)) bad_scale(name, "a finite number", fmt::format("{}", value));
  return value;
}

/// Whether weight and scales are of this kind; `encoding` is what the file says of the weight.
bool ScaleFinder::add_swizzled(const std::string& weight, const std::string& name,
                               Encoding encoding) {
  const TensorInfo& scales = *look(name);
  const bool told = layers_.contains(weight);  // bytes may be anything if nothing says what
  const auto row = std::ranges::find_if(kSwizzled, [&](const Swizzled& s) {
    return s.stored == encoding && s.scales == scales.encoding && (told || s.scales != E::u8);
  });
  if (row == kSwizzled.end()) {
    if (encoding == E::e2m1)
      bad_scale(name, "scales in F8_E4M3", std::string(encoding_info(scales.encoding).name));
    return false;
  }
  TensorInfo info = *look(weight);
  info.encoding = row->encoding;
  const bool pairs = encoding_info(row->encoding).block_elements == 2;
  if (info.shape.size() == 2 && pairs) info.shape[1] *= 2;
  if (info.shape.size() != 2 || info.elements() == 0 || info.shape[1] % row->group != 0)
    bad_scale(weight, fmt::format("rows of whole groups of {} numbers", row->group),
              to_string(info.shape));
  const int64_t rows = info.shape[0], columns = info.shape[1];
  const int64_t wanted = rounded_up(rows, 128) * rounded_up(columns / row->group, 4);
  if (scales.elements() != wanted)
    bad_scale(name, fmt::format("{} scales for {}", wanted, to_string(info.shape)),
              to_string(scales.shape));
  const std::string second = name + "_2";
  const float factor =
      row->second ? number_in(second, "the scale of all of " + tensor_subject(weight)) : 1;
  if (row->second) hide(second);
  found_.tensors[weight] = std::move(info);
  add(weight,
      {.name = name,
       .scales = source_.bytes(name),
       .encoding = row->scale,
       .columns = columns,
       .tile_rows = 1,
       .tile_columns = row->group,
       .factor = factor,
       .swizzled = true},
      {name});
  return true;
}

}  // namespace atelier
