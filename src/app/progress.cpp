// The three displays.
#include "app/progress.h"

#include <fmt/format.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <utility>

#include "base/bytes.h"
#include "base/one_line.h"
#include "base/standard_streams.h"

namespace atelier {
namespace {

std::string text_of(const Json& event, const char* key) {
  const auto found = event.find(key);
  return found == event.end() ? "" : found->is_string() ? found->get<std::string>() : found->dump();
}

double number_of(const Json& event, const char* key) { return event.value(key, 0.0); }

/// As fmt's, but a failure throws nothing: drawing goes on, and `ferror` tells at the end.
template <class... Values>
void print(std::FILE* out, fmt::format_string<Values...> format, Values&&... values) {
  put(out, fmt::format(format, std::forward<Values>(values)...));
}

/// A FILE's descriptor; of `stderr` also where that stands for another stream.
int descriptor_of(std::FILE* file) { return file == stderr ? STDERR_FILENO : ::fileno(file); }

/// As `text_of`, on one line whatever it quotes.
std::string line_of(const Json& event, const char* key) { return one_line(text_of(event, key)); }

class JsonLines final : public EventPrinter {
 public:
  explicit JsonLines(std::FILE* out) : out_(out) {}
  void event(const Json& event) override {
    print(out_, "{}\n", event.dump(-1, ' ', false, Json::error_handler_t::replace));
    std::fflush(out_);
  }

 private:
  std::FILE* out_;
};

std::string plan_line(const Json& plan) {
  const Json& memory = plan["memory"];
  const std::string guidance =
      plan.contains("guidance") ? fmt::format(", guidance {:g}", number_of(plan, "guidance")) : "";
  std::string line = fmt::format(
      "{}, {}x{}, {} steps of {}/{}, cfg {:g}{}, seed {}, {}, {} threads, about {} of memory",
      text_of(plan["model"], "name"), text_of(plan, "width"), text_of(plan, "height"),
      text_of(plan, "steps"), text_of(plan, "sampler"), text_of(plan, "scheduler"),
      number_of(plan, "cfg"), guidance, text_of(plan, "seed"), text_of(plan["dtype"], "unet"),
      text_of(plan, "threads"), to_string(Bytes(memory.value("needed", int64_t{0}))));
  const Bytes kept(memory.value("unet_prepared", int64_t{0}));
  const Bytes all(memory.value("unet_weights", int64_t{0}));
  if (kept < all)
    line += fmt::format(", {} of the UNet's {} of weights stay prepared", to_string(kept),
                        to_string(all));
  if (plan.value("seed_chosen", false)) line += " (seed chosen at random)";
  return line;
}

std::string step_line(const Json& step) {
  std::string line = fmt::format(
      "step {}/{}, {}/step, {} left", text_of(step, "step"), text_of(step, "steps"),
      duration(number_of(step, "seconds_per_step")), duration(number_of(step, "seconds_left")));
  if (step.value("runs", 1) > 1)
    line = fmt::format("prompt {}/{}, {}", text_of(step, "run"), text_of(step, "runs"), line);
  return line;
}

std::string done_line(const Json& done) {
  const size_t count = done["images"].size();
  return fmt::format("{} picture{} in {}, {}/step, {} at most", count, count == 1 ? "" : "s",
                     duration(number_of(done, "seconds")),
                     duration(number_of(done, "seconds_per_step")),
                     to_string(Bytes(done.value("peak_memory", int64_t{0}))));
}

/// What plain lines and the bar have in common.
class TextPrinter : public EventPrinter {
 public:
  TextPrinter(std::FILE* out, std::FILE* log, bool verbose)
      : out_(out), log_(log), verbose_(verbose) {}
  void event(const Json& event) override {
    const std::string kind = text_of(event, "event");
    if (kind == "step") return step(event);
    if (kind == "phase") return phase(text_of(event, "name"));
    clear();
    if (kind == "plan") print(log_, "{}\n", plan_line(event));
    if (kind == "image" || kind == "latent" || kind == "sheet" || kind == "imatrix")
      file(text_of(event, "file"));
    if (kind == "done") done(event);
    if (kind == "warning") warning(event);
    if (kind == "slow_step") slow_step(event);
    if (kind == "error") print(log_, "error: {}\n", line_of(event, "message"));
    std::fflush(log_);
  }

