// Finds the tensors of a file that scale others. Private to this library.
#pragma once

#include <map>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "base/json.h"
#include "formats/tensor_source.h"

namespace atelier {

/// Metadata of safetensors that says how layers are quantised.
inline constexpr std::string_view kLayersKey = "_quantization_metadata";

/// What `find` gathers: the table to show, and which tensors each scaled one needs besides itself.
struct FoundScales {
  TensorTable tensors;
  std::map<std::string, std::vector<std::string>, std::less<>> companions;
  bool any = false;  // whether anything was left out or scaled
};

/// One pass over one source. Throws as `read_scales`, without the file's name.
class ScaleFinder {
 public:
  explicit ScaleFinder(const TensorSource& source) : source_(source), table_(source.tensors()) {}
  FoundScales find();

 private:
  void read_layers();
  void read_layer(const std::string& layer, const Json& layout, const std::string& subject);
  void find_factors();
  void check_row_order(const std::string& name, const TensorInfo& info) const;
  void add_factors(const std::string& weight, const std::string& name, float factor);
  float number_in(const std::string& name, const std::string& why) const;
  bool add_swizzled(const std::string& weight, const std::string& name, Encoding encoding);
  void find_four_bits();
  void add_four_bits(const std::string& weight, const std::string& state, Encoding encoding);
  NestedScales nested_scales(const std::string& weight, const std::string& state, const Json& json,
                             int64_t blocks) const;
  void check_layers() const;
  void check_marked() const;
  void check_kin() const;
  void add(const std::string& weight, Scaling scaling, std::vector<std::string> companions);
  void hide(const std::string& name) { hidden_.insert(name); }
  const TensorInfo* look(const std::string& name) const;
  const TensorInfo& need(const std::string& name, const std::string& why) const;
  Json json_of(const std::string& name, const TensorInfo& info) const;

  const TensorSource& source_;
  const TensorTable& table_;
  /// What the file says of a weight: its encoding, and the sides of its tiles if it tells them.
  struct Layer {
    Encoding encoding;
    int64_t side = 0;
  };
  std::map<std::string, Layer, std::less<>> layers_;  // by the weight's name
  std::set<std::string, std::less<>> hidden_;
  FoundScales found_;
};

}  // namespace atelier
