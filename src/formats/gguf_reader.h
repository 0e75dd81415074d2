// The state of reading one GGUF file. Private to gguf*.cpp.
#pragma once

#include <string>
#include <string_view>

#include "formats/byte_reader.h"
#include "formats/contents.h"

namespace atelier {

/// Throws `malformed` with the hint that the file is damaged.
[[noreturn]] void gguf_malformed(std::string subject, std::string expected, std::string found);

/// Reads a file front to back: header, metadata, tensor infos; then places the tensors.
class GgufReader {
 public:
  explicit GgufReader(std::span<const std::byte> file) : file_(file), reader_(file, "header") {}
  FileContents read();

 private:
  void read_header();
  void read_pair();
  void skip_value(GgufType type, const std::string& subject, int depth);
  void read_tensor();
  void check_whole() const;
  void set_alignment(const GgufValue& value);
  void place_tensors();
  void restore_shapes();
  std::string name(std::string_view what);
  GgufType value_type(const std::string& subject);
  void check_length(const std::string& subject) const;

  std::span<const std::byte> file_;
  ByteReader reader_;
  FileContents contents_;
  uint64_t tensor_count_ = 0, pair_count_ = 0, alignment_ = 32;
};

}  // namespace atelier
