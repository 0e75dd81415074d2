// Encoding by extension, and claiming names without a moment in which two could claim the same.
#include "app/engine/picture_files.h"

#include <fmt/format.h>

#include <array>

#include "base/error.h"
#include "base/mapped_file.h"
#include "base/nearest.h"
#include "base/utf8.h"
#include "media/png.h"

namespace atelier {
namespace {

namespace fs = std::filesystem;

constexpr int kQuality = 92;

Json facts_json(const PictureFacts& f) {
  Json json = {{"prompt", valid_utf8(f.prompt)},
               {"negative", valid_utf8(f.negative)},
               {"seed", f.out.seed},
               {"batch_index", f.batch_index},
               {"steps", f.out.steps},
               {"cfg", f.out.cfg},
               {"sampler", f.out.sampler},
               {"scheduler", f.out.scheduler},
               {"width", f.out.width},
               {"height", f.out.height},
               {"model", valid_utf8(f.out.model)}};
  json.update(f.more);
  return json;
}

/// One row per setting that the line of settings shows only when it was used.
struct UsedSetting {
  const char* key;
  const char* title;
};
constexpr std::array kUsedSettings = {UsedSetting{"guidance", "Distilled CFG Scale"},
                                      UsedSetting{"shift", "Shift"},
                                      UsedSetting{"strength", "Denoising strength"},
                                      UsedSetting{"clip_skip", "Clip skip"},
                                      UsedSetting{"vae", "VAE"},
                                      UsedSetting{"version", "Version"}};

std::string text_of(const Json& value) {
  return value.is_string() ? value.get<std::string>() : value.dump();
}

}  // namespace

std::string parameters_text(const PictureFacts& f) {
  std::string text = valid_utf8(f.prompt) + "\n";
  if (!f.negative.empty()) text += "Negative prompt: " + valid_utf8(f.negative) + "\n";
  text += fmt::format(
      "Steps: {}, Sampler: {}, Schedule type: {}, CFG scale: {:g}, Seed: {}, Size: {}x{}, Model: "
      "{}",
      f.out.steps, f.out.sampler, f.out.scheduler, f.out.cfg, f.out.seed, f.out.width, f.out.height,
      valid_utf8(f.out.model));
  for (const UsedSetting& setting : kUsedSettings)
    if (f.more.contains(setting.key))
      text += fmt::format(", {}: {}", setting.title, text_of(f.more[setting.key]));
  return text;
}

std::vector<std::byte> encode_picture(const fs::path& name, const Image& image,
                                      const PictureFacts* facts) {
  const std::string extension = name.extension().string();
  if (edit_distance(extension, ".webp") == 0) return encode_webp(image, kQuality);
  if (edit_distance(extension, ".png") != 0) return encode_jpeg(image, kQuality);
  std::vector<PngText> texts;
  if (facts) {
    texts.push_back({"parameters", parameters_text(*facts)});
    texts.push_back({"atelier", facts_json(*facts).dump()});
  }
  return encode_png(image, texts);
}

fs::path PictureFiles::write(const Image& image, const PictureFacts& facts) {
  const fs::path wanted = fill_out_pattern(options_.out, facts.out);
  return commit(wanted, encode_picture(wanted, image, &facts));
}

fs::path PictureFiles::write_as(const fs::path& wanted, const Image& image) {
  return commit(wanted, encode_picture(wanted, image));
}

fs::path PictureFiles::free_name(const fs::path& wanted) {
  return first_free(wanted, [&](const fs::path& name) {
    std::error_code none;
    if (!options_.overwrite && fs::exists(name, none)) return false;
    return written_.insert(name).second;
  });
}

fs::path PictureFiles::commit(const fs::path& wanted, const std::vector<std::byte>& bytes) {
  AtomicFile file(wanted);
  file.write(bytes);
  return first_free(wanted, [&](const fs::path& name) {
    if (written_.contains(name)) return false;
    file.rename(name);
    if (options_.overwrite)
      file.commit();
    else if (!file.commit_new())
      return false;
    written_.insert(name);
    return true;
  });
}

}  // namespace atelier
