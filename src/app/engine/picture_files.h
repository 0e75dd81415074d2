// Writes the files of a run: pictures with their parameters, sheets, previews.
#pragma once

#include <filesystem>
#include <set>
#include <string>
#include <vector>

#include "app/generate_options.h"
#include "app/out_pattern.h"
#include "base/json.h"
#include "media/image.h"

namespace atelier {

/// What is written into a picture about how it was made.
struct PictureFacts {
  std::string prompt, negative;
  int64_t batch_index = 0;
  OutFacts out;
  Json more = Json::object();  // dtype, version, and options that were used
};

/// Names and writes the pictures of one call. A name that is taken gets _2, _3, ... unless
/// `overwrite`, and no two files of one call share one. One thread.
class PictureFiles {
 public:
  explicit PictureFiles(const GenerateOptions& options) : options_(options) {}

  /// Writes one picture under the pattern's name. Throws `write_failed`.
  std::filesystem::path write(const Image& image, const PictureFacts& facts);
  /// Writes a picture under a fixed name by the same rules.
  std::filesystem::path write_as(const std::filesystem::path& wanted, const Image& image);
  /// The first name like `wanted` that is free, for a file written by someone else.
  std::filesystem::path free_name(const std::filesystem::path& wanted);

 private:
  std::filesystem::path commit(const std::filesystem::path& wanted,
                               const std::vector<std::byte>& bytes);
  const GenerateOptions& options_;
  std::set<std::filesystem::path> written_;
};

/// The picture in the format its name ends in; PNG files carry `facts` if given.
std::vector<std::byte> encode_picture(const std::filesystem::path& name, const Image& image,
                                      const PictureFacts* facts = nullptr);

/// The text other programs read: prompt, negative prompt, and a line of settings.
std::string parameters_text(const PictureFacts& facts);

}  // namespace atelier
