// Unwraps parameters and subclasses down to a rebuild function and checks its arguments. Longer
// than most: one check for each field that can lie.
#include "formats/torch_tensor.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/error.h"
#include "formats/layout.h"

namespace atelier {
namespace {

using Role = GlobalRole;
constexpr size_t kMaxWrappers = 8;

/// One rebuild function: how many arguments it needs; one more may follow, its metadata.
struct RebuildRow {
  Role role;
  size_t arguments;
};
constexpr std::array kRebuild = {
    RebuildRow{Role::rebuild_tensor, 4},
    RebuildRow{Role::rebuild_tensor_v2, 6},
    RebuildRow{Role::rebuild_tensor_v3, 7},
};

class CallReader {
 public:
  CallReader(const PickleTree& tree, std::string_view subject) : tree_(tree), subject_(subject) {}
  TorchTensor read(const PickleValue& value) const;

 private:
  [[noreturn]] void fail(std::string expected, std::string found) const {
    throw Error(ErrorCode::malformed, {.subject = std::string(subject_),
                                       .expected = std::move(expected),
                                       .found = std::move(found),
                                       .hint = std::string(kDamaged)});
  }
  const PickleValue& argument(const std::vector<PickleId>& items, size_t i) const {
    if (i >= items.size())
      fail(fmt::format("{} or more arguments", i + 1), fmt::format("{}", items.size()));
    return tree_[items[i]];
  }
  int64_t count(const PickleValue& value, std::string_view what) const;
  Shape extents(const PickleValue& value, std::string_view what) const;
  void read_storage(const PickleValue& value, TorchTensor& tensor) const;
  TorchTensor rebuild(const RebuildRow& row, const std::vector<PickleId>& arguments) const;

  const PickleTree& tree_;
  std::string_view subject_;
};

int64_t CallReader::count(const PickleValue& value, std::string_view what) const {
  if (value.kind != PickleKind::integer || value.integer < 0)
    fail(fmt::format("{} as an integer of at least 0", what),
         value.kind == PickleKind::integer ? fmt::format("{}", value.integer) : "another value");
  return value.integer;
}

Shape CallReader::extents(const PickleValue& value, std::string_view what) const {
  if (value.kind != PickleKind::tuple || value.items.size() > kMaxRank)
    fail(fmt::format("{} as a tuple of at most {} integers", what, kMaxRank), "another value");
  Shape shape;
  for (const PickleId item : value.items) shape.push_back(count(tree_[item], what));
  return shape;
}

/// Reads ("storage", type, key, location, number of elements).
void CallReader::read_storage(const PickleValue& value, TorchTensor& tensor) const {
  const auto require = [&](bool right) {
    if (!right) fail("a reference to a storage", "another value");
  };
  require(value.kind == PickleKind::persistent);
  const PickleValue& id = tree_[value.items[0]];
  require(id.kind == PickleKind::tuple && id.items.size() == 5);
  const PickleValue &kind = tree_[id.items[0]], &type = tree_[id.items[1]],
                    &key = tree_[id.items[2]];
  require(kind.kind == PickleKind::text && kind.text == "storage");
  require(key.kind == PickleKind::text);
  require(type.kind == PickleKind::global &&
          (type.global->role == Role::storage || type.global->role == Role::untyped_storage));
  tensor.storage = key.text;
  if (type.global->role == Role::storage) tensor.encoding = type.global->encoding;
  const auto elements = static_cast<uint64_t>(count(tree_[id.items[4]], "the storage's length"));
  const auto width = type.global->role == Role::storage
                         ? static_cast<uint64_t>(encoding_info(tensor.encoding).block_bytes)
                         : 1;
  const auto bytes = checked_product(elements, width);
  if (!bytes) fail("a storage whose size fits in 64 bits", fmt::format("{} elements", elements));
  tensor.storage_bytes = *bytes;
}

TorchTensor CallReader::rebuild(const RebuildRow& row,
                                const std::vector<PickleId>& arguments) const {
  if (arguments.size() < row.arguments || arguments.size() > row.arguments + 1)
    fail(fmt::format("{} arguments of its rebuild function", row.arguments),
         fmt::format("{}", arguments.size()));
  TorchTensor tensor;
  read_storage(argument(arguments, 0), tensor);
  tensor.offset = static_cast<uint64_t>(count(argument(arguments, 1), "its offset"));
  tensor.shape = extents(argument(arguments, 2), "its size");
  tensor.strides = extents(argument(arguments, 3), "its strides");
  if (tensor.shape.size() != tensor.strides.size())
    fail(fmt::format("{} strides", tensor.shape.size()), fmt::format("{}", tensor.strides.size()));
  if (row.role == Role::rebuild_tensor_v3) {
    const PickleValue& dtype = argument(arguments, 6);
    if (dtype.kind != PickleKind::global || dtype.global->role != Role::dtype)
      fail("a dtype", "another value");
    tensor.encoding = dtype.global->encoding;
  }
  if (arguments.size() > row.arguments) {
    const PickleValue& metadata = argument(arguments, row.arguments);
    if (metadata.kind != PickleKind::none && !metadata.items.empty())
      throw Error(ErrorCode::unsupported, {.subject = std::string(subject_),
                                           .expected = "a plain tensor",
                                           .found = "one with a conjugate or negative bit",
                                           .hint = "Save its resolved values"});
  }
  return tensor;
}

TorchTensor CallReader::read(const PickleValue& value) const {
  const PickleValue* call = &value;
  for (size_t wrappers = 0; wrappers < kMaxWrappers && call->kind == PickleKind::call; ++wrappers) {
    const std::vector<PickleId>* arguments = &call->items;
    Role role = call->global->role;
    if (role == Role::rebuild_parameter || role == Role::rebuild_parameter_state) {
      call = &argument(*arguments, 0);
      continue;
    }
    if (role == Role::rebuild_from_type) {
      const PickleValue &function = argument(*arguments, 0), &type = argument(*arguments, 1),
                        &items = argument(*arguments, 2);
      if (function.kind != PickleKind::global || type.kind != PickleKind::global ||
          type.global->role != Role::tensor_type || items.kind != PickleKind::tuple)
        break;
      role = function.global->role;
      arguments = &items.items;
    }
    for (const RebuildRow& row : kRebuild)
      if (row.role == role) return rebuild(row, *arguments);
    break;
  }
  fail("a tensor", "a call of another function");
}

}  // namespace

bool TorchTensor::contiguous() const {
  if (std::find(shape.begin(), shape.end(), 0) != shape.end()) return true;
  int64_t expected = 1;
  for (size_t i = shape.size(); i-- > 0;) {
    if (shape[i] != 1 && strides[i] != expected) return false;
    expected *= shape[i];
  }
  return true;
}

std::optional<uint64_t> TorchTensor::extent() const {
  if (std::find(shape.begin(), shape.end(), 0) != shape.end()) return 0;
  std::optional<uint64_t> end = checked_sum(offset, 1);
  for (size_t i = 0; i < shape.size() && end; ++i) {
    const auto step =
        checked_product(static_cast<uint64_t>(shape[i] - 1), static_cast<uint64_t>(strides[i]));
    end = step ? checked_sum(*end, *step) : std::nullopt;
  }
  return end ? checked_product(*end, static_cast<uint64_t>(encoding_info(encoding).block_bytes))
             : end;
}

TorchTensor torch_tensor(const PickleTree& tree, const PickleValue& value,
                         std::string_view subject) {
  return CallReader(tree, subject).read(value);
}

}  // namespace atelier
