// Files of torch.save (.ckpt .pt .pth .bin): a zip archive with a pickle that places tensors in it.
#pragma once

#include <cstddef>
#include <span>

namespace atelier {

struct FileContents;

/// Reads the tensors of a whole torch zip file; nothing in it is executed. A `state_dict` entry of
/// the outermost dictionary stands for the file; nested dictionaries and lists give dotted names;
/// other scalars of the outermost dictionary become metadata. A file that is nothing but a tensor
/// calls it "tensor". Tensors that are not contiguous are marked `strided`. Throws `malformed`, or
/// `unsupported` naming what no tensor needs. Format: pytorch, torch/serialization.py (_save) and
/// torch/_utils.py (_rebuild_tensor_v2).
FileContents read_torch_zip(std::span<const std::byte> file);

}  // namespace atelier
