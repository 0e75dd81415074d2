// One factor per tensor, row or tile, and what files say about which layers have them.
#include "formats/scale_finder.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <cstring>
#include <limits>
#include <optional>

#include "base/error.h"
#include "formats/layout.h"
#include "formats/scale_error.h"

namespace atelier {
namespace {

using E = Encoding;

/// One way to name the factors of X.weight.
struct FactorName {
  std::string_view suffix;
  float factor;
  std::optional<E> only = {};  // of weights stored so
};
constexpr std::array kFactors = {
    FactorName{".scale_weight", 1},     FactorName{".weight_scale", 1},
    FactorName{".weight_scale_inv", 1}, FactorName{".SCB", 1.0F / 127, E::i8},
    FactorName{".scale", 1, E::nvfp4},
};
/// What else may stand beside X.weight and changes nothing here.
constexpr std::array<std::string_view, 4> kBeside = {".scale_input", ".input_scale", ".comfy_quant",
                                                     ".weight_format"};

/// A format of `comfy_quant`, and what X.weight is then.
struct LayerFormat {
  std::string_view name;
  E encoding;
};
constexpr std::array kFormats = {
    LayerFormat{"float8_e4m3fn", E::f8_e4m3},
    LayerFormat{"float8_e5m2", E::f8_e5m2},
    LayerFormat{"float8_e4m3fn_rowwise", E::f8_e4m3},
    LayerFormat{"float8_e4m3fn_blockwise", E::f8_e4m3},
    LayerFormat{"int8_tensorwise", E::i8},
    LayerFormat{"int8_blockwise", E::i8},
    LayerFormat{"nvfp4", E::e2m1},
    LayerFormat{"mxfp8", E::f8_e4m3},
};

constexpr std::array<std::string_view, 2> kInputScales = {".scale_input", ".input_scale"};

constexpr std::string_view kLayer = ".comfy_quant", kMarker = "scaled_fp8", kWeight = ".weight";
constexpr std::string_view kRowOrder = ".weight_format";
constexpr size_t kMaxJson = 1 << 14;  // bytes of one layer's
constexpr int64_t kUsualTile = 128;  // rows and columns
constexpr int64_t kMostTile = 1 << 20;

bool is_fp8(E encoding) { return encoding == E::f8_e4m3 || encoding == E::f8_e5m2; }

bool can_scale(E encoding) {
  return is_fp8(encoding) || encoding == E::i8 || encoding == E::f16 || encoding == E::bf16 ||
         encoding == E::f32 || encoding == E::nvfp4;
}

struct Tiling {
  int64_t columns, tile_rows, tile_columns;
};

/// How factors of shape `scales` lie over a tensor of `shape`; nothing if they do not. Tiles have
/// `side` rows and columns if that is told, else 128 or as many as divide the tensor.
std::optional<Tiling> tiles_of(Shape scales, const Shape& shape, int64_t side) {
  const int64_t elements = TensorInfo{.shape = shape}.elements();
  if (elements == 0) return {};
  if (TensorInfo{.shape = scales}.elements() == 1) return Tiling{elements, 1, elements};
  while (!scales.empty() && scales.back() == 1) scales.pop_back();
  if (shape.size() < 2 || scales.empty() || scales.size() > 2) return {};
  const int64_t rows = shape[0], width = elements / rows;
  const int64_t down = scales[0], across = scales.size() == 2 ? scales[1] : 1;
  if (down == 0 || across == 0) return {};
  const auto covers = [](int64_t tile, int64_t extent, int64_t count) {
    return (extent + tile - 1) / tile == count;
  };
  const int64_t tile = side > 0 ? side : kUsualTile;
  if (down == rows && side > 0 && across > 1)
    return covers(side, width, across) ? std::optional(Tiling{width, 1, side}) : std::nullopt;
  if (down == rows && width % across == 0) return Tiling{elements, 1, width / across};
  if (scales.size() == 1) return {};
  if (covers(tile, rows, down) && covers(tile, width, across)) return Tiling{width, tile, tile};
  if (side > 0 || rows % down != 0 || width % across != 0) return {};
  return Tiling{width, rows / down, width / across};
}

}  // namespace

void bad_scale(const std::string& name, std::string expected, std::string found) {
  throw Error(ErrorCode::malformed,
              {.subject = tensor_subject(name),
               .expected = std::move(expected),
               .found = std::move(found),
               .hint = "The file is damaged or was converted badly; download it again"});
}

void check_finite_scales(std::span<const std::byte> bytes, Encoding encoding,
                         const std::string& name) {
  const bool wide = encoding == E::f32;
  const uint32_t exponent = wide ? 0x7f800000u : encoding == E::bf16 ? 0x7f80u : 0x7c00u;
  for (size_t at = 0; at < bytes.size(); at += wide ? 4 : 2) {
    uint32_t bits = 0;
    std::memcpy(&bits, bytes.data() + at, wide ? 4 : 2);
    if ((bits & exponent) == exponent)
      bad_scale(name, "finite numbers", fmt::format("another at index {}", at / (wide ? 4 : 2)));
  }
}

bool is_scale_encoding(Encoding encoding) {
  return encoding == E::f32 || encoding == E::f16 || encoding == E::bf16;
}

FoundScales ScaleFinder::find() {
  read_layers();
  find_factors();
  find_four_bits();
  check_layers();
  check_marked();
  check_kin();
  found_.any = !hidden_.empty() || !found_.companions.empty() || !layers_.empty();
  if (!found_.any) return {};
  for (const auto& [name, info] : table_)
    if (!hidden_.contains(name)) found_.tensors.emplace(name, info);
  return std::move(found_);
}

const TensorInfo* ScaleFinder::look(const std::string& name) const {
  const auto found = table_.find(name);
  return found == table_.end() ? nullptr : &found->second;
}

const TensorInfo& ScaleFinder::need(const std::string& name, const std::string& why) const {
  if (const TensorInfo* info = look(name)) return *info;
  bad_scale(name, "it, " + why, "no tensor of this name");
}

Json ScaleFinder::json_of(const std::string& name, const TensorInfo& info) const {
  if (encoding_info(info.encoding).block_bytes != 1 || info.size > kMaxJson)
    bad_scale(name, fmt::format("at most {} bytes of JSON", kMaxJson),
              fmt::format("{} of {}", to_string(info.shape), encoding_info(info.encoding).name));
  const std::span<const std::byte> bytes = source_.bytes(name);
  try {
    Json json = parse_json({reinterpret_cast<const char*>(bytes.data()), bytes.size()}, name);
    if (json.is_object()) return json;
  } catch (const Error& error) {
    bad_scale(name, error.facts().expected, error.facts().found);
  }
  bad_scale(name, "a JSON object", "another value");
}

void ScaleFinder::add(const std::string& weight, Scaling scaling,
                      std::vector<std::string> companions) {
  TensorInfo info = found_.tensors.contains(weight) ? found_.tensors.at(weight) : *look(weight);
  info.scaling = std::make_shared<const Scaling>(std::move(scaling));
  found_.tensors[weight] = std::move(info);
  for (const std::string& companion : companions) hide(companion);
  found_.companions[weight] = std::move(companions);
}

// ---- what the file says about its layers

void ScaleFinder::read_layers() {
  if (const auto found = source_.metadata().find(kLayersKey); found != source_.metadata().end()) {
    const std::string subject = fmt::format("metadata {}", kLayersKey);
    try {
      const Json json = parse_json(found->second, subject);
      const auto layers = json.is_object() ? json.find("layers") : json.end();
      if (layers != json.end() && layers->is_object())
        for (const auto& [layer, layout] : layers->items()) read_layer(layer, layout, subject);
    } catch (const Error& error) {
      if (!error.facts().hint.empty()) throw;
      throw Error(error.code(), {.subject = subject,
                                 .expected = error.facts().expected,
                                 .found = error.facts().found,
                                 .hint = std::string(kDamaged)});
    }
  }
  for (const auto& [name, info] : table_) {
    if (!name.ends_with(kLayer)) continue;
    const std::string layer = name.substr(0, name.size() - kLayer.size());
    if (look(layer + ".weight")) read_layer(layer, json_of(name, info), tensor_subject(name));
  }
}

void ScaleFinder::read_layer(const std::string& layer, const Json& layout,
                             const std::string& subject) {
  const TensorInfo* weight = look(layer + ".weight");
  if (!weight || !layout.is_object()) return;
  const std::string format = layout.value("format", Json()).is_string()
                                 ? layout["format"].get<std::string>()
                                 : std::string();
  const auto row = std::ranges::find(kFormats, format, &LayerFormat::name);
  const bool rotated = layout.value("convrot", Json(false)) != Json(false);
  if (row == kFormats.end() || rotated)
    throw Error(ErrorCode::unsupported,
                {.subject = subject,
                 .expected = "weights scaled by one number, per row or per tile",
                 .found = fmt::format("format {}{} of layer {}", in_quotes(format),
                                      rotated ? ", rotated," : "", in_quotes(layer)),
                 .hint = "Use the model's bf16, fp8 or GGUF file"});
  const E stored = weight->encoding;
  const bool bytes = is_fp8(row->encoding) || row->encoding == E::e2m1;
  const bool codes = bytes && (stored == E::u8 || stored == E::i8);
  if (stored != row->encoding && !codes)
    bad_scale(layer + ".weight",
              fmt::format("{}, as its {} says", encoding_info(row->encoding).name,
                          subject.starts_with("metadata") ? kLayersKey : kLayer.substr(1)),
              std::string(encoding_info(stored).name));
  Layer& said = layers_[layer + ".weight"];
  said.encoding = row->encoding;
  if (const auto side = layout.find("group_size"); side != layout.end() && !side->is_null()) {
    if (!side->is_number_integer() || *side < 1 || *side > kMostTile)
      throw Error(ErrorCode::malformed,
                  {.subject = subject,
                   .expected = fmt::format("a group_size from 1 to {}", kMostTile),
                   .found = side->dump().substr(0, 80),
                   .hint = std::string(kDamaged)});
    said.side = side->get<int64_t>();
  }
}

/// Tables that rows are looked up in; a mark speaks of matrices that are multiplied.
bool is_table(std::string_view name) {
  constexpr std::string_view kTables[] = {
      "shared.weight",     "embed_tokens.weight",       "token_embedding.weight",
      "token_embd.weight", "position_embedding.weight", "relative_attention_bias.weight",
  };
  return std::ranges::any_of(kTables, [&](std::string_view end) { return name.ends_with(end); });
}

/// No layer that is said to be scaled may be without its scale.
void ScaleFinder::check_layers() const {
  for (const auto& [weight, layer] : layers_)
    if (!found_.companions.contains(weight))
      bad_scale(weight + "_scale", "it, without which the numbers mean nothing",
                "no tensor of this name");
}

void ScaleFinder::check_marked() const {
  for (const auto& [name, info] : table_) {
    if (!name.ends_with(kMarker)) continue;
    const std::string prefix = name.substr(0, name.size() - kMarker.size());
    if (!prefix.empty() && prefix.back() != '.') continue;
    for (auto it = table_.lower_bound(prefix); it != table_.end() && it->first.starts_with(prefix);
         ++it) {
      const bool scaled = is_fp8(it->second.encoding) && it->second.shape.size() > 1 &&
                          it->first.ends_with(kWeight) && !is_table(it->first);
      if (!scaled || found_.companions.contains(it->first)) continue;
      const std::string layer = it->first.substr(0, it->first.size() - kWeight.size());
      bad_scale(layer + ".scale_weight", fmt::format("it, as {} demands", in_quotes(name)),
                "no tensor of this name");
    }
  }
}

/// An 8-bit weight is scaled if its inputs are, or if it is in other blocks: its file has lost a
/// scale, without which a picture comes out that means nothing.
void ScaleFinder::check_kin() const {
  const auto kind_of = [](std::string name) {
    std::erase_if(name, [](unsigned char c) { return std::isdigit(c) != 0; });
    return name;
  };
  std::map<std::string, std::string> scaled;  // one weight of each kind
  for (const auto& [weight, companions] : found_.companions)
    scaled.emplace(kind_of(weight), weight);
  for (const auto& [name, info] : table_) {
    if (!is_fp8(info.encoding) || info.shape.size() < 2 || !name.ends_with(kWeight) ||
        found_.companions.contains(name))
      continue;
    const std::string layer = name.substr(0, name.size() - kWeight.size());
    std::string beside;
    for (const std::string_view suffix : kInputScales)
      if (look(layer + std::string(suffix))) beside = layer + std::string(suffix);
    if (const auto kin = scaled.find(kind_of(name)); kin != scaled.end())
      beside = found_.companions.at(kin->second).front();
    if (!beside.empty())
      bad_scale(layer + ".scale_weight", fmt::format("it, as there is {}", in_quotes(beside)),
                "no tensor of this name");
  }
}

// ---- factors

void ScaleFinder::find_factors() {
  for (const auto& [name, info] : table_) {
    if (name == kMarker || name.ends_with(fmt::format(".{}", kMarker))) hide(name);
    for (const FactorName& row : kFactors) {
      if (!name.ends_with(row.suffix)) continue;
      const std::string weight = name.substr(0, name.size() - row.suffix.size()) + ".weight";
      const TensorInfo* scaled = look(weight);
      if (scaled && (!row.only || scaled->encoding == row.only))
        add_factors(weight, name, row.factor);
    }
    if (name.ends_with(kRowOrder)) check_row_order(name, info);
    for (const std::string_view beside : kBeside)
      if (name.ends_with(beside) &&
          look(name.substr(0, name.size() - beside.size()) + std::string(kWeight)))
        hide(name);
  }
}

/// LLM.int8 may keep its rows in an order of some GPU's, which only that GPU's kernels know.
/// Source: bitsandbytes, bitsandbytes/nn/modules.py, LINEAR_8BIT_WEIGHTS_FORMAT_MAPPING.
void ScaleFinder::check_row_order(const std::string& name, const TensorInfo& info) const {
  const std::string weight = name.substr(0, name.size() - kRowOrder.size()) + std::string(kWeight);
  const TensorInfo* scaled = look(weight);
  if (!scaled || scaled->encoding != E::i8 || info.size == 0) return;
  const int order = static_cast<int>(source_.bytes(name)[0]);
  if (order == 0) return;
  throw Error(ErrorCode::unsupported,
              {.subject = tensor_subject(name),
               .expected = "0, which is row by row",
               .found = fmt::format("order {}, of a GPU's kernels", order),
               .hint = "Save the model with bitsandbytes 0.45 or newer, or use its bf16 file"});
}

void ScaleFinder::add_factors(const std::string& weight, const std::string& name, float factor) {
  const TensorInfo& scaled = *look(weight);
  const TensorInfo& scales = *look(name);
  const auto layer = layers_.find(weight);
  const E encoding = layer == layers_.end() ? scaled.encoding : layer->second.encoding;
  if (found_.companions.contains(weight))
    bad_scale(name, "one tensor of scales", "another for the same weight");
  if (add_swizzled(weight, name, encoding)) return;
  if (look(name + "_2") || !can_scale(encoding))
    throw Error(ErrorCode::unsupported,
                {.subject = tensor_subject(weight),
                 .expected = "numbers of 8 bits or more under one level of scales",
                 .found = fmt::format("{} under {}", encoding_info(encoding).name, in_quotes(name)),
                 .hint = "Use the model's bf16, fp8 or GGUF file"});
  if (!is_scale_encoding(scales.encoding))
    bad_scale(name, "scales in F32, F16 or BF16", std::string(encoding_info(scales.encoding).name));
  const int64_t side = layer == layers_.end() ? 0 : layer->second.side;
  const auto tiles = tiles_of(scales.shape, scaled.shape, side);
  if (!tiles || (encoding == E::nvfp4 && scales.elements() != 1))
    bad_scale(name,
              fmt::format("one scale for all of {}, for each row or for each of its {} tiles",
                          to_string(scaled.shape),
                          side > 0 ? fmt::format("{0}x{0}", side) : std::string("equal")),
              to_string(scales.shape));
  const std::span<const std::byte> bytes = source_.bytes(name);
  check_finite_scales(bytes, scales.encoding, name);
  TensorInfo info = scaled;
  info.encoding = encoding;
  found_.tensors[weight] = std::move(info);
  add(weight,
      {.name = name,
       .scales = bytes,
       .encoding = scales.encoding,
       .columns = tiles->columns,
       .tile_rows = tiles->tile_rows,
       .tile_columns = tiles->tile_columns,
       .factor = factor},
      {name});
}

}  // namespace atelier
