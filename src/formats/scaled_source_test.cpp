// Scales beside weights: which tensors go, what is left, and what is said of files that lack some.
#include "formats/scaled_source.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <map>

#include "formats/merged_source.h"
#include "formats/model_folder.h"
#include "formats/test_files.h"

namespace atelier {
namespace {

using test::error_of;
using test::TestFolder;

/// Tensors of bytes under names, and metadata.
class Tensors final : public TensorSource {
 public:
  Tensors& put(const std::string& name, Encoding encoding, Shape shape, std::string bytes = {}) {
    TensorInfo info{.shape = std::move(shape), .encoding = encoding};
    const EncodingInfo& row = encoding_info(encoding);
    info.size = static_cast<uint64_t>(info.elements() / row.block_elements * row.block_bytes);
    bytes.resize(info.size, 'x');
    held_[name] = std::move(bytes);
    table_[name] = std::move(info);
    return *this;
  }
  Tensors& text(const std::string& name, const std::string& text) {
    return put(name, Encoding::u8, {static_cast<int64_t>(text.size())}, text);
  }
  Tensors& floats(const std::string& name, Shape shape, std::vector<float> values) {
    return put(name, Encoding::f32, std::move(shape),
               {reinterpret_cast<const char*>(values.data()), values.size() * 4});
  }
  Tensors& tell(const std::string& key, const std::string& value) {
    metadata_[key] = value;
    return *this;
  }
  Tensors& drop(const std::string& name) {
    table_.erase(name);
    return *this;
  }
  const TensorTable& tensors() const override { return table_; }
  std::span<const std::byte> bytes(std::string_view name) const override {
    return std::as_bytes(std::span(held_.find(name)->second));
  }
  void will_need(std::string_view name) const override { wanted.emplace_back(name); }
  std::string label() const override { return "model.safetensors"; }
  const Metadata& metadata() const override { return metadata_; }
  std::shared_ptr<const TensorSource> shared() const { return std::make_shared<Tensors>(*this); }
  mutable std::vector<std::string> wanted;

