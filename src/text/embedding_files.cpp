// Names from prompts are hostile: they may only lead further into a folder.
#include "text/embedding_files.h"

#include <algorithm>
#include <array>
#include <string>

namespace atelier {
namespace {

namespace fs = std::filesystem;

constexpr std::array<std::string_view, 4> kEndings = {"", ".safetensors", ".pt", ".bin"};
constexpr std::array<std::string_view, 3> kKinds = {".safetensors", ".pt", ".bin"};
constexpr size_t kMaxName = 1024;

/// `name` as a path that stays inside the folder it is put under, or empty.
fs::path inner_path(std::string_view name) {
  if (name.size() > kMaxName || name.find('\0') != name.npos) return {};
  std::string local(name);
  std::ranges::replace(local, '\\', '/');
  const fs::path path = fs::path(local).lexically_normal();
  return path.is_absolute() || *path.begin() == ".." ? fs::path() : path;
}

}  // namespace

std::optional<fs::path> find_embedding_file(std::span<const fs::path> folders,
                                            std::string_view name) {
  if (name.empty()) return {};
  const fs::path inner = inner_path(name);
  for (const fs::path& folder : folders) {
    for (std::string_view ending : kEndings) {
      fs::path file = folder / inner;
      file += ending;
      std::error_code error;
      const bool known = std::ranges::find(kKinds, file.extension().string()) != kKinds.end();
      if (!inner.empty() && known && fs::is_regular_file(file, error)) return file;
    }
  }
  return {};
}

}  // namespace atelier