 protected:
  virtual void step(const Json& step) = 0;
  virtual void phase(const std::string& name) = 0;
  virtual void clear() {}
  std::FILE* log() const { return log_; }

 private:
  void file(const std::string& path) {
    print(out_, "{}\n", path);
    std::fflush(out_);
  }
  void done(const Json& event) {
    if (more_slow_ > 0)
      print(log_, "warning: {} more step{} slow for a cause told before\n", more_slow_,
            more_slow_ == 1 ? " was" : "s were");
    print(log_, "{}\n", done_line(event));
  }
  /// Each cause once.
  void slow_step(const Json& event) {
    if (event.value("first", true))
      print(log_, "warning: {}\n", line_of(event, "message"));
    else
      ++more_slow_;
  }
  void warning(const Json& event) {
    const auto items = event.find("items");
    const bool more = items != event.end();
    print(log_, "warning: {}{}\n", line_of(event, "message"),
          more && !verbose_ ? " (--verbose lists all)" : "");
    for (size_t i = 0; more && verbose_ && i < items->size(); ++i)
      print(log_, "  {}\n", one_line((*items)[i].get<std::string>()));
  }
  std::FILE *out_, *log_;
  bool verbose_;
  int more_slow_ = 0;  // steps whose cause was told before
};

class PlainLines final : public TextPrinter {
 public:
  using TextPrinter::TextPrinter;
  void step(const Json& step) override {
    print(log(), "{}\n", step_line(step));
    std::fflush(log());
  }
  void phase(const std::string&) override {}
};

class TerminalBar final : public TextPrinter {
 public:
  using TextPrinter::TextPrinter;
  ~TerminalBar() override { clear(); }
  void step(const Json& step) override {
    const double steps = std::max(1.0, number_of(step, "steps"));
    const double share = std::clamp(number_of(step, "step") / steps, 0.0, 1.0);
    const std::string line = step_line(step);
    const int room = std::clamp(columns() - static_cast<int>(line.size()) - 4, 0, 40);
    std::string bar;
    if (room >= 8) {
      const auto full = static_cast<size_t>(std::lround(share * room));
      bar =
          "[" + std::string(full, '#') + std::string(static_cast<size_t>(room) - full, '-') + "] ";
    }
    show(bar + line);
  }
  void phase(const std::string& name) override { show(name + " ..."); }
  void clear() override {
    if (!shown_) return;
    print(log(), "\r\x1b[K");
    std::fflush(log());
    shown_ = false;
  }

 private:
  void show(std::string line) {
    if (const auto width = static_cast<size_t>(columns()); line.size() >= width)
      line.resize(width - 1);
    print(log(), "\r{}\x1b[K", line);
    std::fflush(log());
    shown_ = true;
  }
  int columns() const {
    winsize size{};
    const bool known = ::ioctl(descriptor_of(log()), TIOCGWINSZ, &size) == 0 && size.ws_col > 1;
    return known ? size.ws_col : 80;
  }
  bool shown_ = false;
};

}  // namespace

std::string duration(double seconds) {
  if (!(seconds >= 0)) seconds = 0;
  if (seconds < 9.995) return fmt::format("{:.2f} s", seconds);
  if (seconds < 99.95) return fmt::format("{:.1f} s", seconds);
  const auto whole = static_cast<int64_t>(std::min(seconds, 1e9) + 0.5);
  if (whole < 3600) return fmt::format("{} min {:02} s", whole / 60, whole % 60);
  return fmt::format("{} h {:02} min", whole / 3600, whole % 3600 / 60);
}

Display choose_display(bool json, std::FILE* log) {
  if (json) return Display::json;
  const char* terminal = std::getenv("TERM");
  const bool dumb = terminal == nullptr || std::string_view(terminal) == "dumb";
  return ::isatty(descriptor_of(log)) && !dumb ? Display::terminal : Display::plain;
}

std::unique_ptr<EventPrinter> make_printer(Display display, std::FILE* out, std::FILE* log,
                                           bool verbose) {
  if (display == Display::json) return std::make_unique<JsonLines>(out);
  if (display == Display::terminal) return std::make_unique<TerminalBar>(out, log, verbose);
  return std::make_unique<PlainLines>(out, log, verbose);
}

}  // namespace atelier
