// Reading textual inversions in the layouts their trainers use.
#include "pipeline/embeddings.h"

#include <ATen/ATen.h>
#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "base/error.h"
#include "formats/model_folder.h"
#include "models/model.h"
#include "quant/decode.h"
#include "text/embedding_files.h"

namespace atelier {
namespace {

constexpr int64_t kMostVectors = 1024;  // where a chunk has room for them
constexpr std::string_view kPlainName = "emb_params", kNestedHead = "string_to_param.";

/// The names under which files keep one encoder's vectors: ComfyUI's and kohya's, then those of
/// trainers of pivotal tuning.
struct EncoderNames {
  std::string_view encoder;
  std::array<std::string_view, 2> names;
};
constexpr std::array kEncoderNames = {
    EncoderNames{"clip_l", {"clip_l", "text_encoders_0"}},
    EncoderNames{"clip_g", {"clip_g", "text_encoders_1"}},
    EncoderNames{"clip_h", {"clip_h"}},
    EncoderNames{"t5xxl", {"t5xxl", "t5"}},
};

[[noreturn]] void refuse(std::string subject, std::string expected, std::string found) {
  throw Error(
      ErrorCode::mismatch,
      {.subject = std::move(subject), .expected = std::move(expected), .found = std::move(found)});
}

// The tensor named after the encoder; nothing if the file names none after any.
std::optional<std::string> named_after(const TensorSource& file, std::string_view encoder) {
  std::string others;
  for (const EncoderNames& row : kEncoderNames)
    for (const std::string_view name : row.names) {
      if (name.empty() || !file.tensors().contains(name)) continue;
      if (row.encoder == encoder) return std::string(name);
      others += fmt::format("{}{}", others.empty() ? "" : ", ", name);
    }
  if (others.empty()) return {};
  refuse(file.label(), fmt::format("vectors for {}", encoder), others + " alone");
}

// Whether diffusers has named the tensor: "<token>", or "0.<token>" in a list of several.
bool is_token(std::string_view name) {
  const size_t begin = name.find('<');
  const bool counted = begin != name.npos && begin >= 2 && name[begin - 1] == '.';
  return name.ends_with('>') && (begin == 0 || counted);
}

// The tensors of `<token>` files that are as wide as the encoder.
std::vector<std::string> tokens_of(const TensorSource& file, const EncoderRules& rules) {
  std::vector<std::string> names;
  std::string widths;
  for (const auto& [name, info] : file.tensors()) {
    if (!is_token(name) || info.shape.empty()) continue;
    if (info.shape.back() == rules.width) names.push_back(name);
    widths += fmt::format("{}{}", widths.empty() ? "" : ", ", info.shape.back());
  }
  if (names.empty() && !widths.empty())
    refuse(file.label(), fmt::format("vectors of {} for {}", rules.width, rules.name),
           "vectors of " + widths);
  return names;
}

// The tensors that hold the vectors for an encoder, in order.
std::vector<std::string> tensor_names(const TensorSource& file, const EncoderRules& rules) {
  const TensorTable& table = file.tensors();
  if (auto name = named_after(file, rules.name)) return {std::move(*name)};
  if (table.contains(kPlainName)) return {std::string(kPlainName)};
  const auto nested = table.lower_bound(kNestedHead);
  if (nested != table.end() && nested->first.starts_with(kNestedHead)) return {nested->first};
  if (table.size() == 1) return {table.begin()->first};
  if (std::vector<std::string> tokens = tokens_of(file, rules); !tokens.empty()) return tokens;
  if (const auto other = accessory_in(file))
    throw Error(ErrorCode::mismatch, {.subject = file.label(),
                                      .expected = "a textual inversion",
                                      .found = std::string(other->what),
                                      .hint = std::string(other->hint)});
  refuse(file.label(),
         fmt::format("a textual inversion: one tensor, emb_params, string_to_param, <token> or {}",
                     rules.name),
         fmt::format("{} tensors", table.size()));
}

// [vectors, width] fp32
at::Tensor read_matrix(const TensorSource& file, const std::string& name, int64_t most) {
  const TensorInfo& info = file.tensors().find(name)->second;
  const bool matrix = info.shape.size() == 2 || info.shape.size() == 1;
  const std::string subject = file.label() + ": " + name;
  if (!matrix || info.elements() == 0 || (info.shape.size() == 2 && info.shape[0] > most))
    refuse(subject, fmt::format("[1 to {} vectors, width]", most), to_string(info.shape));
  if (is_integer(info.encoding) && !info.scaling)
    throw Error(ErrorCode::unsupported,
                {.subject = subject,
                 .expected = fmt::format(
                     "is stored as {} without scales, which says nothing about its numbers",
                     encoding_info(info.encoding).name),
                 .hint = "Look for a file of the same textual inversion in fp16 or fp32"});
  at::Tensor vectors = at::empty(info.shape, at::kFloat);
  decode_range(file.bytes(name), info, 0, vectors, name);
  if (!vectors.isfinite().all().item<bool>()) refuse(subject, "finite numbers", "others");
  return vectors.view({-1, info.shape.back()});
}

at::Tensor read_vectors(const TensorSource& file, const EncoderRules& rules) {
  const int64_t most = std::min<int64_t>(rules.max_length - 2, kMostVectors);
  std::vector<at::Tensor> matrices;
  for (const std::string& name : tensor_names(file, rules))
    matrices.push_back(read_matrix(file, name, most));
  at::Tensor vectors = matrices.size() == 1 ? matrices[0] : at::cat(matrices);
  if (vectors.size(0) > most)
    refuse(file.label(), fmt::format("at most {} vectors", most),
           fmt::format("{}", vectors.size(0)));
  return vectors;
}

}  // namespace

EmbeddingFolder::EmbeddingFolder(std::vector<std::filesystem::path> folders)
    : folders_(std::move(folders)) {}

std::optional<Embedding> EmbeddingFolder::find(std::string_view name, const EncoderRules& rules) {
  const auto file = find_embedding_file(folders_, name);
  if (!file) return {};
  const auto key = std::pair(*file, std::string(rules.name));
  auto known = known_.find(key);
  if (known == known_.end()) {
    held_.push_back(read_vectors(*open_source(*file), rules));
    known = known_.emplace(key, held_.size() - 1).first;
  }
  const at::Tensor& vectors = held_[known->second];
  return Embedding{.vectors = static_cast<int32_t>(vectors.size(0)),
                   .width = static_cast<int32_t>(vectors.size(1)),
                   .handle = known->second};
}

}  // namespace atelier
