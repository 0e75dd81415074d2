// Headers only: no weight is read but the few that tell SD 2.x variants apart.
#include "app/engine/identify.h"

#include <fmt/format.h>

#include "app/engine/fit_table.h"
#include "base/error.h"
#include "formats/model_folder.h"
#include "pipeline/engine.h"

namespace atelier {
namespace {

std::string where(const FoundPart& part) {
  return part.place.prefix.empty()
             ? fmt::format("{} names", part.place.layout->name)
             : fmt::format("{} names under '{}'", part.place.layout->name, part.place.prefix);
}

// What a model predicts, by OutputKind.
constexpr std::string_view kPredicts[] = {"noise", "velocity", "flow"};

Json describe(const ModelParts& parts) {
  const ModelDef& def = *parts.def;
  Component<DiffusionModel> denoiser(def.denoiser, parts.denoiser, {});
  const ModelTraits& traits = denoiser.get().traits();
  const OutputKind output = parts.output.value_or(traits.output);
  const bool zero = parts.zero_terminal_snr.value_or(traits.zero_terminal_snr);
  const bool repaints = traits.in_channels == 2 * def.latent.channels + 1;
  Json names = {{std::string(def.denoiser.name),
                 fmt::format("{} input channels, predicts {}{}, {}", traits.in_channels,
                             kPredicts[static_cast<size_t>(output)],
                             zero ? " from zero terminal SNR" : "", where(parts.denoiser))}};
  for (size_t i = 0; i < parts.text.size(); ++i)
    names[fmt::format("text {}", def.text[i].encoder->name)] =
        parts.text[i] ? where(*parts.text[i]) : "missing";
  names["vae"] = parts.vae ? where(*parts.vae) : "missing";
  return {{"family", def.name},
          {"name", fmt::format("{}{}{}", def.title, output == OutputKind::v ? ", v-prediction" : "",
                               repaints ? ", inpainting" : "")},
          {"size",
           {parts.width.value_or(traits.native_size), parts.height.value_or(traits.native_size)}},
          {"parts", names},
          {"fits", fit_table(parts)}};
}

}  // namespace

Json identify_model(const std::filesystem::path& path) {
  try {
    return describe(find_parts({.model = path, .vae = {}, .text_encoders = {}}));
  } catch (const Error& error) {
    const std::optional<std::string> part = lone_part(open_source(path));
    if (!part) throw;
    return {{"family", ""}, {"name", "no whole model: " + *part}, {"parts", Json::object()}};
  }
}

}  // namespace atelier
