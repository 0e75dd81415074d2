// The scales that decode.cpp has encodings measured under, laid out as files have them, and the
// scale of each element, found another way than range.cpp does.
#pragma once

#include <memory>
#include <random>
#include <span>
#include <vector>

#include "formats/scaling.h"
#include "quant/codec/float_codes.h"

namespace atelier {

enum class ScaleKind : uint8_t { none, blocks, nested, one, tiles, rows, nvfp4, mxfp8 };

constexpr int64_t kScaledWidth = 3072;  // of rows where the layout has any

/// Scales of one tensor.
class BenchScales {
 public:
  BenchScales(ScaleKind kind, int64_t elements) : kind_(kind), elements_(elements) {
    switch (kind) {
      case ScaleKind::none:
        break;
      case ScaleKind::blocks:
        fill(elements, kBlock);
        break;
      case ScaleKind::nested:
        fill_nested();
        break;
      case ScaleKind::one:
        fill(1, 1);
        break;
      case ScaleKind::tiles:
        fill((rows() + kTile - 1) / kTile * (kScaledWidth / kTile), 1);
        break;
      case ScaleKind::rows:
        fill(elements, kScaledWidth);
        break;
      case ScaleKind::nvfp4:
        fill_swizzled(0x20, 0x77);
        break;
      case ScaleKind::mxfp8:
        fill_swizzled(110, 130);
        break;
    }
  }

  float of_element(int64_t i) const {
    switch (kind_) {
      case ScaleKind::none:
        return 1;
      case ScaleKind::blocks:
        return at(scales_, i / kBlock);
      case ScaleKind::nested: {
        // A product in double is exact: rounding it is a step that no compiler joins with the sum.
        const int64_t block = i / kBlock;
        const double product = static_cast<double>(table_[code(block)]) *
                               static_cast<double>(at(scales_, block / kNestedBlock));
        return static_cast<float>(product) + kOffset;
      }
      case ScaleKind::one:
        return scales_[0];
      case ScaleKind::tiles:
        return at(scales_,
                  i / kScaledWidth / kTile * (kScaledWidth / kTile) + i % kScaledWidth / kTile);
      case ScaleKind::rows:
        return at(scales_, i / kScaledWidth);
      case ScaleKind::nvfp4:
        return e4m3_to_float(code(i / group())) * kFactor;
      case ScaleKind::mxfp8:
        return e8m0_to_float(code(i / group()));
    }
    return 0;
  }

  std::shared_ptr<const Scaling> scaling() const {
    if (kind_ == ScaleKind::none) return nullptr;
    const std::span floats = std::as_bytes(std::span(scales_));
    Scaling scaling{
        .name = "scales", .scales = floats, .columns = elements_, .tile_columns = elements_};
    if (kind_ == ScaleKind::blocks || kind_ == ScaleKind::nested) scaling.tile_columns = kBlock;
    if (kind_ == ScaleKind::rows) scaling.tile_columns = kScaledWidth;
    if (kind_ == ScaleKind::tiles) {
      scaling.columns = kScaledWidth;
      scaling.tile_rows = scaling.tile_columns = kTile;
    }
    if (kind_ == ScaleKind::nested) {
      scaling.nested = NestedScales{.table = std::as_bytes(std::span(table_)),
                                    .scales = floats,
                                    .block = kNestedBlock,
                                    .offset = kOffset};
      scaling.scales = std::as_bytes(std::span(codes_));
      scaling.encoding = Encoding::u8;
    }
    if (!swizzled_.empty()) {
      scaling.scales = std::as_bytes(std::span(swizzled_));
      scaling.columns = kScaledWidth;
      scaling.tile_columns = group();
      scaling.swizzled = true;
      scaling.encoding = kind_ == ScaleKind::nvfp4 ? Encoding::f8_e4m3 : Encoding::f8_e8m0;
      if (kind_ == ScaleKind::nvfp4) scaling.factor = kFactor;
    }
    return std::make_shared<const Scaling>(std::move(scaling));
  }

 private:
  static constexpr int64_t kBlock = 64, kNestedBlock = 256, kTile = 128;
  static constexpr float kOffset = 0.05F, kFactor = 0.3F;

  int64_t rows() const { return elements_ / kScaledWidth; }
  int64_t group() const { return kind_ == ScaleKind::nvfp4 ? 16 : 32; }
  static float at(const std::vector<float>& some, int64_t index) {
    return some[static_cast<size_t>(index)];
  }
  uint8_t code(int64_t index) const { return codes_[static_cast<size_t>(index)]; }

  /// One for every `each` of `count`.
  void fill(int64_t count, int64_t each) {
    std::uniform_real_distribution<float> magnitude(0.02F, 0.1F);
    scales_.resize(static_cast<size_t>((count + each - 1) / each));
    for (float& scale : scales_) scale = magnitude(random_);
  }

  /// As bitsandbytes has them: codes of 8 bits with a table, an offset and scales.
  void fill_nested() {
    const int64_t blocks = (elements_ + kBlock - 1) / kBlock;
    fill(blocks, kNestedBlock);
    for (int at = 0; at < 256; ++at) table_.push_back((static_cast<float>(at) - 127.5F) / 255);
    codes_.resize(static_cast<size_t>(blocks));
    for (uint8_t& code : codes_) code = static_cast<uint8_t>(random_() & 0xff);
  }

  /// Codes from `least` to `most`: row by row, and as tensor cores read them, by 128 rows and 4
  /// columns, of which rows 0, 32, 64 and 96 come first.
  void fill_swizzled(int least, int most) {
    const int64_t across = kScaledWidth / group(), down = (rows() + 127) / 128 * 128;
    std::uniform_int_distribution<int> any(least, most);
    codes_.resize(static_cast<size_t>(down * across));
    for (uint8_t& code : codes_) code = static_cast<uint8_t>(any(random_));
    for (int64_t row = 0; row < down; row += 128)
      for (int64_t column = 0; column < across; column += 4)
        for (int64_t in = 0; in < 32; ++in)
          for (int64_t i = 0; i < 16; ++i)
            swizzled_.push_back(code((row + i / 4 * 32 + in) * across + column + i % 4));
  }

  ScaleKind kind_;
  int64_t elements_;
  std::mt19937 random_{2};
  std::vector<float> scales_, table_;
  std::vector<uint8_t> codes_, swizzled_;
};

}  // namespace atelier
