// How a run's events reach the user: a progress bar, plain lines, or JSON lines.
#pragma once

#include <cstdio>
#include <memory>

#include "base/json.h"

namespace atelier {

/// Shows events (docs/events.md) as they come. Paths of finished files go to `out`, everything
/// else to `log`; not shared between threads.
class EventPrinter {
 public:
  virtual ~EventPrinter() = default;
  virtual void event(const Json& event) = 0;
};

enum class Display { json, plain, terminal };

/// The display for this call: JSON if asked for, else a bar where `log` is a terminal.
Display choose_display(bool json, std::FILE* log);

/// `verbose` lists what warnings name only the first few of.
std::unique_ptr<EventPrinter> make_printer(Display display, std::FILE* out, std::FILE* log,
                                           bool verbose = false);

/// "0.85 s", "12.3 s", "4 min 05 s", "2 h 03 min".
std::string duration(double seconds);

}  // namespace atelier
