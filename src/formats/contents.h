// What a reader finds in the bytes of one file. Private to this library and its tests.
#pragma once

#include <map>
#include <string>

#include "formats/gguf_value.h"
#include "formats/tensor_source.h"

namespace atelier {

/// Everything a reader hands to `Checkpoint`: all of a file or, by exception, nothing.
struct FileContents {
  TensorTable tensors;
  Metadata metadata;
  GgufMetadata gguf = {};  // GGUF only; views into the file
  std::map<std::string, Shape, std::less<>> strides = {};  // of strided tensors, in elements
  std::map<std::string, std::string, std::less<>> shards = {};  // index only: tensor -> file name
};

}  // namespace atelier
