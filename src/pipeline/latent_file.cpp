// Two tensors in a safetensors file: the latent, and a mark of the format's version.
#include "pipeline/latent_file.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/isfinite.h>

#include <array>

#include "base/error.h"
#include "formats/checkpoint.h"
#include "formats/safetensors.h"
#include "quant/decode.h"

namespace atelier {
namespace {

constexpr const char* kLatent = "latent_tensor";
constexpr const char* kVersion = "latent_format_version_0";
constexpr double kOldScale = 0.18215;

}  // namespace

void save_latent(const std::filesystem::path& path, const at::Tensor& latent,
                 const Metadata& metadata) {
  const at::Tensor values = latent.to(at::kCPU, at::kFloat).contiguous();
  const std::array<TensorSpec, 2> specs = {TensorSpec{kLatent, values.sizes().vec(), Encoding::f32},
                                           TensorSpec{kVersion, {0}, Encoding::f32}};
  const std::span bytes(static_cast<const std::byte*>(values.const_data_ptr()), values.nbytes());
  write_safetensors(
      path, specs, [&](size_t i) { return i == 0 ? bytes : std::span<const std::byte>(); },
      metadata);
}

at::Tensor load_latent(const std::filesystem::path& path) {
  const auto file = open_checkpoint(path);
  const auto refuse = [&](std::string found) {
    throw Error(ErrorCode::mismatch,
                {.subject = path.string(),
                 .expected = "a latent: the tensor latent_tensor [batch, channels, height, width]",
                 .found = std::move(found),
                 .hint = "Give a file that --save-latent wrote"});
  };
  const auto tensor = file->tensors().find(kLatent);
  if (tensor == file->tensors().end()) refuse("no tensor of this name");
  const TensorInfo& info = tensor->second;
  if (info.shape.size() != 4 || info.elements() == 0) refuse(to_string(info.shape));
  at::Tensor latent = at::empty(info.shape, at::kFloat);
  decode(file->bytes(kLatent), info.encoding, latent, kLatent);
  if (!at::isfinite(latent).all().item<bool>()) refuse("values that are no numbers");
  return file->tensors().contains(kVersion) ? latent : latent.div_(kOldScale);
}

}  // namespace atelier
