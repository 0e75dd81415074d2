// Tells a part computed in too narrow a type from one with damaged weights.
#include "app/engine/not_finite.h"

#include <ATen/ops/isfinite.h>
#include <fmt/format.h>

namespace atelier {
namespace {

bool finite(const at::Tensor& numbers) { return at::isfinite(numbers).all().item<bool>(); }

}  // namespace

std::optional<std::string> not_finite_warning(Engine& engine, const at::Tensor& latent,
                                              const at::Tensor& picture) {
  if (finite(picture)) return {};
  const bool decoding = finite(latent);
  const at::ScalarType dtype =
      decoding ? engine.vae().compute().dtype : engine.unet().compute().dtype;
  const std::string why =
      dtype == at::kHalf
          ? fmt::format("fp16 may be too narrow for it; try {} bf16 or fp32",
                        decoding ? "--vae-dtype" : "--unet-dtype")
          : "its weights may be damaged, or the strength of a LoRA or the weight of a word in "
            "the prompt far too great";
  return fmt::format("the {} gave numbers that are not finite, which are black in the picture: {}",
                     decoding ? "VAE" : "UNet", why);
}

}  // namespace atelier
