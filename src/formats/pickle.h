// A pickle machine that executes nothing: it turns the opcodes with which torch.save describes
// tensors into a tree of plain values and refuses every other opcode and global by name.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "formats/encoding.h"

namespace atelier {

/// What a Python global that may occur in a tensor file stands for.
enum class GlobalRole : uint8_t {
  rebuild_tensor,  // (storage, offset, size, stride)
  rebuild_tensor_v2,  // + requires_grad, hooks, metadata
  rebuild_tensor_v3,  // + dtype before metadata, over untyped storage
  rebuild_parameter,  // (tensor, requires_grad, hooks)
  rebuild_parameter_state,  // + state
  rebuild_from_type,  // (function, type, arguments, state)
  tensor_type,  // a type named by rebuild_from_type
  storage,  // a storage type, with the encoding of its elements
  untyped_storage,
  dtype,
  ordered_dict,
  parameter_dict,  // a module: its parameters are the `_parameters` of its state
  set,
  size,  // torch.Size: a tuple
  opaque,  // harmless and unused: a device, a layout, encoded bytes
};

/// One global that is let in.
struct PickleGlobal {
  std::string_view module, name;
  GlobalRole role;
  Encoding encoding = Encoding::u8;  // of storage and dtype
};

/// All of them; matching is exact.
std::span<const PickleGlobal> pickle_globals();

enum class PickleKind : uint8_t {
  none,
  boolean,
  integer,
  real,
  text,
  opaque,
  tuple,
  list,
  dict,
  set,
  global,
  call,
  persistent,
};

/// Index of a value in its tree.
using PickleId = uint32_t;

/// One value. Texts view the pickle's bytes.
struct PickleValue {
  PickleKind kind = PickleKind::none;
  int64_t integer = 0;  // also a boolean
  double real = 0;
  std::string_view text = {};
  /// Of a global, the callee of a call, and what a dict was made by.
  const PickleGlobal* global = nullptr;
  /// Elements of a container, alternating keys and values of a dict, the arguments of a call, the
  /// one id of a persistent reference.
  std::vector<PickleId> items = {};
};

/// The values of one pickle. Values may be shared and, in a hostile file, contain themselves.
struct PickleTree {
  std::vector<PickleValue> values;
  PickleId root = 0;
  const PickleValue& operator[](PickleId id) const { return values[id]; }
};

/// Reads one pickle of protocol 2 to 5. Throws `malformed`, or `unsupported` naming the opcode or
/// global that is not let in; memory is bounded by a fixed multiple of the input.
/// Format: CPython, Lib/pickletools.py.
PickleTree read_pickle(std::span<const std::byte> bytes);

}  // namespace atelier
