// Weights of four bits in blocks, as bitsandbytes packs them: two codes to a byte, the first in the
// high half, blocks of elements over all rows under one scale each.
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>

#include "base/error.h"
#include "formats/layout.h"
#include "formats/scale_error.h"
#include "formats/scale_finder.h"

namespace atelier {
namespace {

using E = Encoding;

struct FourBits {
  std::string_view suffix, quant_type;
  E encoding;
};
constexpr std::array kFourBits = {
    FourBits{".quant_state.bitsandbytes__nf4", "nf4", E::nf4},
    FourBits{".quant_state.bitsandbytes__fp4", "fp4", E::fp4},
};
constexpr std::string_view kAbsmax = ".absmax";
constexpr int64_t kMostBlock = 1 << 20;  // elements

std::string shown(const Json& json, const char* key) {
  const auto found = json.find(key);
  return found == json.end() ? "none" : found->dump().substr(0, 80);
}

/// A whole number from 1 to kMostBlock that the state has under `key`.
int64_t block_of(const Json& json, const char* key, const std::string& state) {
  const auto found = json.find(key);
  const bool whole = found != json.end() && found->is_number_integer();
  const int64_t value = whole ? found->get<int64_t>() : 0;
  if (value < 1 || value > kMostBlock)
    bad_scale(state, fmt::format("{} from 1 to {}", key, kMostBlock), shown(json, key));
  return value;
}

Shape shape_of(const Json& json, const std::string& state) {
  const auto found = json.find("shape");
  Shape shape;
  if (found != json.end() && found->is_array() && found->size() <= kMaxRank)
    for (const Json& extent : *found)
      if (extent.is_number_integer()) shape.push_back(extent.get<int64_t>());
  if (shape.empty() || shape.size() != found->size())
    bad_scale(state, fmt::format("a shape of 1 to {} extents", kMaxRank), shown(json, "shape"));
  return shape;
}

/// `info` holds `count` elements of `encoding`.
void check_count(const std::string& name, const TensorInfo& info, E encoding, int64_t count) {
  if (info.encoding == encoding && info.elements() == count) return;
  bad_scale(name, fmt::format("{} numbers of {}", count, encoding_info(encoding).name),
            fmt::format("{} of {}", to_string(info.shape), encoding_info(info.encoding).name));
}

}  // namespace

void ScaleFinder::find_four_bits() {
  for (const auto& [name, info] : table_)
    for (const FourBits& row : kFourBits)
      if (name.ends_with(row.suffix)) {
        const std::string weight = name.substr(0, name.size() - row.suffix.size());
        if (look(weight)) add_four_bits(weight, name, row.encoding);
      }
  for (const auto& [name, info] : table_) {
    if (!name.ends_with(kAbsmax)) continue;
    const std::string weight = name.substr(0, name.size() - kAbsmax.size());
    const TensorInfo* codes = look(weight);
    if (codes && codes->encoding == E::u8 && !found_.companions.contains(weight))
      bad_scale(weight + std::string(kFourBits[0].suffix),
                fmt::format("it or that of __fp4, beside {}", tensor_subject(name)),
                "no tensor of this name");
  }
}

void ScaleFinder::add_four_bits(const std::string& weight, const std::string& state,
                                Encoding encoding) {
  if (found_.companions.contains(weight))
    bad_scale(state, "one kind of scale", "another for the same weight");
  const Json json = json_of(state, *look(state));
  const auto row = std::ranges::find(kFourBits, encoding, &FourBits::encoding);
  const auto type = json.find("quant_type");
  if (type == json.end() || *type != Json(row->quant_type))
    bad_scale(state, fmt::format("quant_type {}", row->quant_type), shown(json, "quant_type"));
  const int64_t block = block_of(json, "blocksize", state);
  if (block % 2 != 0) bad_scale(state, "an even blocksize", fmt::format("{}", block));
  TensorInfo info = *look(weight);
  info.shape = shape_of(json, state);
  // The last of an odd number of codes has a byte to itself.
  const uint64_t size = (encoded_size(info.shape, E::u8, tensor_subject(state)) + 1) / 2;
  if (size != info.size)
    bad_scale(weight, fmt::format("{} bytes for {}", size, to_string(info.shape)),
              fmt::format("{}", info.size));
  info.encoding = encoding;
  const int64_t blocks = (info.elements() + block - 1) / block;

  const std::string absmax = weight + ".absmax", quant_map = weight + ".quant_map";
  const TensorInfo& scales = need(absmax, "the scales of " + tensor_subject(weight));
  const bool nested = scales.encoding == E::u8;
  if (!nested && !is_scale_encoding(scales.encoding))
    bad_scale(absmax, "scales in F32, F16, BF16 or U8",
              std::string(encoding_info(scales.encoding).name));
  check_count(absmax, scales, scales.encoding, blocks);
  Scaling scaling{.name = absmax,
                  .scales = source_.bytes(absmax),
                  .encoding = scales.encoding,
                  .columns = std::max<int64_t>(2, (info.elements() + 1) / 2 * 2),
                  .tile_columns = block};
  if (nested) scaling.nested = nested_scales(weight, state, json, blocks);
  std::vector<std::string> companions{absmax};
  hide(state);
  for (const std::string& name :
       {quant_map, weight + ".nested_absmax", weight + ".nested_quant_map"})
    if (look(name)) hide(name);
  found_.tensors[weight] = std::move(info);
  add(weight, std::move(scaling), std::move(companions));
}

NestedScales ScaleFinder::nested_scales(const std::string& weight, const std::string& state,
                                        const Json& json, int64_t blocks) const {
  const std::string why = fmt::format("as {}.absmax is U8", weight);
  const std::string map = weight + ".nested_quant_map", scales = weight + ".nested_absmax";
  NestedScales nested;
  nested.block = block_of(json, "nested_blocksize", state);
  const auto offset = json.find("nested_offset");
  const bool number = offset != json.end() && offset->is_number();
  nested.offset = number ? static_cast<float>(offset->get<double>()) : NAN;
  if (!std::isfinite(nested.offset))
    bad_scale(state, "a finite nested_offset", shown(json, "nested_offset"));
  check_count(map, need(map, why), E::f32, 256);
  check_count(scales, need(scales, why), E::f32, (blocks + nested.block - 1) / nested.block);
  nested.table = source_.bytes(map);
  nested.scales = source_.bytes(scales);
  check_finite_scales(nested.table, E::f32, map);
  check_finite_scales(nested.scales, E::f32, scales);
  return nested;
}

}  // namespace atelier
