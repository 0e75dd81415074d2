// Which encoding of a model fits which memory at which picture size.
#pragma once

#include "base/json.h"
#include "pipeline/model_files.h"

namespace atelier {

/// The finest type of `atelier quantize` with which each memory suffices for each size:
/// {"memory": [bytes...], "reserved": bytes, "rows": [{"width", "height", "types": [name or ""
/// ...], "tiled": [...]}], "missing": [...]}, "reserved" what the system is left of each memory,
/// "tiled" where only with a tiled VAE, "missing" the text encoders and the VAE that the file lacks
/// and that are not reckoned with. No type is larger than the file: one whose denoiser takes less
/// than F16 begins with its own encoding, as it is. Reckoned from shapes, the model's
/// quantisation rules and its activations in bf16, with weights that stay encoded and are prepared
/// when used; text encoders, denoiser and VAE are in memory one after the other. Null if the file
/// cannot be quantised or a part does not bind.
Json fit_table(const ModelParts& parts);

}  // namespace atelier
