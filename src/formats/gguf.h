// GGUF: typed metadata, tensor infos and aligned tensor data in one little-endian file.
#pragma once

#include <cstddef>
#include <span>

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

}  // namespace atelier
