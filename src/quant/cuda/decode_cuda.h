// Decoding on an NVIDIA GPU, in terms that need neither libtorch nor the CUDA headers.
#pragma once

#include <cstdint>

#include "quant/codec/codec.h"
#include "quant/codec/tiles.h"

namespace atelier {

/// Whether this build has a CUDA kernel for `encoding`.
bool cuda_decodes(Encoding encoding);

/// Queues the decoding of `elements` values, whole blocks, on `stream` (a cudaStream_t) of the
/// current device; both pointers are device memory, `to` aligned to 16 bytes. Bits equal the CPU
/// decoder's. Returns null, or why it failed.
const char* cuda_decode(const void* from, Encoding encoding, int64_t elements, void* to,
                        Number output, void* stream);

/// The same for fp32, fp16, bf16, fp8, I8, NF4, FP4 and E2M1 under fp32 scales in device memory,
/// which lie over the elements as `tiles` says, in its order. Takes the scales as they are.
const char* cuda_decode_scaled(const void* from, Encoding encoding, int64_t elements,
                               const float* scales, const Tiles& tiles, void* to, Number output,
                               void* stream);

/// Number of usable GPUs; 0 without a driver or in a build without CUDA.
int cuda_device_count();

}  // namespace atelier
