// Everything wrong with a checkpoint, gathered while models bind to it and told in one message.
#pragma once

#include <map>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "formats/tensor_source.h"
#include "nn/key_map.h"

namespace atelier {

/// Filled by the scopes of one or more components. Not shared between threads.
class BindReport {
 public:
  void bound(const std::string& canonical, const Shape& shape);
  void used(const std::string& file_name) { used_.insert(file_name); }
  void missing(const std::string& canonical, const Shape& wanted);
  void misshapen(const std::string& canonical, const Shape& found, const Shape& wanted);
  void unsupported(const std::string& file_name, std::string_view encoding);
  void unscaled(const std::string& file_name, std::string_view encoding);
  /// Reports every tensor under the map's prefix that no model took, unless its model name matches
  /// one of `ignore`: a whole name, a "head.*" or a "*.tail".
  void check_unused(const KeyMap& keys, std::span<const std::string_view> ignore);

  /// Model name -> shape of everything bound: the manifest.
  const std::map<std::string, Shape>& manifest() const { return manifest_; }
  const std::vector<std::string>& problems() const { return problems_; }
  /// Throws `mismatch` about `label` with the number of problems and the first six in words, if
  /// there are any.
  void throw_if_bad(std::string_view label) const;

 private:
  std::map<std::string, Shape> manifest_;
  std::set<std::string, std::less<>> used_;
  std::vector<std::string> problems_;
};

/// Whether `name` matches a whole name, a "head.*" or a "*.tail".
bool matches_any(std::string_view name, std::span<const std::string_view> patterns);

}  // namespace atelier
