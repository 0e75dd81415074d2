// Scales that a file keeps as tensors beside the weights they belong to, taken out of its table.
#pragma once

#include <memory>

#include "formats/tensor_source.h"

namespace atelier {

/// `source` with every scaled tensor's `TensorInfo::scaling` filled in and the tensors that only
/// tell of scales left out of the table; `source` itself if it has none of these:
///
///  * X.scale_weight or X.weight_scale beside X.weight: one number, one per row, or one per tile of
///    equal size; a tensor `scaled_fp8` demands one for every fp8 matrix under its prefix, X's
///    `comfy_quant` (a tensor of JSON, or a layer of the metadata `_quantization_metadata`) for X.
///    X.scale_input and X.input_scale are for products in fp8 and left out.
///  * X.SCB beside X.weight in I8: per row, in 127ths (LLM.int8).
///  * X.absmax with X.quant_state.bitsandbytes__nf4 or __fp4 beside X, which becomes NF4 or FP4 of
///    the shape that the state tells; X.nested_absmax and X.nested_quant_map where X.absmax is
///    encoded itself.
///
/// Throws `malformed` naming the file and the tensor: a scale that is missing, of another shape,
/// not a float or not finite, a wrong number of blocks; `unsupported` for other formats of
/// `comfy_quant`. Scales of NF4 and FP4 blocks are only looked at when they are used.
/// Sources: comfyanonymous/ComfyUI, comfy/quant_ops.py and comfy/utils.py; bitsandbytes,
/// bitsandbytes/functional.py (QuantState).
std::shared_ptr<const TensorSource> read_scales(std::shared_ptr<const TensorSource> source);

}  // namespace atelier
