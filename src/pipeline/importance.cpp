// Sums of squares in doubles, and their file.
#include "pipeline/importance.h"

#include <ATen/ATen.h>
#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>

#include "base/error.h"
#include "formats/checkpoint.h"
#include "formats/gguf.h"

namespace atelier {
namespace {

constexpr std::string_view kSums = ".in_sum2", kCounts = ".counts";
constexpr std::string_view kDataSets = "imatrix.datasets", kRuns = "imatrix.chunk_count";
constexpr int64_t kRowsAtOnce = 1024;
constexpr float kLeast = 1e-3F;
constexpr double kMost = 3e38;  // in fp32

[[noreturn]] void refuse(const std::filesystem::path& path, std::string expected,
                         std::string found) {
  throw Error(ErrorCode::malformed,
              {.subject = path.string(),
               .expected = std::move(expected),
               .found = std::move(found),
               .hint = "'atelier generate --collect-imatrix' and llama.cpp's imatrix write such "
                       "files"});
}

std::string subject_of(const std::string& tensor) { return fmt::format("tensor '{}'", tensor); }

/// A tensor of fp32, row-major.
std::vector<double> numbers(const Checkpoint& file, const std::string& name) {
  const auto found = file.tensors().find(name);
  if (found == file.tensors().end())
    refuse(file.label(), subject_of(name), "no tensor of this name");
  if (found->second.encoding != Encoding::f32)
    refuse(file.label(), fmt::format("{} in F32", subject_of(name)),
           std::string(encoding_info(found->second.encoding).name));
  std::vector<double> values;
  const auto bytes = file.bytes(name);
  for (size_t at = 0; at < bytes.size(); at += sizeof(float)) {
    float value = 0;
    std::memcpy(&value, bytes.data() + at, sizeof value);
    if (!std::isfinite(value) || value < 0)
      refuse(file.label(), fmt::format("{} of finite numbers from 0 on", subject_of(name)),
             fmt::format("{}", value));
    values.push_back(static_cast<double>(value));
  }
  return values;
}

/// An array of texts as GGUF has it.
std::vector<std::byte> text_array(const std::vector<std::string>& texts) {
  std::vector<std::byte> bytes;
  const auto put = [&](auto value) {
    const auto raw = std::bit_cast<std::array<std::byte, sizeof value>>(value);
    bytes.insert(bytes.end(), raw.begin(), raw.end());
  };
  put(static_cast<uint32_t>(GgufType::text));
  put(static_cast<uint64_t>(texts.size()));
  for (const std::string& text : texts) {
    put(static_cast<uint64_t>(text.size()));
    const auto raw = std::as_bytes(std::span(text));
    bytes.insert(bytes.end(), raw.begin(), raw.end());
  }
  return bytes;
}

}  // namespace

ImportanceMatrix ImportanceMatrix::load(const std::filesystem::path& path) {
  const auto file = open_checkpoint(path);
  const auto type = file->metadata().find("general.type");
  if (type == file->metadata().end() || type->second != "imatrix")
    refuse(path, "an importance matrix (GGUF, general.type 'imatrix')", file->format());
  ImportanceMatrix matrix;
  matrix.label_ = path.string();
  for (const auto& [tensor, info] : file->tensors()) {
    if (!tensor.ends_with(kSums)) continue;
    const std::string name = tensor.substr(0, tensor.size() - kSums.size());
    Entry entry{.sums = numbers(*file, tensor)};
    const auto counts = numbers(*file, name + std::string(kCounts));
    if (counts.size() != 1 || entry.sums.empty())
      refuse(path, fmt::format("one matrix for '{}'", name), fmt::format("{}", counts.size()));
    entry.rows = counts[0];
    matrix.entries_.emplace(name, std::move(entry));
  }
  if (matrix.entries_.empty()) refuse(path, "tensors named *.in_sum2", "none");
  const GgufMetadata& gguf = file->gguf();
  if (const auto found = gguf.find(kDataSets); found != gguf.end())
    for (const std::string_view text : found->second.texts()) matrix.data_sets_.emplace_back(text);
  if (const auto found = gguf.find(kRuns); found != gguf.end())
    matrix.runs_ = static_cast<uint32_t>(
        std::clamp<int64_t>(found->second.integer().value_or(0), 0, UINT32_MAX - 1));
  return matrix;
}

void ImportanceMatrix::save(const std::filesystem::path& path) const {
  std::vector<TensorSpec> specs;
  std::vector<std::vector<float>> values;
  for (const auto& [name, entry] : entries_) {
    specs.push_back({name + std::string(kCounts), {1, 1}, Encoding::f32});
    values.push_back({static_cast<float>(entry.rows)});
    specs.push_back(
        {name + std::string(kSums), {1, static_cast<int64_t>(entry.sums.size())}, Encoding::f32});
    std::vector<float>& sums = values.emplace_back();
    for (const double sum : entry.sums) sums.push_back(static_cast<float>(std::min(sum, kMost)));
  }
  const std::vector<std::byte> sets = text_array(data_sets_);
  GgufEntries metadata{{"general.type", "imatrix"},
                       {std::string(kDataSets), GgufValue(GgufType::array, sets)},
                       {std::string(kRuns), runs_ + 1},
                       {"imatrix.chunk_size", uint32_t{1}}};
  write_gguf(
      path, specs, [&](size_t i) { return std::as_bytes(std::span(values[i])); },
      std::move(metadata));
}

void ImportanceMatrix::add(const std::string& name, const at::Tensor& x) {
  const int64_t channels = x.size(-1);
  Entry& entry = entries_[name];
  if (entry.sums.empty()) entry.sums.resize(static_cast<size_t>(channels));
  if (static_cast<int64_t>(entry.sums.size()) != channels)
    throw Error(
        ErrorCode::mismatch,
        {.subject = fmt::format("{}{}importance of '{}'", label_, label_.empty() ? "" : ": ", name),
         .expected = fmt::format("{} channels, as collected before", entry.sums.size()),
         .found = std::to_string(channels),
         .hint = "The file was collected with another model"});
  for (const at::Tensor& some : x.reshape({-1, channels}).split(kRowsAtOnce)) {
    const at::Tensor squares = some.to(at::kCPU, at::kDouble).square();
    const at::Tensor finite = squares.sum(1).isfinite();
    const at::Tensor sums = squares.index({finite}).sum(0);
    const double* from = sums.const_data_ptr<double>();
    for (size_t i = 0; i < entry.sums.size(); ++i) entry.sums[i] += from[i];
    entry.rows += finite.sum().item<double>();
  }
}

int64_t ImportanceMatrix::columns(std::string_view name) const {
  const auto found = entries_.find(name);
  return found == entries_.end() ? 0 : static_cast<int64_t>(found->second.sums.size());
}

std::vector<float> ImportanceMatrix::weights(std::string_view name) const {
  const auto found = entries_.find(name);
  ATELIER_CHECK(found != entries_.end());
  const std::vector<double>& sums = found->second.sums;
  double mean = 0;
  for (const double sum : sums) mean += sum / static_cast<double>(sums.size());
  std::vector<float> weights(sums.size(), 1.F);
  if (mean > 0)
    for (size_t i = 0; i < sums.size(); ++i)
      weights[i] = std::max(kLeast, static_cast<float>(sums[i] / mean));
  return weights;
}

void ImportanceCollector::input(std::span<const std::string> weights, const at::Tensor& x) {
  for (const std::string& name : weights) matrix_.add(prefix_ + name, x);
}

}  // namespace atelier
