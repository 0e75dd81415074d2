// Writing tensors piece by piece, as both writers do it.
#pragma once

#include "base/mapped_file.h"
#include "formats/safetensors.h"

namespace atelier {

/// Writes tensor `i`. Throws `invalid_argument` naming it if its pieces are not `size` bytes.
void write_pieces(AtomicFile& file, const TensorPieces& pieces, size_t i, const std::string& name,
                  uint64_t size);

/// Each tensor as one piece. `bytes_of` must outlive the result.
TensorPieces whole_tensors(const std::function<std::span<const std::byte>(size_t)>& bytes_of);

}  // namespace atelier
