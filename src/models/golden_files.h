// Reading the golden files that tools/golden writes; used by tests.
#pragma once

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <array>
#include <filesystem>
#include <fstream>
#include <memory>
#include <sstream>
#include <string>

#include "base/json.h"
#include "formats/checkpoint.h"
#include "memory/memory_source.h"
#include "quant/decode.h"

namespace atelier::golden {

/// tests/golden/models/<folder>
inline std::filesystem::path folder(const std::string& name) {
  return std::filesystem::path(ATELIER_SOURCE_DIR) / "tests" / "golden" / "models" / name;
}

/// The file or shards called `name` in a golden folder.
inline std::shared_ptr<const TensorSource> source(const std::string& in, const std::string& name) {
  const std::string whole = folder(in) / (name + ".safetensors");
  return open_checkpoint(std::filesystem::exists(whole) ? whole : whole + ".index.json");
}

/// A tensor of a golden file as fp32, or as int64 if it holds int32.
inline at::Tensor tensor(const TensorSource& from, const std::string& name) {
  const TensorInfo& info = from.tensors().at(name);
  if (info.encoding == Encoding::i32) {
    auto* numbers = const_cast<std::byte*>(from.bytes(name).data());
    return at::from_blob(numbers, info.shape, at::kInt).to(at::kLong);
  }
  at::Tensor out = at::empty(info.shape, at::kFloat);
  decode(from.bytes(name), info.encoding, out, name);
  return out;
}

/// All tensors of `from` that can be decoded, in fp32 and in memory, so that tests can change some.
inline std::shared_ptr<MemorySource> editable(const TensorSource& from) {
  auto copy = std::make_shared<MemorySource>(from.label());
  for (const auto& [name, info] : from.tensors())
    if (decodable(info.encoding)) copy->put(name, tensor(from, name));
  return copy;
}

/// A tensor of a golden under the name and shape the diffusers layout has for it: all of `from`, or
/// runs of its rows, [first, count] each.
struct Name {
  std::string to, from;
  Shape shape;
  std::vector<std::array<int64_t, 2>> rows;
};

/// The golden folder's names.json.
inline std::vector<Name> names(const std::string& in) {
  std::ifstream file(folder(in) / "names.json");
  std::ostringstream text;
  text << file.rdbuf();
  const Json rows = parse_json(text.str(), "names.json");
  std::vector<Name> result;
  for (const auto& [name, row] : rows.items())
    result.push_back({name, row["from"], row["shape"].get<Shape>(),
                      row.value("rows", std::vector<std::array<int64_t, 2>>())});
  return result;
}

/// The same weights in the diffusers layout.
inline std::shared_ptr<MemorySource> renamed(const TensorSource& from, const std::string& in) {
  auto result = std::make_shared<MemorySource>("renamed");
  for (const Name& name : names(in)) {
    const at::Tensor whole = tensor(from, name.from);
    std::vector<at::Tensor> runs;
    for (const auto& [first, count] : name.rows) runs.push_back(whole.narrow(0, first, count));
    result->put(name.to, (runs.empty() ? whole : at::cat(runs)).reshape(name.shape));
  }
  return result;
}

/// Largest difference over the largest expected value.
inline double relative_error(const at::Tensor& actual, const at::Tensor& expected) {
  if (actual.sizes() != expected.sizes()) return std::numeric_limits<double>::infinity();
  const at::Tensor reference = expected.to(at::kDouble);
  const at::Tensor difference = (actual.to(at::kCPU, at::kDouble) - reference).abs();
  return difference.max().item<double>() / reference.abs().max().item<double>();
}

inline ::testing::AssertionResult close(const at::Tensor& actual, const at::Tensor& expected,
                                        double most) {
  if (actual.sizes() != expected.sizes())
    return ::testing::AssertionFailure()
           << "sizes " << actual.sizes() << ", expected " << expected.sizes();
  const double error = relative_error(actual, expected);
  if (error <= most) return ::testing::AssertionSuccess();
  return ::testing::AssertionFailure() << "relative error " << error << ", at most " << most;
}

}  // namespace atelier::golden
