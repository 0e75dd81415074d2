// `*.safetensors.index.json`: which shard of a split model holds which tensor.
#pragma once

#include <cstddef>
#include <span>

namespace atelier {

struct FileContents;

/// Whether `file` begins as a JSON object does.
bool is_shard_index(std::span<const std::byte> file);

/// Reads the `weight_map` of an index into `shards`, tensor by file name. Throws `malformed`: no
/// weight map, or a file name that leads out of the index's own folder.
/// Format: as huggingface/transformers' save_pretrained writes it.
FileContents read_shard_index(std::span<const std::byte> file);

}  // namespace atelier
