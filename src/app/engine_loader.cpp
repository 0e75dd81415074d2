// The library is looked for beside the executable, then in ../lib.
#include "app/engine_loader.h"

#include <dlfcn.h>
#include <fmt/format.h>

#include <cstdlib>
#include <string>
#include <system_error>

#include "base/error.h"

namespace atelier {
namespace {

constexpr const char* kLibrary = "libatelier_engine.so";

std::filesystem::path engine_path() {
  std::error_code ignored;
  const std::filesystem::path folder =
      std::filesystem::read_symlink("/proc/self/exe", ignored).parent_path();
  for (const std::filesystem::path& place : {folder / kLibrary, folder / "../lib" / kLibrary})
    if (std::filesystem::exists(place, ignored)) return place;
  throw Error(ErrorCode::not_found, {.subject = (folder / kLibrary).string(),
                                     .expected = "the engine library is missing",
                                     .hint = "Build it with 'make build'"});
}

/// OpenMP's threads wait for each other by spinning, about a millisecond at first. On a machine
/// with other work that makes every parallel loop wait for the scheduler, ten times over; a short
/// spin costs an idle machine nothing. The runtime reads this when libtorch loads it.
void limit_spinning() {
  constexpr const char* kSpins = "10000";
  if (std::getenv("OMP_WAIT_POLICY") == nullptr) ::setenv("GOMP_SPINCOUNT", kSpins, 0);
}

}  // namespace

const EngineInterface& load_engine() {
  limit_spinning();
  const std::string path = engine_path().string();
  void* library = ::dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) {
    const char* reason = ::dlerror();
    throw Error(ErrorCode::not_found, {.subject = path,
                                       .expected = fmt::format("cannot be loaded ({})",
                                                               reason ? reason : "no reason given"),
                                       .hint = "libtorch may have moved: run 'make build' again"});
  }
  // dlsym returns an object pointer; POSIX guarantees that it converts.
  const auto entry = reinterpret_cast<EngineEntry>(::dlsym(library, kEngineSymbol));
  const EngineInterface* engine = entry ? entry() : nullptr;
  if (!engine || engine->version != kEngineVersion ||
      engine->options_size != sizeof(GenerateOptions))
    throw Error(
        ErrorCode::mismatch,
        {.subject = path,
         .expected = fmt::format("engine interface {}", kEngineVersion),
         .found = engine ? fmt::format("{} of build '{}'", engine->version, engine->build) : "none",
         .hint = "The command and its engine are of different builds: run 'make build'"});
  return *engine;
}

}  // namespace atelier
