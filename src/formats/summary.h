// What a checkpoint holds, counted: for people who look at a file before they use it.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "formats/tensor_source.h"

namespace atelier {

/// The share of one encoding in a source.
struct EncodingShare {
  Encoding encoding = Encoding::f32;
  bool scaled = false;  // by other tensors of the file, which are not counted
  uint64_t tensors = 0;
  uint64_t elements = 0;
  uint64_t bytes = 0;
};

/// Counts over all tensors of a source.
struct Summary {
  std::string label;  // path
  std::string format;  // "safetensors", "GGUF", "torch zip", "diffusers folder"
  std::string architecture;  // as the file's metadata names it, or ""
  uint64_t tensors = 0;
  uint64_t parameters = 0;  // elements of all tensors
  uint64_t bytes = 0;  // of tensor data, encoded
  std::vector<EncodingShare> encodings;  // most bytes first
};

/// Counts the tensors of `source`; no tensor data is read.
Summary summarise(const TensorSource& source);

}  // namespace atelier
