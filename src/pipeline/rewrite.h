// One tensor's way from the bytes of a file to bytes in another encoding.
#pragma once

#include <functional>
#include <span>
#include <string>

#include "formats/tensor_source.h"

namespace atelier {

/// How far a written tensor is from what was read. Numbers that are not finite are left out, and so
/// are tensors of plain integers.
struct TensorError {
  double square_error = 0, square_norm = 0, other_norm = 0, product = 0;  // sums
  uint64_t elements = 0;
  double rmse() const;
  double cosine() const;  // 1 for nothing but zeros, 0 where only one side is
  void add(const TensorError& other);
};

/// A tensor to be written.
struct Rewriting {
  std::string name;
  Encoding to = Encoding::f32;
  std::span<const float> importance;  // of each column of a row, or empty
};

/// Hands the tensor's bytes in the new encoding to `sink`, piece by piece, and says how far they
/// are from the source. Holds a few pieces, not the tensor, and lets go of the source's pages
/// behind it. Uses libtorch's threads; the same bytes for any number of them. `sink` is called by
/// one thread at a time, not always the caller's. Throws `malformed` for a number that the encoding
/// cannot stand for: too large, or not finite.
TensorError rewrite(const TensorSource& source, const Rewriting& tensor,
                    const std::function<void(std::span<const std::byte>)>& sink);

}  // namespace atelier
