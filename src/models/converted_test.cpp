// Files as converters write them: GGUF and safetensors of quantised weights under the usual names
// must compute what the numbers they stand for compute, and say in one line what they lack.
#include <ATen/ATen.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <random>

#include "formats/gguf.h"
#include "formats/model_folder.h"
#include "formats/safetensors.h"
#include "models/denoiser_test.h"
#include "models/text_encoder.h"
#include "quant/codec/encode.h"

namespace atelier {
namespace {

using namespace golden;
namespace fs = std::filesystem;

/// The tensors of a file to be written.
struct Output {
  std::vector<TensorSpec> specs;
  std::vector<std::vector<std::byte>> bytes;
  Metadata metadata;
  GgufEntries entries;
  std::mt19937 random{11};

  void put(const std::string& name, const Shape& shape, Encoding encoding,
           std::vector<std::byte> stored) {
    specs.push_back({name, shape, encoding});
    bytes.push_back(std::move(stored));
  }
  void text(const std::string& name, std::string_view value) {
    const auto raw = std::as_bytes(std::span(value));
    put(name, {static_cast<int64_t>(raw.size())}, Encoding::u8, {raw.begin(), raw.end()});
  }
  void floats(const std::string& name, const at::Tensor& values, Encoding encoding,
              const Shape& shape) {
    const at::Tensor flat = values.to(at::kFloat).contiguous();
    const std::span<const float> from(flat.const_data_ptr<float>(),
                                      static_cast<size_t>(flat.numel()));
    const EncodingInfo& info = encoding_info(encoding);
    std::vector<std::byte> out(from.size() / static_cast<size_t>(info.block_elements) *
                               static_cast<size_t>(info.block_bytes));
    encode(from, flat.numel(), encoding, {}, out, SerialParallel());
    put(name, shape, encoding, std::move(out));
  }
  void floats(const std::string& name, const at::Tensor& values, Encoding encoding) {
    floats(name, values, encoding, values.sizes().vec());
  }
};

/// What a converter does with one tensor.
using Convert = void (*)(Output& out, const std::string& name, const at::Tensor& weight);

// As stable-diffusion.cpp: whatever has rows of whole blocks, in the model's own shapes.
void as_q8_0(Output& out, const std::string& name, const at::Tensor& weight) {
  const Shape shape = weight.sizes().vec();
  const bool blocks = shape.size() > 1 && shape.back() % 32 == 0;
  out.floats(name, weight, blocks ? Encoding::q8_0 : Encoding::f16);
}

// As ComfyUI-GGUF's converter: kernels as rows of 256 and their shapes beside them, a mix of types.
void as_folded(Output& out, const std::string& name, const at::Tensor& weight) {
  const Shape shape = weight.sizes().vec();
  const int64_t count = weight.numel();
  if (shape.size() < 2 || count % 256 != 0) return out.floats(name, weight, Encoding::f32);
  if (shape.back() % 256 == 0) return out.floats(name, weight, Encoding::q4_k);
  out.entries["comfy.gguf.orig_shape." + name] = std::vector<int32_t>(shape.begin(), shape.end());
  out.floats(name, weight, count % 512 == 0 ? Encoding::q6_k : Encoding::q5_1, {count / 256, 256});
}

bool is_matrix(const std::string& name, const at::Tensor& weight) {
  return weight.dim() > 1 && name.ends_with(".weight");
}
std::string layer_of(const std::string& name) { return name.substr(0, name.rfind('.')); }

// As ComfyUI's `fp8_scaled` files: one scale a matrix, all else in bf16.
void as_scaled_fp8(Output& out, const std::string& name, const at::Tensor& weight) {
  if (!is_matrix(name, weight)) return out.floats(name, weight, Encoding::bf16);
  const at::Tensor scale = (weight.abs().max() / 448).clamp_min(1e-12);
  out.floats(name, weight / scale, Encoding::f8_e4m3);
  out.floats(layer_of(name) + ".scale_weight", scale, Encoding::f32, {});
  out.floats(layer_of(name) + ".scale_input", at::ones({}), Encoding::f32, {});
}

// As newer ones: each layer says how it is stored; here in I8 with a scale for each row.
void as_int8_layers(Output& out, const std::string& name, const at::Tensor& weight) {
  if (!is_matrix(name, weight)) return out.floats(name, weight, Encoding::f16);
  const at::Tensor rows = weight.flatten(1);
  const at::Tensor scale = (rows.abs().amax(1, true) / 127).clamp_min(1e-12);
  const at::Tensor codes = (rows / scale).round().to(at::kChar).contiguous();
  const auto raw =
      std::as_bytes(std::span(codes.const_data_ptr<int8_t>(), static_cast<size_t>(codes.numel())));
  out.put(name, weight.sizes().vec(), Encoding::i8, {raw.begin(), raw.end()});
  out.floats(layer_of(name) + ".weight_scale", scale, Encoding::f32);
  out.text(layer_of(name) + ".comfy_quant", R"({"format":"int8_tensorwise"})");
}

// As files that are cast whole, norms and biases too.
void as_bare_fp8(Output& out, const std::string& name, const at::Tensor& weight) {
  out.floats(name, weight, Encoding::f8_e4m3);
}

// As bitsandbytes: matrices in blocks of 64 (any codes will do here), all else in bf16.
void as_nf4(Output& out, const std::string& name, const at::Tensor& weight) {
  if (weight.dim() != 2 || !name.ends_with(".weight") || weight.numel() % 2 != 0)
    return out.floats(name, weight, Encoding::bf16);
  const int64_t blocks = (weight.numel() + 63) / 64;
  std::vector<std::byte> codes(static_cast<size_t>(weight.numel() / 2));
  for (std::byte& pair : codes) pair = static_cast<std::byte>(out.random() & 0xff);
  out.put(name, {weight.numel() / 2, 1}, Encoding::u8, std::move(codes));
  out.floats(name + ".absmax", at::linspace(0.01, 0.1, blocks), Encoding::f32);
  out.floats(name + ".quant_map", at::linspace(-1, 1, 16), Encoding::f32);
  out.text(
      name + ".quant_state.bitsandbytes__nf4",
      fmt::format(R"({{"quant_type":"nf4","blocksize":64,"dtype":"bfloat16","shape":[{},{}]}})",
                  weight.size(0), weight.size(1)));
}

// As comfy-kitchen: matrices of rows of sixteens, any codes, scales of 2^-8 to 2^-5 in the order of
// tensor cores; all else in bf16.
void as_nvfp4(Output& out, const std::string& name, const at::Tensor& weight) {
  if (weight.dim() != 2 || !name.ends_with(".weight") || weight.size(1) % 16 != 0)
    return out.floats(name, weight, Encoding::bf16);
  const int64_t rows = weight.size(0), groups = weight.size(1) / 16;
  const int64_t down = (rows + 127) / 128 * 128, across = (groups + 3) / 4 * 4;
  std::vector<std::byte> codes(static_cast<size_t>(weight.numel() / 2));
  for (std::byte& pair : codes) pair = static_cast<std::byte>(out.random() & 0xff);
  std::vector<std::byte> scales(static_cast<size_t>(down * across));
  for (std::byte& scale : scales) scale = static_cast<std::byte>(0x20 + (out.random() & 0x1f));
  out.put(name, {rows, weight.size(1) / 2}, Encoding::u8, std::move(codes));
  out.put(layer_of(name) + ".weight_scale", {down, across}, Encoding::f8_e4m3, std::move(scales));
  out.floats(layer_of(name) + ".weight_scale_2", at::full({}, 0.0625), Encoding::f32, {});
  out.text(layer_of(name) + ".comfy_quant", R"({"format":"nvfp4"})");
}

/// A spelling of whole files.
struct Spelling {
  const char* name;
  const char* ending;
  const char* prefix;
  Convert convert;
  const char* architecture = "";  // general.architecture of GGUF
  bool marked = false;  // with `scaled_fp8`
  double most = 0.2;  // relative error against the floats; 0: the numbers are others
};
void PrintTo(const Spelling& spelling, std::ostream* out) { *out << spelling.name; }

constexpr Spelling kSpellings[] = {
    {"gguf_bare", ".gguf", "", as_q8_0},
    {"gguf_prefixed", ".gguf", "model.diffusion_model.", as_q8_0, "pig"},
    {"gguf_folded", ".gguf", "", as_folded, "flux", false, 0.6},
    {"fp8_scaled", ".safetensors", "model.diffusion_model.", as_scaled_fp8, "", true, 0.6},
    {"fp8_scaled_bare", ".safetensors", "", as_scaled_fp8, "", true, 0.6},
    {"int8_layers", ".safetensors", "model.diffusion_model.", as_int8_layers},
    {"fp8_bare", ".safetensors", "", as_bare_fp8, "", false, 0.6},
    {"nf4", ".safetensors", "model.diffusion_model.", as_nf4, "", false, 0},
    {"nvfp4", ".safetensors", "", as_nvfp4, "", false, 0},
};

/// A folder of files that goes away with the test.
struct Folder {
  fs::path path = fs::temp_directory_path() /
                  fmt::format("atelier_converted_{}_{}", ::getpid(), static_cast<void*>(this));
  Folder() { fs::create_directories(path); }
  ~Folder() { fs::remove_all(path); }

