// From the files a user names to the parts of a model: which architecture, and where each part is.
#pragma once

#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/error.h"
#include "models/model.h"
#include "models/vae.h"

namespace atelier {

/// The files a model is put together from; an empty path means "as the model file has it".
struct ModelFiles {
  std::filesystem::path model;  // a checkpoint, a shard index, or a diffusers folder
  std::filesystem::path vae;
  std::vector<std::filesystem::path> text_encoders;  // in any order
  std::filesystem::path clip_l = {}, clip_g = {}, t5 = {};  // text encoders that must be these
  std::filesystem::path t5_tokenizer = {};  // a file or its folder
};

/// Where one part was found.
struct FoundPart {
  std::shared_ptr<const TensorSource> source;
  Place place;
};

/// A model's parts, recognised but not bound: nothing but headers has been read.
struct ModelParts {
  const ModelDef* def = nullptr;
  FoundPart denoiser;
  std::optional<FoundPart> vae;
  std::vector<std::optional<FoundPart>> text;  // in the order of def->text
  /// What a diffusers folder's scheduler says over what the tensors do not tell.
  std::optional<OutputKind> output;
  std::optional<bool> zero_terminal_snr;
  /// Width and height the file's metadata names, in pixels.
  std::optional<int64_t> width, height;
};

/// Opens the files and recognises what they hold. Parts the files lack stay empty; a file given for
/// a part that holds none of it throws `mismatch` that says what it is instead. Errors otherwise as
/// `open_source` and `detect_model`.
ModelParts find_parts(const ModelFiles& files);

/// Takes from `metadata` what the tensors do not tell: a diffusers scheduler's kind of prediction
/// and noise levels, and the picture size of `modelspec.resolution`; values that make no sense are
/// left out. Throws `unsupported` for a kind of prediction that no sampler here integrates.
void read_metadata(ModelParts& parts, const Metadata& metadata);

/// Throws `mismatch` naming the options that help if parts that drawing needs are missing.
void require_complete(const ModelParts& parts);

/// Throws `mismatch` unless the file holds a tiny autoencoder.
void require_taesd(const std::shared_ptr<const TensorSource>& source);

/// That a checkpoint was given where `expected` belongs: what it is instead, and which option takes
/// it.
Error wrong_kind(const std::shared_ptr<const TensorSource>& source, std::string expected);

/// What a lone file holds that is no whole model: "autoencoder (VAE)", "text encoder clip_l",
/// "tiny autoencoder (TAESD)"; nothing if unknown.
std::optional<std::string> lone_part(const std::shared_ptr<const TensorSource>& source);

}  // namespace atelier
