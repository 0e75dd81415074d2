// Scales that a file keeps as tensors beside the weights they belong to, taken out of its table.
#pragma once

#include <memory>

#include "formats/tensor_source.h"

namespace atelier {

/// `source` with every scaled tensor's `TensorInfo::scaling` filled in and the tensors that only
/// tell of scales left out of the table; `source` itself if it has none of these:
///
///  * X.scale_weight, X.weight_scale or X.weight_scale_inv beside X.weight: one number, one per
///  row,
///    or one per tile, of `group_size` of `comfy_quant`, of 128, or of equal size; a tensor
///    `scaled_fp8` demands one for every fp8 matrix under its prefix, X's `comfy_quant` (a tensor
///    of JSON, or a layer of the metadata `_quantization_metadata`) for X. X.scale_input and
///    X.input_scale are for products in fp8 and left out.
///  * X.weight_scale in F8_E4M3 and X.weight_scale_2 beside X.weight in bytes: NVFP4, two E2M1 to a
///    byte, of twice the columns; X.weight_scale in F8_E8M0 or U8 beside fp8: MXFP8. Both are in
///    the order of tensor cores, for 16 and 32 columns each.
///  * X.scale beside X.weight in GGUF's NVFP4: one number.
///  * X.SCB beside X.weight in I8: per row, in 127ths (LLM.int8).
///  * X.absmax with X.quant_state.bitsandbytes__nf4 or __fp4 beside X, which becomes NF4 or FP4 of
///    the shape that the state tells; X.nested_absmax and X.nested_quant_map where X.absmax is
///    encoded itself.
///
/// Throws `malformed` naming the file and the tensor: a scale that is missing, of another shape,
/// not a float or not finite, a wrong number of blocks; `unsupported` for other formats of
/// `comfy_quant`. Scales of blocks (NF4, FP4, NVFP4, MXFP8) are only looked at when they are used.
/// Sources: comfyanonymous/ComfyUI, comfy/quant_ops.py and comfy/utils.py; Comfy-Org/comfy-kitchen,
/// comfy_kitchen/tensor/nvfp4.py and mxfp8.py; bitsandbytes, bitsandbytes/functional.py
/// (QuantState); ggml-org/llama.cpp, conversion of NVFP4.
std::shared_ptr<const TensorSource> read_scales(std::shared_ptr<const TensorSource> source);

}  // namespace atelier
