// The build without CUDA: no kernel, no device.
#include "quant/cuda/decode_cuda.h"

namespace atelier {

bool cuda_decodes(Encoding) { return false; }

const char* cuda_decode(const void*, Encoding, int64_t, void*, Number, void*) {
  return "this build has no CUDA code";
}

const char* cuda_decode_scaled(const void*, Encoding, int64_t, const float*, const Tiles&, void*,
                               Number, void*) {
  return "this build has no CUDA code";
}

int cuda_device_count() { return 0; }

}  // namespace atelier
