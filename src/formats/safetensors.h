// safetensors: a JSON header and raw tensors behind it. Reading and writing.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "formats/tensor_source.h"

namespace atelier {

struct FileContents;

/// The longest header, in bytes; the limit of the format's own reader.
inline constexpr uint64_t kMaxSafetensorsHeader = 100'000'000;

/// Whether `file` begins as a safetensors file does: a length, then "{".
bool is_safetensors(std::span<const std::byte> file);

/// Reads the header of a whole safetensors file. Throws `malformed` or `unsupported` (an unknown
/// dtype). Format: huggingface/safetensors, README.md; offsets must cover the data without gap or
/// overlap, as its own reader demands.
FileContents read_safetensors(std::span<const std::byte> file);

/// One tensor to be written.
struct TensorSpec {
  std::string name;
  Shape shape;
  Encoding encoding = Encoding::f32;
};

/// Takes bytes in order, piece by piece.
using ByteSink = std::function<void(std::span<const std::byte> piece)>;
/// Hands the bytes of tensor `i` to `sink`, in order and in as many pieces as it likes, which need
/// stay valid only until `sink` returns.
using TensorPieces = std::function<void(size_t i, const ByteSink& sink)>;

/// Writes a safetensors file that appears under `path` only when whole. `pieces(i, sink)` is called
/// once for each of `specs`, largest alignment first: a file, or one tensor, larger than memory can
/// be streamed. `finished`, if set, is called when all is written and the file has no name yet.
/// Throws `invalid_argument` (duplicate name, a block encoding, an impossible shape, a
/// wrong number of bytes, text that is no UTF-8) or `write_failed`.
void write_safetensors_in_pieces(const std::filesystem::path& path,
                                 std::span<const TensorSpec> specs, const TensorPieces& pieces,
                                 const Metadata& metadata = {},
                                 const std::function<void()>& finished = {});

/// The same from whole tensors: `bytes_of(i)` need stay valid only until the next call.
void write_safetensors(const std::filesystem::path& path, std::span<const TensorSpec> specs,
                       const std::function<std::span<const std::byte>(size_t)>& bytes_of,
                       const Metadata& metadata = {});

}  // namespace atelier
