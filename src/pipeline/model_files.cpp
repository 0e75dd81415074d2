// Looking for each part in the files given for it, then in the model file.
#include "pipeline/model_files.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <charconv>

#include "base/error.h"
#include "base/json.h"
#include "base/log.h"
#include "formats/model_folder.h"
#include "models/taesd.h"

namespace atelier {
namespace {

using Source = std::shared_ptr<const TensorSource>;

/// Prefixes under which a file that holds one part alone may keep it.
constexpr std::array<std::string_view, 3> kLoneVae = {"", "first_stage_model.", "vae."};
constexpr std::string_view kLoneText[] = {"",
                                          "text_encoder.",
                                          "text_encoder_2.",
                                          "model.",
                                          "text_encoder_3.",
                                          "clip_l.transformer.",
                                          "t5xxl.transformer."};

/// A kind of text encoder, and the options that name a file of it.
struct TextOption {
  std::string_view kind, option;
  std::filesystem::path ModelFiles::* file;
};
constexpr std::array kTextOptions = {TextOption{"clip_l", "--clip-l", &ModelFiles::clip_l},
                                     TextOption{"clip_g", "--clip-g", &ModelFiles::clip_g},
                                     TextOption{"t5xxl", "--t5", &ModelFiles::t5}};
/// What only a model with such an encoder takes.
constexpr TextOption kTokenizer{"t5xxl", "--t5-tokenizer", &ModelFiles::t5_tokenizer};

std::string_view option_of(std::string_view kind) {
  for (const TextOption& row : kTextOptions)
    if (row.kind == kind) return row.option;
  return "--text-encoder";
}

[[noreturn]] void fail(const Source& source, std::string expected, std::string hint = {}) {
  throw Error(
      ErrorCode::mismatch,
      {.subject = source->label(), .expected = std::move(expected), .hint = std::move(hint)});
}

/// What a file is, and where it belongs; empty texts if it is unknown.
struct Identity {
  std::string what, hint;
};

Identity given_with(std::string what, std::string_view option) {
  return {std::move(what), fmt::format("Such a file is given with {}", option)};
}

/// Of files that hold a part of a model.
Identity identity_of(const Source& source) {
  for (const ModelDef* def : all_models())
    if (recognise(def->denoiser, source, def->prefixes))
      return given_with(fmt::format("a diffusion model, {}", def->title), "--model or --unet");
  if (recognise(kl_vae, source, kLoneVae)) return given_with("an autoencoder (VAE)", "--vae");
  if (has_taesd(*source)) return given_with("a tiny autoencoder (TAESD)", "--preview-decoder");
  for (const PartDef<TextEncoder>* encoder : text_encoders())
    if (recognise(*encoder, source, kLoneText))
      return given_with(fmt::format("the text encoder {}", encoder->name),
                        option_of(encoder->name));
  return {};
}

/// Of files that are given beside a model, too.
Identity any_identity_of(const Source& source) {
  Identity is = identity_of(source);
  if (const auto other = accessory_in(*source); other && is.what.empty())
    is = {std::string(other->what), std::string(other->hint)};
  return is;
}

/// A file given for what it does not hold; what it seems to be is not said if that is `option`'s.
[[noreturn]] void fail_mixed_up(const Source& source, std::string wanted, std::string_view option,
                                std::string hint = {}) {
  Identity is = any_identity_of(source);
  if (is.what.empty() || is.hint.ends_with(option))
    fail(source, std::move(wanted), std::move(hint));
  fail(source, fmt::format("{}: it is {}", wanted, is.what), std::move(is.hint));
}

/// A VAE of a whole checkpoint or of a file of its own.
FoundPart vae_in(const ModelDef& def, const Source& source) {
  for (const auto& prefixes : {def.vae_prefixes, std::span<const std::string_view>(kLoneVae)})
    if (auto place = recognise(kl_vae, source, prefixes)) return {source, *place};
  fail_mixed_up(source, "holds no VAE that this program knows", "--vae");
}

/// A text encoder where a whole checkpoint of this or another model keeps it, or alone in a file of
/// its depth.
std::optional<FoundPart> text_in(const TextPart& part, const Source& source) {
  if (auto place = recognise(*part.encoder, source, part.prefixes))
    return FoundPart{source, *place};
  for (const PartDef<TextEncoder>* encoder : text_encoders()) {
    const auto place = recognise(*encoder, source, kLoneText);
    if (place)
      return encoder == part.encoder ? std::optional(FoundPart{source, *place}) : std::nullopt;
  }
  for (const ModelDef* def : all_models())
    for (const TextPart& same : def->text)
      if (same.encoder == part.encoder)
        if (auto place = recognise(*same.encoder, source, same.prefixes))
          return FoundPart{source, *place};
  return {};
}

/// An encoder that is taken for another, by a piece of a name only it has.
struct Likeness {
  std::string_view kind, piece, what;
};
constexpr Likeness kLikenesses[] = {
    {"t5xxl", "encoder.block.1.layer.0.SelfAttention.relative_attention_bias.", "a UMT5"},
    {"t5xxl", "enc.blk.1.attn_rel_b.", "a UMT5"},
    {"t5xxl", "encoder.block.0.layer.1.DenseReluDense.wi.", "a T5 of the first version"},
};

void refuse_likeness(const Source& source, std::string_view kind) {
  for (const Likeness& row : kLikenesses)
    for (const auto& [name, info] : source->tensors())
      if (row.kind == kind && name.find(row.piece) != name.npos)
        fail(source, fmt::format("holds no text encoder {}: it is {}", kind, row.what),
             "FLUX.1 takes T5 of version 1.1, the usual t5xxl");
}

/// The text encoder in a file that must hold this kind; nothing if none is named.
std::optional<FoundPart> asserted(const TextPart& part, const ModelFiles& files) {
  for (const TextOption& row : kTextOptions) {
    if (row.kind != part.encoder->name || (files.*row.file).empty()) continue;
    const Source source = open_source(files.*row.file);
    if (auto found = text_in(part, source)) return found;
    refuse_likeness(source, row.kind);
    fail_mixed_up(source, fmt::format("holds no text encoder {}", row.kind), row.option);
  }
  return {};
}

/// Throws for a file whose kind of text encoder the model does not take.
void check_taken(const ModelParts& parts, const ModelFiles& files) {
  std::vector<TextOption> rows(kTextOptions.begin(), kTextOptions.end());
  rows.push_back(kTokenizer);
  for (const TextOption& row : rows) {
    const bool taken = std::ranges::any_of(
        parts.def->text, [&](const TextPart& part) { return part.encoder->name == row.kind; });
    if (!(files.*row.file).empty() && !taken)
      throw Error(
          ErrorCode::mismatch,
          {.subject = std::string(row.option),
           .expected = fmt::format("{} is {}, which takes no text encoder {}",
                                   parts.denoiser.source->label(), parts.def->title, row.kind),
           .hint = fmt::format("Leave {} out, or name another model with --model or --unet",
                               row.option)});
  }
}

/// Throws for a file of --text-encoder that gave nothing.
[[noreturn]] void fail_unused(const ModelDef& def, const Source& source) {
  std::string wanted;
  for (const TextPart& part : def.text) {
    if (text_in(part, source))
      fail(source,
           fmt::format("holds the text encoder {}, for which another file is given",
                       part.encoder->name),
           "Leave one of them out");
    wanted += fmt::format("{}{}", wanted.empty() ? "" : " or ", part.encoder->name);
  }
  fail_mixed_up(source, fmt::format("holds no text encoder {}", wanted), "--text-encoder",
                fmt::format("{} takes no other", def.title));
}

void find_text(ModelParts& parts, const ModelFiles& files) {
  check_taken(parts, files);
  std::vector<Source> own_files;
  for (const std::filesystem::path& file : files.text_encoders)
    own_files.push_back(open_source(file));
  std::vector<bool> used(own_files.size(), false);
  for (const TextPart& part : parts.def->text) {
    std::optional<FoundPart> found = asserted(part, files);
    for (size_t i = 0; i < own_files.size() && !found; ++i)
      if ((found = text_in(part, own_files[i]))) used[i] = true;
    if (!found)
      if (auto place = find_place(*parts.denoiser.source, part.prefixes, part.encoder->layouts))
        found = FoundPart{parts.denoiser.source, *place};
    parts.text.push_back(std::move(found));
  }
  for (size_t i = 0; i < own_files.size(); ++i)
    if (!used[i]) fail_unused(*parts.def, own_files[i]);
}

/// What scheduler_config.json of a diffusers folder states about training.
void read_scheduler(ModelParts& parts, const Metadata& metadata) {
  const auto found = metadata.find("scheduler/scheduler_config.json");
  if (found == metadata.end()) return;
  const Json config = parse_json(found->second, "scheduler_config.json");
  if (!config.is_object()) return;
  const auto text = config.find("prediction_type");
  if (text != config.end() && text->is_string()) {
    if (*text == "v_prediction")
      parts.output = OutputKind::v;
    else if (*text == "epsilon")
      parts.output = OutputKind::eps;
    else
      throw Error(ErrorCode::unsupported, {.subject = "scheduler_config.json",
                                           .expected = "prediction_type epsilon or v_prediction",
                                           .found = text->get<std::string>()});
  }
  const auto rescaled = config.find("rescale_betas_zero_snr");
  if (rescaled != config.end() && rescaled->is_boolean())
    parts.zero_terminal_snr = rescaled->get<bool>();
}

/// "512x768" of the metadata entry `modelspec.resolution`, where both are usable.
void read_resolution(ModelParts& parts, const Metadata& metadata) {
  const auto found = metadata.find("modelspec.resolution");
  if (found == metadata.end()) return;
  const std::string& text = found->second;
  const size_t cross = text.find('x');
  int64_t width = 0, height = 0;
  if (cross == text.npos) return;
  std::from_chars(text.data(), text.data() + cross, width);
  std::from_chars(text.data() + cross + 1, text.data() + text.size(), height);
  const auto usable = [&](int64_t side) {
    return side >= parts.def->latent.factor && side <= 16384 &&
           side % parts.def->latent.factor == 0;
  };
  if (!usable(width) || !usable(height)) return;
  parts.width = width;
  parts.height = height;
}

Detected denoiser_in(const Source& source) {
  try {
    return detect_model(source);
  } catch (const Error& error) {
    // A damaged denoiser is not to be called by what lies beside it.
    const bool damaged = std::ranges::any_of(all_models(), [&](const ModelDef* def) {
      return find_place(*source, def->prefixes, def->denoiser.layouts).has_value();
    });
    if (error.code() != ErrorCode::unsupported || damaged || identity_of(source).what.empty())
      throw;
    fail_mixed_up(source, "holds no diffusion model", "--model");
  }
}

}  // namespace

ModelParts find_parts(const ModelFiles& files) {
  const Source model = open_source(files.model);
  const Detected detected = denoiser_in(model);
  ModelParts parts;
  parts.def = detected.def;
  parts.denoiser = {model, detected.denoiser};
  if (!files.vae.empty())
    parts.vae = vae_in(*parts.def, open_source(files.vae));
  else if (auto place = recognise(kl_vae, model, parts.def->vae_prefixes))
    parts.vae = FoundPart{model, *place};
  find_text(parts, files);
  read_metadata(parts, model->metadata());
  return parts;
}

void read_metadata(ModelParts& parts, const Metadata& metadata) {
  read_scheduler(parts, metadata);
  read_resolution(parts, metadata);
}

void require_complete(const ModelParts& parts) {
  std::vector<std::string> missing, options;
  if (!parts.vae) {
    missing.push_back("VAE");
    options.push_back("--vae");
  }
  for (size_t i = 0; i < parts.text.size(); ++i) {
    if (parts.text[i]) continue;
    const std::string_view kind = parts.def->text[i].encoder->name;
    missing.push_back(fmt::format("text encoder {}", kind));
    options.emplace_back(option_of(kind));
  }
  if (missing.empty()) return;
  fail(parts.denoiser.source, fmt::format("holds no {}", fmt::join(missing, ", no ")),
       fmt::format("Name {} with {}", missing.size() == 1 ? "a file that does" : "files that do",
                   fmt::join(options, ", ")));
}

void require_taesd(const Source& source) {
  if (!has_taesd(*source))
    fail_mixed_up(source, "holds no tiny autoencoder (TAESD)", "--preview-decoder",
                  "Give taesd_decoder.safetensors, or that of the model's family");
}

Error wrong_kind(const Source& source, std::string expected) {
  Identity is = any_identity_of(source);
  return {ErrorCode::mismatch,
          {.subject = source->label(),
           .expected = std::move(expected),
           .found = is.what.empty() ? "another checkpoint" : std::move(is.what),
           .hint = std::move(is.hint)}};
}

std::optional<std::string> lone_part(const Source& source) {
  const Identity is = identity_of(source);
  if (is.what.empty()) return {};
  return is.what.substr(is.what.find(' ') + 1);
}

}  // namespace atelier
