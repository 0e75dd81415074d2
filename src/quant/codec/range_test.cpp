// Ranges of tensors and codes under scales, against numbers computed with numpy and torch
// (tools/golden/scales.py) and against each other.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <random>

#include "base/error.h"
#include "formats/model_folder.h"
#include "quant/codec/codec.h"
#include "quant/codec/float_codes.h"
#include "quant/codec/tables.h"
#include "quant/codec/tiles.h"

namespace atelier {
namespace {

std::shared_ptr<const TensorSource> golden(const std::string& name) {
  return open_source(std::filesystem::path(ATELIER_SOURCE_DIR) / "tests/golden/scales" /
                     (name + ".safetensors"));
}

template <class T>
std::vector<T> as(std::span<const std::byte> bytes) {
  std::vector<T> numbers(bytes.size() / sizeof(T));
  std::memcpy(numbers.data(), bytes.data(), numbers.size() * sizeof(T));
  return numbers;
}

std::vector<std::byte> decoded(std::span<const std::byte> bytes, const TensorInfo& info,
                               int64_t first, int64_t count, Number number,
                               const Parallel& parallel = SerialParallel()) {
  std::vector<std::byte> out(static_cast<size_t>(count * number_bytes(number)));
  decode_range(bytes, info, first, number, out, parallel, "t");
  return out;
}

class Scaled : public testing::TestWithParam<const char*> {
 protected:
  const std::shared_ptr<const TensorSource> file = golden("scaled"), wanted = golden("expected");
  const std::string name = GetParam() + std::string(".weight");
  const TensorInfo& info = file->tensors().at(name);
  std::vector<std::byte> run(int64_t first, int64_t count, Number number,
                             const Parallel& parallel = SerialParallel()) const {
    return decoded(file->bytes(name), info, first, count, number, parallel);
  }
};

TEST_P(Scaled, GivesTheNumbersOfTheReference) {
  ASSERT_TRUE(info.scaling);
  EXPECT_EQ(info.shape, wanted->tensors().at(name).shape);
  const auto expected = as<float>(wanted->bytes(name));
  const auto found = as<float>(run(0, info.elements(), Number::f32));
  ASSERT_EQ(found.size(), expected.size());
  for (size_t i = 0; i < found.size(); ++i) {
    if (std::isnan(expected[i])) {
      EXPECT_EQ(bits_of(found[i]), 0x7fc00000u) << i;
    } else {
      EXPECT_EQ(bits_of(found[i]), bits_of(expected[i])) << i;
    }
  }
}

// By this function GPUs find scales.
TEST_P(Scaled, EachElementIsUnderTheScaleOfItsTile) {
  const Scaling& scaling = *info.scaling;
  if (scaling.nested) return;  // scales that are encoded themselves
  TensorInfo plain = info;
  plain.scaling = nullptr;
  const int64_t count = info.elements();
  const auto codes = as<float>(decoded(file->bytes(name), plain, 0, count, Number::f32));
  const auto found = as<float>(run(0, count, Number::f32));
  std::vector<std::byte> bytes(
      scaling.scales.size() / static_cast<size_t>(encoding_info(scaling.encoding).block_bytes) * 4);
  decode(scaling.scales, scaling.encoding, Number::f32, bytes, SerialParallel(), "scales");
  auto scales = as<float>(bytes);
  if (scaling.swizzled) {  // as they are before they are given to a GPU
    const int64_t across = scaling.columns / scaling.tile_columns;
    std::vector<float> in_order(static_cast<size_t>(info.shape[0] * across));
    for (int64_t i = 0; i < info.shape[0] * across; ++i)
      in_order[static_cast<size_t>(i)] =
          scales.at(static_cast<size_t>(swizzled_index(i / across, i % across, across)));
    scales = in_order;
  }
  const Tiles tiles{scaling.columns, scaling.tile_rows, scaling.tile_columns};
  for (int64_t i = 0; i < count; ++i) {
    const float scale = scales.at(static_cast<size_t>(scale_index(tiles, i))) * scaling.factor;
    const float product = scale * codes[static_cast<size_t>(i)];
    if (std::isnan(product)) continue;
    EXPECT_EQ(found[static_cast<size_t>(i)], product) << i;
  }
}

TEST_P(Scaled, RoundsOnceToTheComputeDtype) {
  const auto exact = as<float>(run(0, info.elements(), Number::f32));
  const auto bf16 = as<uint16_t>(run(0, info.elements(), Number::bf16));
  const auto half = as<uint16_t>(run(0, info.elements(), Number::f16));
  for (size_t i = 0; i < exact.size(); ++i) {
    EXPECT_EQ(bf16[i], float_to_bfloat16(exact[i])) << i;
    EXPECT_EQ(half[i], float_to_half(exact[i])) << i;
  }
}

TEST_P(Scaled, OfASliceIsTheSliceOfTheWhole) {
  const auto whole = run(0, info.elements(), Number::bf16, SpawnParallel(3));
  EXPECT_EQ(whole, run(0, info.elements(), Number::bf16));
  for (const int64_t first : {0, 1, 2, 63, 64, 65, 129, 200})
    for (const int64_t count : {0, 1, 2, 31, 33, 64, 80}) {
      if (first + count > info.elements()) continue;
      const auto part = run(first, count, Number::bf16);
      const auto at = static_cast<size_t>(first);
      EXPECT_TRUE(std::ranges::equal(part, std::span(whole).subspan(2 * at, part.size())))
          << first << ' ' << count;
    }
}

INSTANTIATE_TEST_SUITE_P(Kinds, Scaled,
                         testing::Values("one", "half", "rows", "kernel", "tiles", "equal", "llm",
                                         "nf4", "fp4", "nested", "odd", "nvfp4", "mxfp8"),
                         [](const auto& instance) { return std::string(instance.param); });

class EveryScaled : public testing::TestWithParam<Encoding> {};

std::vector<Encoding> all_scaled() {
  std::vector<Encoding> all;
  for (const EncodingTraits& row : codec_tables().front().decoders)
    if (row.scaled[0]) all.push_back(row.encoding);
  return all;
}

TEST_P(EveryScaled, GivesTheSameBitsOnEveryInstructionSet) {
  std::mt19937 random(3);
  const EncodingInfo& info = encoding_info(GetParam());
  const int64_t kElements = info.block_elements > 2 ? 1024 : 1002;
  std::vector<std::byte> bytes(
      static_cast<size_t>(kElements / info.block_elements * info.block_bytes));
  for (std::byte& byte : bytes) byte = static_cast<std::byte>(random() & 0xff);
  for (size_t i = 0; i < 256; ++i) bytes[i] = static_cast<std::byte>(i);  // each code of a byte
  std::vector<float> scales(kElements / 2 + 1);
  for (float& scale : scales) scale = std::ldexp(static_cast<float>(random() & 0xffff), -12);
  for (const int64_t group : {2, 6, 8, 16, 32, 64, 100, 128, 1002, 1024}) {
    if (info.block_elements > 2 && group % info.block_elements != 0) continue;
    for (const Number number : {Number::f32, Number::bf16, Number::f16}) {
      std::vector<std::byte> plain;
      for (const CodecTable& table : codec_tables())
        for (const EncodingTraits& row : table.decoders) {
          if (row.encoding != GetParam()) continue;
          std::vector<std::byte> out(static_cast<size_t>(kElements * number_bytes(number)));
          row.scaled[static_cast<size_t>(number)](bytes.data(), kElements, scales.data(), group,
                                                  out.data());
          if (plain.empty()) plain = out;
          EXPECT_EQ(out, plain) << table.isa << ", group " << group;
        }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(All, EveryScaled, testing::ValuesIn(all_scaled()),
                         [](const auto& instance) {
                           return std::string(encoding_info(instance.param).name);
                         });

TEST(DecodeRange, BeginsAndEndsWithinBlocks) {
  const TensorInfo info{.shape = {6, 16}, .encoding = Encoding::q8_0, .size = 3 * 34};
  std::vector<std::byte> blocks(info.size);
  for (size_t i = 0; i < blocks.size(); ++i)
    blocks[i] = static_cast<std::byte>(i % 34 < 2 ? 17 : i);
  const auto whole = decoded(blocks, info, 0, 96, Number::f32);
  for (const int64_t first : {0, 16, 31, 32, 40})
    for (const int64_t count : {0, 1, 16, 33, 56}) {
      const auto part = decoded(blocks, info, first, count, Number::f32);
      const auto at = static_cast<size_t>(first);
      EXPECT_TRUE(std::ranges::equal(part, std::span(whole).subspan(4 * at, part.size())));
    }
}

// NVFP4 of GGUF with one more scale for the tensor.
TEST(DecodeRange, BlocksMayBeUnderAScaleOfTheirTensor) {
  TensorInfo info{.shape = {2, 96}, .encoding = Encoding::nvfp4, .size = 3 * 36};
  std::vector<std::byte> blocks(info.size);
  for (size_t i = 0; i < blocks.size(); ++i)
    blocks[i] = static_cast<std::byte>(i % 36 < 4 ? 0x30 + i : i * 7);
  const auto bare = as<float>(decoded(blocks, info, 0, 192, Number::f32));
  const float scale = 0.3F;
  info.scaling = std::make_shared<Scaling>(Scaling{.name = "scale",
                                                   .scales = std::as_bytes(std::span(&scale, 1)),
                                                   .columns = 192,
                                                   .tile_columns = 192});
  const auto whole = as<float>(decoded(blocks, info, 0, 192, Number::f32));
  for (size_t i = 0; i < whole.size(); ++i) EXPECT_EQ(whole[i], scale * bare[i]) << i;
  for (const int64_t first : {0, 64, 70, 96}) {
    const auto part = as<float>(decoded(blocks, info, first, 90, Number::f32));
    EXPECT_TRUE(std::ranges::equal(part, std::span(whole).subspan(static_cast<size_t>(first), 90)))
        << first;
  }
}

TEST(DecodeRange, NamesAScaleThatIsNotFinite) {
  const float scales[] = {1, 2, INFINITY, 4, NAN};
  Scaling scaling{.name = "b.weight.absmax",
                  .scales = std::as_bytes(std::span(scales)),
                  .columns = 320,
                  .tile_columns = 64};
  TensorInfo info{.shape = {320}, .encoding = Encoding::nf4, .size = 160};
  info.scaling = std::make_shared<Scaling>(scaling);
  const std::vector<std::byte> bytes(160);
  decoded(bytes, info, 0, 128, Number::bf16);
  const SerialParallel serial;
  const SpawnParallel threads(3);
  for (const Parallel* parallel : std::initializer_list<const Parallel*>{&serial, &threads}) {
    try {
      decoded(bytes, info, 0, 320, Number::bf16, *parallel);
      ADD_FAILURE();
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::malformed);
      EXPECT_EQ(error.facts().subject, "tensor 'b.weight.absmax'");
      EXPECT_EQ(error.facts().found, "another at index 2");
    }
  }
}

TEST(DecodeRange, RefusesAWrongNumberOfBytes) {
  const TensorInfo info{.shape = {8}, .encoding = Encoding::f16, .size = 16};
  const std::vector<std::byte> bytes(15);
  EXPECT_THROW(decoded(bytes, info, 0, 1, Number::f32), Error);
}

}  // namespace
}  // namespace atelier
