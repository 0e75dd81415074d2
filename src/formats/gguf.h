// GGUF: typed metadata, tensor infos and aligned tensor data in one little-endian file.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <variant>
#include <vector>

#include "formats/gguf_value.h"
#include "formats/safetensors.h"

namespace atelier {

struct FileContents;

/// Whether `file` begins with GGUF's magic number.
bool is_gguf(std::span<const std::byte> file);

/// Reads metadata and tensor infos of a whole GGUF file, version 2 or 3. Shapes come out outermost
/// first (the file's order reversed); `comfy.gguf.orig_shape.<tensor>` replaces a shape of as many
/// elements. Values of the result view `file`. Throws `malformed`, or `unsupported` for version 1,
/// big-endian files and tensor types no longer or not yet known.
/// Format: ggml-org/ggml, docs/gguf.md.
FileContents read_gguf(std::span<const std::byte> file);

/// Metadata to be written, by key. A GgufValue is written as the file it views has it.
using GgufEntry = std::variant<std::string, uint32_t, std::vector<int32_t>, GgufValue>;
using GgufEntries = std::map<std::string, GgufEntry, std::less<>>;

/// Before the names of scalars: GGUF knows none, and the readers of orig_shape no empty shape.
inline constexpr std::string_view kGgufScalarKey = "atelier.scalar.";

/// The most dimensions ggml gives a tensor, and the longest name it reads.
inline constexpr size_t kMaxGgufRank = 4, kMaxGgufName = 127;

/// The shape under which GGUF can hold a tensor of `shape` in `encoding`, innermost extent whole
/// blocks: its own; with more than four dimensions folded into rows; or, where `encoding` needs
/// longer rows than the innermost extent (convolutions), rows of the inner extents together, or of
/// all but the first. Nothing if no such folding gives whole blocks.
std::optional<Shape> gguf_shape(const Shape& shape, Encoding encoding);

/// Writes a GGUF file, version 3, that appears under `path` only when whole. Tensors whose shape
/// GGUF cannot hold are folded as by `gguf_shape`, their shapes kept under
/// `comfy.gguf.orig_shape.<tensor>`, whose extents fit 31 bits; of scalars `kGgufScalarKey` says
/// what they were. `pieces` and `finished` as in write_safetensors_in_pieces, called in the order
/// of `specs`. Throws `invalid_argument` (duplicate or too long name, an encoding GGUF lacks, a
/// shape of no whole blocks, a wrong number of bytes, text that is no UTF-8) or `write_failed`.
void write_gguf_in_pieces(const std::filesystem::path& path, std::span<const TensorSpec> specs,
                          const TensorPieces& pieces, GgufEntries metadata = {},
                          const std::function<void()>& finished = {});

/// The same from whole tensors: `bytes_of(i)` need stay valid only until the next call.
void write_gguf(const std::filesystem::path& path, std::span<const TensorSpec> specs,
                const std::function<std::span<const std::byte>(size_t)>& bytes_of,
                GgufEntries metadata = {});

}  // namespace atelier
