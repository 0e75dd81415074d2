// The call that rebuilds one tensor in a torch pickle, checked and in plain numbers.
#pragma once

#include <string_view>

#include "formats/pickle.h"
#include "formats/tensor_source.h"

namespace atelier {

/// A view of a storage: element (i, j, ...) is at `offset` + i * strides[0] + j * strides[1] ...
struct TorchTensor {
  std::string_view storage;  // its key in the archive
  uint64_t storage_bytes = 0;  // that the pickle claims for it
  Encoding encoding = Encoding::f32;
  uint64_t offset = 0;  // in elements
  Shape shape, strides;

  /// Whether the elements lie in order without gaps.
  bool contiguous() const;
  /// Bytes from the storage's start to the end of the last element, or nothing if that overflows;
  /// `shape` must have a size that fits.
  std::optional<uint64_t> extent() const;
};

/// Interprets `value`, a call in `tree`, as a tensor; `subject` names it in errors. Throws
/// `malformed` or `unsupported`. Source: pytorch, torch/_utils.py and torch/_tensor.py.
TorchTensor torch_tensor(const PickleTree& tree, const PickleValue& value,
                         std::string_view subject);

}  // namespace atelier