 private:
  TensorTable table_;
  std::map<std::string, std::string, std::less<>> held_;
  Metadata metadata_;
};

std::vector<std::string> names_of(const TensorSource& source) {
  std::vector<std::string> names;
  for (const auto& [name, info] : source.tensors()) names.push_back(name);
  return names;
}

void expect_refused(const Tensors& tensors, ErrorCode code, const std::string& message) {
  const Error error = error_of([&] { read_scales(tensors.shared()); });
  EXPECT_EQ(error.code(), code);
  EXPECT_EQ(std::string(error.what()).substr(0, message.size()), message);
}

constexpr Encoding kFp8 = Encoding::f8_e4m3;

Tensors scaled_fp8() {
  return Tensors()
      .put("a.weight", kFp8, {4, 6})
      .floats("a.scale_weight", {}, {0.5F})
      .floats("a.scale_input", {}, {2})
      .put("a.bias", Encoding::bf16, {4})
      .put("scaled_fp8", kFp8, {0});
}

Tensors four_bits(const std::string& state) {
  return Tensors()
      .put("b.weight", Encoding::u8, {100, 1})
      .put("b.weight.absmax", Encoding::f32, {4})
      .put("b.weight.quant_map", Encoding::f32, {16})
      .text("b.weight.quant_state.bitsandbytes__nf4", state);
}
const std::string kState = R"({"quant_type":"nf4","blocksize":64,"shape":[10,20]})";

Tensors nested() {
  return four_bits(R"({"quant_type":"nf4","blocksize":64,"shape":[10,20],)"
                   R"("nested_blocksize":2,"nested_offset":0.5})")
      .put("b.weight.absmax", Encoding::u8, {4})
      .floats("b.weight.nested_absmax", {2}, {1, 2})
      .floats("b.weight.nested_quant_map", {256}, std::vector<float>(256, 1));
}

TEST(ScaledSource, OfAFileWithoutScalesIsTheFile) {
  const auto file = Tensors().put("a.weight", kFp8, {4, 6}).shared();
  EXPECT_EQ(read_scales(file), file);
}

TEST(ScaledSource, HidesScalesAndTellsThemWithTheirWeights) {
  const auto file = scaled_fp8().shared();
  const auto seen = read_scales(file);
  EXPECT_EQ(names_of(*seen), (std::vector<std::string>{"a.bias", "a.weight"}));
  const TensorInfo& info = seen->tensors().at("a.weight");
  ASSERT_TRUE(info.scaling);
  EXPECT_EQ(info.scaling->name, "a.scale_weight");
  EXPECT_EQ(info.scaling->tile_columns, 24);
  EXPECT_FALSE(seen->tensors().at("a.bias").scaling);
  EXPECT_EQ(seen->bytes("a.weight").data(), file->bytes("a.weight").data());
  EXPECT_EQ(error_of([&] { seen->bytes("a.scale_weight"); }).code(), ErrorCode::not_found);
  seen->will_need("a.weight");
  EXPECT_EQ(dynamic_cast<const Tensors&>(*file).wanted,
            (std::vector<std::string>{"a.weight", "a.scale_weight"}));
}

TEST(ScaledSource, KeepsScalesUnderThePrefixOfAFolder) {
  const auto joined = with_prefix("unet.", read_scales(scaled_fp8().shared()));
  EXPECT_EQ(joined->tensors().at("unet.a.weight").scaling->name, "a.scale_weight");
}

TEST(ScaledSource, TakesScalesOfRowsAndTiles) {
  struct Case {
    Shape scales;
    int64_t columns, tile_rows, tile_columns;
  };
  for (const Case& c : {Case{{1}, 24, 1, 24}, Case{{4}, 24, 1, 6}, Case{{4, 1, 1}, 24, 1, 6},
                        Case{{4, 3}, 24, 1, 2}, Case{{2, 3}, 6, 2, 2}}) {
    const Tensors file = Tensors().put("a.weight", kFp8, {4, 6});
    const int64_t count = TensorInfo{.shape = c.scales}.elements();
    const std::vector<float> ones(static_cast<size_t>(count), 1);
    const auto seen = read_scales(Tensors(file).floats("a.weight_scale", c.scales, ones).shared());
    const Scaling& scaling = *seen->tensors().at("a.weight").scaling;
    EXPECT_EQ(scaling.columns, c.columns) << to_string(c.scales);
    EXPECT_EQ(scaling.tile_rows, c.tile_rows) << to_string(c.scales);
    EXPECT_EQ(scaling.tile_columns, c.tile_columns) << to_string(c.scales);
  }
}

TEST(ScaledSource, TakesTilesOfTheSideThatIsToldOrIsUsual) {
  const auto tiles_of = [](Shape shape, Shape scales, const std::string& told) {
    Tensors file;
    file.put("a.weight", kFp8, std::move(shape));
    const auto count = static_cast<size_t>(TensorInfo{.shape = scales}.elements());
    file.floats("a.weight_scale", std::move(scales), std::vector<float>(count, 1));
    if (!told.empty())
      file.text("a.comfy_quant",
                R"({"format":"float8_e4m3fn_blockwise","group_size":)" + told + "}");
    const auto seen = read_scales(file.shared());
    const Scaling& scaling = *seen->tensors().at("a.weight").scaling;
    return std::array{scaling.columns, scaling.tile_rows, scaling.tile_columns};
  };
  EXPECT_EQ(tiles_of({200, 256}, {2, 2}, "128"), (std::array<int64_t, 3>{256, 128, 128}));
  EXPECT_EQ(tiles_of({200, 256}, {2, 2}, ""), (std::array<int64_t, 3>{256, 128, 128}));
  EXPECT_EQ(tiles_of({200, 260}, {2, 5}, ""), (std::array<int64_t, 3>{260, 100, 52}));
  EXPECT_EQ(tiles_of({200, 70}, {4, 2}, "64"), (std::array<int64_t, 3>{70, 64, 64}));
  EXPECT_EQ(tiles_of({4, 70}, {4, 2}, "64"), (std::array<int64_t, 3>{70, 1, 64}));
  EXPECT_EQ(error_of([&] { tiles_of({200, 256}, {2, 2}, "64"); }).facts().expected,
            "one scale for all of [200, 256], for each row or for each of its 64x64 tiles");
  for (const std::string told : {"0", "-1", "1e3", "\"64\"", "99999999999"})
    EXPECT_EQ(error_of([&] { tiles_of({200, 256}, {2, 2}, told); }).facts().expected,
              "a group_size from 1 to 1048576");
}

Tensors nvfp4() {
  return Tensors()
      .put("a.weight", Encoding::u8, {130, 24})  // of 48 columns
      .put("a.weight_scale", kFp8, {256, 4}, std::string(1024, '\x38'))
      .floats("a.weight_scale_2", {}, {0.5F});
}

TEST(ScaledSource, TakesScalesInTheOrderOfTensorCores) {
  const auto seen = read_scales(nvfp4().shared());
  EXPECT_EQ(names_of(*seen), std::vector<std::string>{"a.weight"});
  const TensorInfo& info = seen->tensors().at("a.weight");
  EXPECT_EQ(info.encoding, Encoding::e2m1);
  EXPECT_EQ(info.shape, (Shape{130, 48}));
  EXPECT_TRUE(info.scaling->swizzled);
  EXPECT_EQ(info.scaling->factor, 0.5F);
  EXPECT_EQ(info.scaling->tile_columns, 16);
  const auto eight = read_scales(Tensors()
                                     .put("a.weight", kFp8, {4, 64})
                                     .put("a.weight_scale", Encoding::f8_e8m0, {512})
                                     .shared());
  EXPECT_EQ(eight->tensors().at("a.weight").scaling->encoding, Encoding::f8_e8m0);
  EXPECT_EQ(eight->tensors().at("a.weight").scaling->tile_columns, 32);
}

TEST(ScaledSource, NamesWhatIsWrongWithScalesInTheOrderOfTensorCores) {
  const std::string at = "model.safetensors: tensor 'a.weight";
  expect_refused(nvfp4().put("a.weight_scale", kFp8, {130, 3}), ErrorCode::malformed,
                 at + "_scale': expected 1024 scales for [130, 48], found [130, 3]");
  expect_refused(nvfp4().drop("a.weight_scale_2"), ErrorCode::malformed,
                 at + "_scale_2': expected it, the scale of all of tensor 'a.weight'");
  expect_refused(nvfp4().floats("a.weight_scale_2", {}, {INFINITY}), ErrorCode::malformed,
                 at + "_scale_2': expected a finite number");
  expect_refused(nvfp4().put("a.weight", Encoding::u8, {130, 25}), ErrorCode::malformed,
                 at + "': expected rows of whole groups of 16 numbers, found [130, 50]");
  expect_refused(nvfp4()
                     .text("a.comfy_quant", R"({"format":"nvfp4"})")
                     .put("a.weight_scale", Encoding::f32, {130, 3}),
                 ErrorCode::malformed, at + "_scale': expected scales in F8_E4M3, found F32");
  expect_refused(nvfp4().text("a.comfy_quant", R"({"format":"nvfp4"})").drop("a.weight_scale"),
                 ErrorCode::malformed, at + "_scale': expected it");
}

TEST(ScaledSource, TakesTheScaleOfABlockEncodedTensorOnlyWhereOneIsMeant) {
  const auto file = Tensors()
                        .put("a.weight", Encoding::nvfp4, {2, 64})
                        .floats("a.scale", {1}, {0.5F})
                        .put("norm.weight", Encoding::bf16, {4})
                        .floats("norm.scale", {4}, {1, 2, 3, 4})
                        .shared();
  const auto seen = read_scales(file);
  EXPECT_EQ(names_of(*seen), (std::vector<std::string>{"a.weight", "norm.scale", "norm.weight"}));
  EXPECT_EQ(seen->tensors().at("a.weight").scaling->name, "a.scale");
}

TEST(ScaledSource, RefusesRowsInTheOrderOfAGpu) {
  const auto rows = [](char order) {
    return Tensors()
        .put("a.weight", Encoding::i8, {4, 6})
        .floats("a.SCB", {4}, {1, 2, 3, 4})
        .put("a.weight_format", Encoding::u8, {1}, std::string(1, order));
  };
  EXPECT_EQ(names_of(*read_scales(rows(0).shared())), std::vector<std::string>{"a.weight"});
  expect_refused(rows(2), ErrorCode::unsupported,
                 "model.safetensors: tensor 'a.weight_format': expected 0, which is row by row, "
                 "found order 2");
}

TEST(ScaledSource, TakesAnOddNumberOfFourBitCodes) {
  const auto odd = four_bits(R"({"quant_type":"nf4","blocksize":64,"shape":[3,67]})")
                       .put("b.weight", Encoding::u8, {101});
  EXPECT_EQ(read_scales(odd.shared())->tensors().at("b.weight").elements(), 201);
}

TEST(ScaledSource, TakesBlocksOfFourBitsInTheShapeTheirStateTells) {
  for (const Tensors& file : {four_bits(kState), nested()}) {
    const auto seen = read_scales(file.shared());
    EXPECT_EQ(names_of(*seen), std::vector<std::string>{"b.weight"});
    const TensorInfo& info = seen->tensors().at("b.weight");
    EXPECT_EQ(info.encoding, Encoding::nf4);
    EXPECT_EQ(info.shape, (Shape{10, 20}));
    EXPECT_EQ(info.scaling->tile_columns, 64);
    EXPECT_EQ(info.scaling->nested.has_value(), file.tensors().contains("b.weight.nested_absmax"));
  }
}

TEST(ScaledSource, TakesCodesOfBytesAsTheirFormatSays) {
  const std::string layers = R"({"layers":{"a":{"format":"float8_e5m2"}}})";
  const auto seen = read_scales(Tensors()
                                    .put("a.weight", Encoding::u8, {4, 6})
                                    .floats("a.weight_scale", {}, {1})
                                    .tell("_quantization_metadata", layers)
                                    .tell("title", "x")
                                    .shared());
  EXPECT_EQ(seen->tensors().at("a.weight").encoding, Encoding::f8_e5m2);
  EXPECT_EQ(seen->metadata(), (Metadata{{"title", "x"}}));
}

TEST(ScaledSource, NamesTheScaleThatIsMissing) {
  expect_refused(scaled_fp8().drop("a.scale_weight"), ErrorCode::malformed,
                 "model.safetensors: tensor 'a.scale_weight': expected it, as 'scaled_fp8' demands,"
                 " found no tensor of this name");
  expect_refused(Tensors()
                     .put("a.weight", kFp8, {4, 6})
                     .text("a.comfy_quant", R"({"format":"float8_e4m3fn"})"),
                 ErrorCode::malformed, "model.safetensors: tensor 'a.weight_scale': expected it");
  expect_refused(four_bits(kState).drop("b.weight.absmax"), ErrorCode::malformed,
                 "model.safetensors: tensor 'b.weight.absmax': expected it, the scales of tensor "
                 "'b.weight', found no tensor");
  // Without a mark: where inputs are scaled, or other blocks.
  expect_refused(scaled_fp8().drop("a.scale_weight").drop("scaled_fp8"), ErrorCode::malformed,
                 "model.safetensors: tensor 'a.scale_weight': expected it, as there is "
                 "'a.scale_input', found no tensor of this name");
  Tensors blocks;
  for (const std::string block : {"b.0", "b.1", "b.12"})
    blocks.put(block + ".weight", kFp8, {4, 6}).floats(block + ".weight_scale", {}, {1});
  blocks.put("b.norm.weight", kFp8, {4}).put("c.0.weight", kFp8, {4, 6});
  EXPECT_EQ(read_scales(blocks.shared())->tensors().size(), 5U);
  expect_refused(blocks.drop("b.12.weight_scale"), ErrorCode::malformed,
                 "model.safetensors: tensor 'b.12.scale_weight': expected it, as there is "
                 "'b.0.weight_scale'");
  for (const std::string leaf : {"nested_absmax", "nested_quant_map"})
    expect_refused(nested().drop("b.weight." + leaf), ErrorCode::malformed,
                   "model.safetensors: tensor 'b.weight." + leaf + "': expected it");
}

TEST(ScaledSource, AMarkerSpeaksForItsPrefixAlone) {
  const auto file = Tensors()
                        .put("unet.scaled_fp8", kFp8, {2})
                        .put("unet.a.weight", Encoding::bf16, {4, 6})
                        .put("unet.norm.weight", kFp8, {4})
                        .put("vae.a.weight", kFp8, {4, 6})
                        .shared();
  EXPECT_EQ(names_of(*read_scales(file)),
            (std::vector<std::string>{"unet.a.weight", "unet.norm.weight", "vae.a.weight"}));
}

TEST(ScaledSource, NamesTheScaleThatIsWrong) {
  const auto with = [](const std::string& name, Encoding encoding, Shape shape) {
    return scaled_fp8().put(name, encoding, std::move(shape));
  };
  const std::string at = "model.safetensors: tensor 'a.scale_weight': expected ";
  expect_refused(with("a.scale_weight", Encoding::f32, {5}), ErrorCode::malformed,
                 at + "one scale");
  expect_refused(with("a.scale_weight", Encoding::f32, {2, 1}), ErrorCode::malformed,
                 at + "one scale for all of [4, 6], for each row or for each of its equal tiles, "
                      "found [2, 1]");
  expect_refused(with("a.scale_weight", Encoding::f32, {0}), ErrorCode::malformed,
                 at + "one scale");
  expect_refused(with("a.scale_weight", Encoding::u8, {1}), ErrorCode::malformed, at + "scales in");
  for (const float value : {INFINITY, -INFINITY, NAN})
    expect_refused(scaled_fp8().floats("a.scale_weight", {4}, {1, 1, value, 1}),
                   ErrorCode::malformed, at + "finite numbers, found another at index 2");
  expect_refused(with("a.weight_scale", Encoding::f32, {1}), ErrorCode::malformed,
                 "model.safetensors: tensor 'a.weight_scale': expected one tensor of scales");
  expect_refused(with("a.weight", Encoding::q8_0, {4, 32}), ErrorCode::unsupported,
                 "model.safetensors: tensor 'a.weight': expected numbers of 8 bits");
}

TEST(ScaledSource, NamesTheWrongNumberOfBlocks) {
  expect_refused(four_bits(kState).put("b.weight.absmax", Encoding::f32, {3}), ErrorCode::malformed,
                 "model.safetensors: tensor 'b.weight.absmax': expected 4 numbers of F32, found "
                 "[3] of F32");
  expect_refused(four_bits(kState).put("b.weight", Encoding::u8, {99}), ErrorCode::malformed,
                 "model.safetensors: tensor 'b.weight': expected 100 bytes for [10, 20], found 99");
  expect_refused(nested().put("b.weight.nested_absmax", Encoding::f32, {1}), ErrorCode::malformed,
                 "model.safetensors: tensor 'b.weight.nested_absmax': expected 2 numbers");
  expect_refused(nested().put("b.weight.nested_quant_map", Encoding::f32, {16}),
                 ErrorCode::malformed,
                 "model.safetensors: tensor 'b.weight.nested_quant_map': expected 256 numbers");
}

TEST(ScaledSource, NamesTheStateThatLies) {
  const std::string at =
      "model.safetensors: tensor 'b.weight.quant_state.bitsandbytes__nf4': expected ";
  const std::pair<const char*, const char*> cases[] = {
      {R"(["nf4"])", "a JSON object"},
      {R"({"quant_type":"nf4")", "JSON"},
      {R"({"quant_type":"fp4","blocksize":64,"shape":[10,20]})", "quant_type nf4"},
      {R"({"quant_type":"nf4","blocksize":0,"shape":[10,20]})", "blocksize from 1 to"},
      {R"({"quant_type":"nf4","blocksize":1e3,"shape":[10,20]})", "blocksize from 1 to"},
      {R"({"quant_type":"nf4","blocksize":63,"shape":[10,20]})", "an even blocksize"},
      {R"({"quant_type":"nf4","blocksize":64,"shape":[]})", "a shape"},
      {R"({"quant_type":"nf4","blocksize":64})", "a shape"},
      {R"({"quant_type":"nf4","blocksize":64,"shape":[10,"20"]})", "a shape"},
      {R"({"quant_type":"nf4","blocksize":64,"shape":[-10,-20]})", "extents of zero or more"},
      {R"({"quant_type":"nf4","blocksize":64,"shape":[9223372036854775807,9]})", "a shape whose"},
  };
  for (const auto& [state, message] : cases)
    expect_refused(four_bits(state), ErrorCode::malformed, at + message);
}

TEST(ScaledSource, SaysWhichFormatsItDoesNotRead) {
  for (const std::string format :
       {R"("svdquant_w4a4")", "7", R"("int8_tensorwise","convrot":true)"})
    expect_refused(scaled_fp8().text("a.comfy_quant", R"({"format":)" + format + "}"),
                   ErrorCode::unsupported,
                   "model.safetensors: tensor 'a.comfy_quant': expected weights scaled by one "
                   "number, per row or per tile, found format");
  expect_refused(scaled_fp8().text("a.comfy_quant", R"({"format":"int8_tensorwise"})"),
                 ErrorCode::malformed,
                 "model.safetensors: tensor 'a.weight': expected I8, as its comfy_quant says, "
                 "found F8_E4M3");
}

TEST(ScaledSource, LeavesOrphansToTheirReader) {
  const auto file = Tensors().floats("gone.scale_weight", {}, {1}).shared();
  EXPECT_EQ(names_of(*read_scales(file)), std::vector<std::string>{"gone.scale_weight"});
}

}  // namespace
}  // namespace atelier
