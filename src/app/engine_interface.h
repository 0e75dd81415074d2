// The door between the quick front and the engine library it loads only when work is to be done.
#pragma once

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <stop_token>

#include "app/generate_options.h"
#include "app/quantize_options.h"
#include "base/json.h"

namespace atelier {

/// Where the engine reports to. Events are objects with a member "event"; docs/events.md lists
/// them. Called by one thread at a time.
class EngineHost {
 public:
  virtual ~EngineHost() = default;
  virtual void event(const Json& event) = 0;
  virtual std::stop_token stop() const = 0;
};

/// What the engine library offers. The calls return the exit code of the command and throw
/// nothing; a failure is reported as an "error" event first.
struct EngineInterface {
  uint32_t version;  // kEngineVersion of the engine's build
  uint32_t options_size;  // sizeof(GenerateOptions) there: a guard against mixed builds
  const char* build;  // version and build type, as text
  /// `started` is when the program began; events tell seconds from then on.
  int (*generate)(const GenerateOptions& options, EngineHost& host,
                  std::chrono::steady_clock::time_point started);
  /// One "model" event: which architecture a checkpoint holds.
  int (*identify)(const std::filesystem::path& path, EngineHost& host);
  /// Writes a file in another encoding; events as in app/engine/quantize.h. With an empty `in`
  /// only lists the types.
  int (*quantize)(const QuantizeOptions& options, EngineHost& host);
  /// One "engine" event: libraries, devices, and what is missing.
  int (*describe)(EngineHost& host);
};

inline constexpr uint32_t kEngineVersion = 4;
/// The one symbol of the engine library.
inline constexpr const char* kEngineSymbol = "atelier_engine_interface";
using EngineEntry = const EngineInterface* (*)();

}  // namespace atelier
