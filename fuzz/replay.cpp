// The main of a fuzz target in ordinary builds: runs every file of a corpus through it, cut short
// and with bytes changed at some places of each. Arguments: PLACES FOLDER...
#include <sys/resource.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);

namespace {

using Bytes = std::vector<uint8_t>;

/// Runs a copy of exactly this size, so that a sanitizer sees a read past its end.
void run(const Bytes& bytes, size_t size, size_t& runs) {
  const Bytes copy(bytes.begin(), bytes.begin() + static_cast<std::ptrdiff_t>(size));
  LLVMFuzzerTestOneInput(copy.data(), copy.size());
  ++runs;
}

/// Runs `bytes` with `count` of them from `at` on set to `value`, or their bits flipped by it.
void change(Bytes bytes, size_t at, size_t count, uint8_t value, bool flip, size_t& runs) {
  for (size_t i = at; i < std::min(bytes.size(), at + count); ++i)
    bytes[i] = flip ? static_cast<uint8_t>(bytes[i] ^ value) : value;
  run(bytes, bytes.size(), runs);
}

/// Runs `bytes` as they are, and cut or changed at up to `places` evenly spread places.
void replay(const Bytes& bytes, size_t places, size_t& runs) {
  run(bytes, bytes.size(), runs);
  const size_t step = std::max<size_t>(1, (bytes.size() + places - 1) / places);
  for (size_t at = 0; at < bytes.size(); at += step) {
    run(bytes, at, runs);
    change(bytes, at, 1, 0x01, true, runs);
    change(bytes, at, 1, 0x80, true, runs);
    change(bytes, at, 1, 0x00, false, runs);
    change(bytes, at, 4, 0xff, false, runs);
    change(bytes, at, 8, 0xff, false, runs);
    Bytes removed = bytes;
    removed.erase(removed.begin() + static_cast<std::ptrdiff_t>(at));
    run(removed, removed.size(), runs);
  }
}

/// A reader that asks for more than this for a file of a few kilobytes has believed a lie.
void limit_memory() {
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
  constexpr rlim_t kMost = rlim_t{1} << 30;
  const rlimit limit{kMost, kMost};
  ::setrlimit(RLIMIT_AS, &limit);
#endif
}

}  // namespace

int main(int count, char** arguments) {
  if (count < 3) return 2;
  limit_memory();
  const size_t places = std::max<size_t>(1, std::stoul(arguments[1]));
  std::vector<std::filesystem::path> paths;
  for (int i = 2; i < count; ++i)
    for (const auto& entry : std::filesystem::recursive_directory_iterator(arguments[i]))
      if (entry.is_regular_file()) paths.push_back(entry.path());
  std::sort(paths.begin(), paths.end());
  size_t runs = 0;
  for (const std::filesystem::path& path : paths) {
    std::ifstream file(path, std::ios::binary);
    const Bytes bytes{std::istreambuf_iterator<char>(file), {}};
    replay(bytes, places, runs);
  }
  std::printf("%zu files, %zu inputs\n", paths.size(), runs);
  return paths.empty() ? 1 : 0;
}
