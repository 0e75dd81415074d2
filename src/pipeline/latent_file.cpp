// Two tensors in a safetensors file.
#include "pipeline/latent_file.h"

#include <array>

#include "formats/safetensors.h"

namespace atelier {

void save_latent(const std::filesystem::path& path, const at::Tensor& latent,
                 const Metadata& metadata) {
  const at::Tensor values = latent.to(at::kCPU, at::kFloat).contiguous();
  const std::array<TensorSpec, 2> specs = {
      TensorSpec{"latent_tensor", values.sizes().vec(), Encoding::f32},
      TensorSpec{"latent_format_version_0", {0}, Encoding::f32}};
  const std::span bytes(static_cast<const std::byte*>(values.const_data_ptr()), values.nbytes());
  write_safetensors(
      path, specs, [&](size_t i) { return i == 0 ? bytes : std::span<const std::byte>(); },
      metadata);
}

}  // namespace atelier
