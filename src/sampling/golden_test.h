// What the golden tests share: reading tests/golden/sampling/*.json and comparing with tolerance.
#pragma once

#include <ATen/core/Tensor.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <sstream>
#include <string>
#include <vector>

#include "base/json.h"

namespace atelier::golden {

inline Json read(const std::string& name) {
  const std::string path = std::string(ATELIER_SOURCE_DIR "/tests/golden/sampling/") + name;
  std::ifstream file(path);
  std::stringstream text;
  text << file.rdbuf();
  return parse_json(text.str(), path);
}

inline std::vector<int64_t> shape(const Json& json) { return json.get<std::vector<int64_t>>(); }

/// Checks the first numbers of `x`, its sum and its sum of squares against an entry; differences
/// count relative to the largest of the first numbers, or to the sums' own scale.
inline void expect_entry(const at::Tensor& x, const Json& entry, double tolerance) {
  const auto first = entry.at("first8").get<std::vector<double>>();
  const at::Tensor flat = x.contiguous().view({-1});
  double scale = 0;
  for (const double value : first) scale = std::max(scale, std::abs(value));
  for (size_t i = 0; i < first.size(); ++i)
    EXPECT_NEAR(flat.data_ptr<float>()[i], first[i], tolerance * scale) << "element " << i;
  const double sum = entry.at("sum").get<double>();
  const double magnitude = flat.abs().sum(at::kDouble).item<double>();
  EXPECT_NEAR(flat.sum(at::kDouble).item<double>(), sum, tolerance * magnitude) << "sum";
  if (entry.contains("sumsq")) {
    const double squares = entry.at("sumsq").get<double>();
    EXPECT_NEAR(flat.to(at::kDouble).square().sum().item<double>(), squares,
                2 * tolerance * squares)
        << "sum of squares";
  }
}

}  // namespace atelier::golden
