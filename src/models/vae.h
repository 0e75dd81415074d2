// What an autoencoder is to the rest of the engine: pictures in, latents out, and back.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>

#include "base/bytes.h"
#include "models/part.h"

namespace atelier {

/// An autoencoder bound to its weights. Const member functions are safe from any thread. Each batch
/// element is computed by itself, so it never depends on its neighbours.
class Vae {
 public:
  virtual ~Vae() = default;
  /// Latent [B, Z, h, w], unscaled as files keep it, to pictures [B, 3, f h, f w], fp32 on the CPU,
  /// nominally -1..1 and not clamped. Throws `invalid_argument` for another shape and `not_found`
  /// if the file has no decoder.
  virtual at::Tensor decode(const at::Tensor& latent) const = 0;
  /// Pictures [B, 3, H, W] in -1..1 to the posterior's mean [B, Z, H/f, W/f], fp32 on the CPU.
  /// Throws `invalid_argument` unless f divides H and W, and `not_found` without an encoder.
  virtual at::Tensor encode(const at::Tensor& picture) const = 0;

  /// Z: 4 for SD, 16 for SD3.
  virtual int64_t latent_channels() const = 0;
  /// Pixels per latent cell along a side (f): 8 for SD.
  virtual int64_t factor() const = 0;
  /// Memory for activations while one picture of this size in pixels is decoded or encoded, without
  /// weights: an estimate.
  virtual Bytes decode_bytes(int64_t height, int64_t width) const = 0;
  virtual Bytes encode_bytes(int64_t height, int64_t width) const = 0;
};

/// AutoencoderKL of SD 1.x, 2.x, SDXL and, with 16 channels and without quantisation convolutions,
/// of later models.
extern const PartDef<Vae> kl_vae;

/// Tiles in pixels: the side of one, and how much neighbours share, at most a quarter of it.
struct Tiling {
  int64_t tile = 512;
  int64_t overlap = 64;
};

/// Called between tiles with the share done, 0 to 1; what it throws ends the work.
using TileProgress = std::function<void(double)>;

/// As `Vae::decode`, tile by tile: the mean of three tilings (square, upright, flat), each blended
/// linearly over the overlap, so that no seam of one is a seam of all. Close to `decode`, not
/// equal: a norm sees only its tile. Throws `invalid_argument` for a tile that is too small or no
/// multiple of the factor, or too much overlap.
at::Tensor decode_tiled(const Vae& vae, const at::Tensor& latent, const Tiling& tiling = {},
                        const TileProgress& progress = {});
/// As `Vae::encode`, in the same manner; tiles are multiples of twice the factor.
at::Tensor encode_tiled(const Vae& vae, const at::Tensor& picture, const Tiling& tiling = {},
                        const TileProgress& progress = {});

/// Throws as `decode` and `encode` do for a tensor of the wrong shape.
void check_latent(const Vae& vae, const at::Tensor& latent);
void check_picture(const Vae& vae, const at::Tensor& picture);

}  // namespace atelier
