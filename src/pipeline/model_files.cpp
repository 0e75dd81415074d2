// Looking for each part in the files given for it, then in the model file.
#include "pipeline/model_files.h"

#include <fmt/format.h>

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
constexpr std::array<std::string_view, 4> kLoneText = {"", "text_encoder.", "text_encoder_2.",
                                                       "model."};

[[noreturn]] void fail(const Source& source, std::string expected, std::string hint = {}) {
  throw Error(
      ErrorCode::mismatch,
      {.subject = source->label(), .expected = std::move(expected), .hint = std::move(hint)});
}

/// A VAE of a whole checkpoint or of a file of its own.
FoundPart vae_in(const ModelDef& def, const Source& source) {
  for (const auto& prefixes : {def.vae_prefixes, std::span<const std::string_view>(kLoneVae)})
    if (auto place = recognise(kl_vae, source, prefixes)) return {source, *place};
  fail(source, "holds no VAE that this program knows");
}

/// A text encoder where a whole checkpoint keeps it, or alone in a file of its depth.
std::optional<FoundPart> text_in(const TextPart& part, const Source& source) {
  if (auto place = find_place(*source, part.prefixes, part.encoder->layouts))
    return FoundPart{source, *place};
  for (const PartDef<TextEncoder>* encoder : text_encoders()) {
    const auto place = recognise(*encoder, source, kLoneText);
    if (place)
      return encoder == part.encoder ? std::optional(FoundPart{source, *place}) : std::nullopt;
  }
  return {};
}

void find_text(ModelParts& parts, const std::vector<Source>& own_files) {
  std::vector<bool> used(own_files.size(), false);
  for (const TextPart& part : parts.def->text) {
    std::optional<FoundPart> found;
    for (size_t i = 0; i < own_files.size() && !found; ++i)
      if ((found = text_in(part, own_files[i]))) used[i] = true;
    if (!found)
      if (auto place = find_place(*parts.denoiser.source, part.prefixes, part.encoder->layouts))
        found = FoundPart{parts.denoiser.source, *place};
    parts.text.push_back(std::move(found));
  }
  for (size_t i = 0; i < own_files.size(); ++i) {
    if (used[i]) continue;
    std::string wanted;
    for (const TextPart& part : parts.def->text)
      wanted += fmt::format("{}{}", wanted.empty() ? "" : " or ", part.encoder->name);
    fail(own_files[i], fmt::format("holds no text encoder {}", wanted),
         fmt::format("{} takes no other", parts.def->title));
  }
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

}  // namespace

ModelParts find_parts(const ModelFiles& files) {
  const Source model = open_source(files.model);
  const Detected detected = detect_model(model);
  ModelParts parts;
  parts.def = detected.def;
  parts.denoiser = {model, detected.denoiser};
  if (!files.vae.empty())
    parts.vae = vae_in(*parts.def, open_source(files.vae));
  else if (auto place = recognise(kl_vae, model, parts.def->vae_prefixes))
    parts.vae = FoundPart{model, *place};
  std::vector<Source> text_files;
  for (const std::filesystem::path& file : files.text_encoders)
    text_files.push_back(open_source(file));
  find_text(parts, text_files);
  read_metadata(parts, model->metadata());
  return parts;
}

void read_metadata(ModelParts& parts, const Metadata& metadata) {
  read_scheduler(parts, metadata);
  read_resolution(parts, metadata);
}

void require_complete(const ModelParts& parts) {
  const Source& model = parts.denoiser.source;
  if (!parts.vae) fail(model, "holds no VAE", "Name a file that does with --vae");
  for (size_t i = 0; i < parts.text.size(); ++i)
    if (!parts.text[i])
      fail(model, fmt::format("holds no text encoder {}", parts.def->text[i].encoder->name),
           "Name a file that does with --text-encoder");
}

std::optional<std::string> lone_part(const Source& source) {
  if (recognise(kl_vae, source, kLoneVae)) return "autoencoder (VAE)";
  if (has_taesd(*source)) return "tiny autoencoder (TAESD)";
  for (const PartDef<TextEncoder>* encoder : text_encoders())
    if (recognise(*encoder, source, kLoneText))
      return fmt::format("text encoder {}", encoder->name);
  return {};
}

}  // namespace atelier