  fs::path write(const TensorSource& from, const Spelling& as) const {
    Output out;
    for (const auto& [name, info] : from.tensors())
      as.convert(out, as.prefix + name, tensor(from, name));
    if (as.marked) out.put(as.prefix + std::string("scaled_fp8"), {0}, Encoding::f8_e4m3, {});
    const fs::path file = path / (as.name + std::string(as.ending));
    const auto bytes = [&](size_t i) { return std::span<const std::byte>(out.bytes[i]); };
    if (*as.architecture) out.entries["general.architecture"] = std::string(as.architecture);
    if (file.extension() == ".gguf")
      write_gguf(file, out.specs, bytes, out.entries);
    else
      write_safetensors(file, out.specs, bytes, out.metadata);
    return file;
  }
};

/// The numbers a source stands for, in fp32 under its names.
std::shared_ptr<MemorySource> numbers_of(const TensorSource& source) {
  auto plain = std::make_shared<MemorySource>("numbers");
  for (const auto& [name, info] : source.tensors()) {
    at::Tensor values = at::empty(info.shape, at::kFloat);
    decode_range(source.bytes(name), info, 0, values, name);
    plain->put(name, values);
  }
  return plain;
}

using Case = std::tuple<const char*, Spelling>;

class Converted : public ::testing::TestWithParam<Case>, public Folder {};

TEST_P(Converted, ADenoiserComputesWhatItsNumbersDo) {
  const auto& [name, spelling] = GetParam();
  const auto expected = source(name, "expected");
  const auto file = open_source(write(*source(name, "model"), spelling));
  const auto numbers = numbers_of(*file);
  EXPECT_EQ(detect_model(file).def, detect_model(numbers).def);
  EXPECT_EQ(detect_model(file).denoiser.prefix, spelling.prefix);
  const auto run = [&](const std::shared_ptr<const TensorSource>& from, at::ScalarType dtype) {
    return load(from, dtype)->model->forward(input(*expected));
  };
  const at::Tensor found = run(file, at::kFloat);
  EXPECT_TRUE(at::equal(found, run(numbers, at::kFloat)));
  if (spelling.most > 0) {
    EXPECT_TRUE(close(found, tensor(*expected, "output"), spelling.most));
  }
  EXPECT_TRUE(at::equal(run(file, at::kBFloat16), run(numbers, at::kBFloat16)));
}

INSTANTIATE_TEST_SUITE_P(Denoisers, Converted,
                         ::testing::Combine(::testing::Values("unet_sd1", "unet_sdxl", "flux_dev",
                                                              "flux_schnell"),
                                            ::testing::ValuesIn(kSpellings)),
                         [](const auto& instance) {
                           return std::string(std::get<0>(instance.param)) + "_" +
                                  std::get<1>(instance.param).name;
                         });

TEST(ConvertedFiles, OfDiffusersInFourBitsComputeWhatTheirNumbersDo) {
  const Folder folder;
  const Spelling spelling{"nf4", ".safetensors", "", as_nf4};
  const auto expected = source("flux_dev", "expected");
  const auto file =
      open_source(folder.write(*renamed(*source("flux_dev", "model"), "flux_dev"), spelling));
  EXPECT_EQ(detect_model(file).denoiser.layout->name, "diffusers");
  EXPECT_TRUE(at::equal(load(file)->model->forward(input(*expected)),
                        load(numbers_of(*file))->model->forward(input(*expected))));
}

// ---- text encoders

at::Tensor said(const PartDef<TextEncoder>& def, const std::shared_ptr<const TensorSource>& from,
                std::string_view prefix) {
  Residency residency;
  BindReport report;
  const std::string_view prefixes[] = {prefix};
  const auto place = recognise(def, from, prefixes);
  if (!place) return {};
  const auto encoder = load_part(def, from, *place, residency, report,
                                 {.device = {}, .dtype = at::kFloat, .rounded = at::kHalf});
  report.throw_if_bad(from->label());
  const std::vector<TokenChunk> chunk{{.ids = {3, 7, 1, 3, 2}, .vectors = {}}};
  return encoder->encode(chunk, {}).hidden;
}

/// llama.cpp's names of T5 (gguf-py, tensor_mapping.py).
std::shared_ptr<MemorySource> in_llama_names(const TensorSource& from) {
  const std::pair<const char*, const char*> rows[] = {
      {"shared.", "token_embd."},
      {"encoder.final_layer_norm.", "enc.output_norm."},
      {"encoder.block.", "enc.blk."},
      {"layer.0.SelfAttention.relative_attention_bias.", "attn_rel_b."},
      {"layer.0.SelfAttention.", "attn_"},
      {"layer.0.layer_norm.", "attn_norm."},
      {"layer.1.layer_norm.", "ffn_norm."},
      {"layer.1.DenseReluDense.wi_0.", "ffn_gate."},
      {"layer.1.DenseReluDense.wi_1.", "ffn_up."},
      {"layer.1.DenseReluDense.wo.", "ffn_down."}};
  auto result = std::make_shared<MemorySource>("llama.cpp");
  for (const auto& [name, info] : from.tensors()) {
    std::string to = name;
    for (const auto& [old, next] : rows)
      if (const size_t at = to.find(old); at != to.npos)
        to.replace(at, std::string_view(old).size(), next);
    result->put(to, tensor(from, name));
  }
  return result;
}

TEST(ConvertedFiles, OfT5ComputeWhatTheirNumbersDo) {
  const Folder folder;
  const auto floats = source("t5", "model");
  const Spelling cases[] = {
      {"llama", ".gguf", "", as_q8_0, "t5"},
      {"transformers", ".gguf", "", as_q8_0, "t5encoder"},
      {"whole_scaled", ".safetensors", "text_encoders.t5xxl.transformer.", as_scaled_fp8, "", true},
      {"lone_layers", ".safetensors", "", as_int8_layers},
      {"nf4", ".safetensors", "text_encoder_2.", as_nf4}};
  for (const Spelling& spelling : cases) {
    const bool llama = std::string_view(spelling.name) == "llama";
    const auto file =
        open_source(folder.write(llama ? *in_llama_names(*floats) : *floats, spelling));
    const at::Tensor found = said(t5xxl_encoder, file, spelling.prefix);
    ASSERT_TRUE(found.defined()) << spelling.name;
    EXPECT_TRUE(at::equal(found, said(t5xxl_encoder, numbers_of(*file), spelling.prefix)))
        << spelling.name;
  }
}

TEST(ConvertedFiles, OfClipComputeWhatTheirNumbersDo) {
  const Folder folder;
  const Spelling cases[] = {
      {"gguf", ".gguf", "", as_q8_0, "clip"},
      {"scaled", ".safetensors", "text_encoders.clip_l.transformer.", as_scaled_fp8, "", true}};
  for (const Spelling& spelling : cases) {
    const auto file = open_source(folder.write(*source("clip_l", "model"), spelling));
    const auto numbers = numbers_of(*file);
    const PartDef<TextEncoder>* clip = nullptr;
    const std::string_view prefixes[] = {spelling.prefix};
    for (const PartDef<TextEncoder>* def : text_encoders())
      if (recognise(*def, file, prefixes)) clip = def;
    ASSERT_TRUE(clip) << spelling.name;
    EXPECT_TRUE(
        at::equal(said(*clip, file, spelling.prefix), said(*clip, numbers, spelling.prefix)))
        << spelling.name;
  }
}

// ---- what is wrong with a file

/// The file with one tensor left out or cut short by a row.
fs::path damaged(const Folder& folder, const Spelling& spelling, const std::string& name,
                 bool cut) {
  const fs::path file = folder.write(*source("flux_schnell", "model"), spelling);
  const auto whole = open_checkpoint(file);
  std::vector<TensorSpec> specs;
  for (const auto& [key, info] : whole->tensors()) {
    specs.push_back({key, info.shape, info.encoding});
    if (key == name && cut) specs.back().shape[0] -= 1;
    if (key == name && !cut) specs.pop_back();
  }
  const fs::path out = folder.path / "damaged.safetensors";
  write_safetensors(out, specs, [&](size_t i) {
    const TensorSpec& spec = specs[i];
    const TensorInfo info{.shape = spec.shape};
    const EncodingInfo& row = encoding_info(spec.encoding);
    return whole->bytes(spec.name).first(static_cast<size_t>(info.elements() * row.block_bytes));
  });
  return out;
}

TEST(ConvertedFiles, ThatLostAScaleSayWhichInOneLine) {
  const Folder folder;
  const std::string layer = "model.diffusion_model.img_in";
  const struct {
    Spelling spelling;
    std::string lost;
    bool cut;
  } cases[] = {{kSpellings[3], layer + ".scale_weight", false},
               {kSpellings[5], layer + ".weight_scale", false},
               {kSpellings[5], layer + ".weight_scale", true},
               {kSpellings[7], layer + ".weight.absmax", false},
               {kSpellings[7], layer + ".weight.absmax", true}};
  for (const auto& c : cases) {
    const fs::path file = damaged(folder, c.spelling, c.lost, c.cut);
    const std::string text = message([&] { open_source(file); }, ErrorCode::malformed);
    EXPECT_NE(text.find(file.string()), std::string::npos) << text;
    EXPECT_NE(text.find("'" + c.lost + "'"), std::string::npos) << text;
    EXPECT_EQ(text.find('\n'), std::string::npos) << text;
  }
}

}  // namespace
}  // namespace atelier
