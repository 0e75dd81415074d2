// Named tensors whose bytes lie somewhere: a file, several shards, another machine.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "formats/encoding.h"
#include "formats/scaling.h"

namespace atelier {

/// Extents, outermost first; empty for a scalar.
using Shape = std::vector<int64_t>;

/// Header entry of one tensor: no bytes. `shape` is the logical (decoded) shape; blocks of a block
/// encoding run over its elements in order.
struct TensorInfo {
  Shape shape;
  Encoding encoding = Encoding::f32;
  uint64_t size = 0;  // encoded bytes
  uint32_t shard = 0;  // which of the source's files
  uint64_t offset = 0;  // of the first byte in that file; any value, aligned or not
  bool strided = false;  // the file holds the elements in another order; `bytes()` gathers them
  std::shared_ptr<const Scaling> scaling = nullptr;  // null: the numbers are what they say
  /// Number of elements; the reader has checked that it fits.
  int64_t elements() const;
};

/// The tensors of one model file or set of shards, in name order.
using TensorTable = std::map<std::string, TensorInfo, std::less<>>;
/// Text by key, in key order.
using Metadata = std::map<std::string, std::string, std::less<>>;

/// Where encoded bytes come from. Const member functions are safe from any thread.
class TensorSource {
 public:
  virtual ~TensorSource() = default;
  virtual const TensorTable& tensors() const = 0;
  /// The encoded bytes of a tensor of this source, valid while the source lives. Throws
  /// `not_found`.
  virtual std::span<const std::byte> bytes(std::string_view name) const = 0;
  /// Starts fetching a tensor's bytes in the background; a hint, never fails.
  virtual void will_need(std::string_view name) const = 0;
  /// Lets a tensor's bytes leave memory where they can be read again when touched; a hint, never
  /// fails and invalidates nothing.
  virtual void wont_need(std::string_view) const {}
  /// What the user calls it: the path, for messages.
  virtual std::string label() const = 0;
  /// Text metadata (safetensors `__metadata__`, GGUF scalars as text), by key.
  virtual const Metadata& metadata() const = 0;
  /// What kind of file it is, for people: "safetensors", "GGUF".
  virtual std::string format() const { return "tensors"; }
};

/// "[320, 4, 3, 3]"
std::string to_string(const Shape& shape);

}  // namespace atelier
