// `atelier quantize`: a model file in another encoding.
#include <fmt/format.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>

#include "app/command_line.h"
#include "app/commands.h"
#include "app/engine_loader.h"
#include "app/interrupt.h"
#include "app/progress.h"
#include "app/quantize_checks.h"
#include "base/bytes.h"

namespace atelier {
namespace {

std::string size_text(const Json& bytes) {
  return to_string(Bytes(static_cast<int64_t>(bytes.get<uint64_t>())));
}

/// Shows the engine's events as JSON lines, or as a plan, a bar and a closing line.
class QuantizeHost final : public EngineHost {
 public:
  QuantizeHost(bool json, std::stop_token stop)
      : json_(json), bar_(isatty(STDERR_FILENO) != 0), stop_(std::move(stop)) {}
  std::stop_token stop() const override { return stop_; }

  void event(const Json& event) override {
    const std::string name = event.value("event", "");
    if (name == "error") {
      clear();
      fmt::print(stderr, "error: {}\n", event.value("message", ""));
    }
    if (json_) {
      fmt::print("{}\n", event.dump(-1, ' ', false, Json::error_handler_t::replace));
      std::fflush(stdout);
      return;
    }
    if (name == "warning") clear();
    if (name == "warning") fmt::print(stderr, "warning: {}\n", event.value("message", ""));
    if (name == "quant_types") list(event);
    if (name == "quant_plan") plan(event);
    if (name == "tensor" || name == "piece") step(event);
    if (name == "quantized") finish(event);
  }

 private:
  static void list(const Json& event) {
    for (const Json& type : event["types"])
      fmt::print("  {:<9} {}\n", type.value("name", ""), type.value("about", ""));
  }
  static void plan(const Json& event) {
    fmt::print(stderr, "{}: {}, {} tensors, {} -> {}\n", event.value("file", ""),
               event.value("architecture", ""), event.value("tensors", 0),
               size_text(event["from_bytes"]), size_text(event["to_bytes"]));
    fmt::print(stderr, "  {:<8} {:>7} {:>11} {:>11}\n", "type", "tensors", "before", "after");
    for (const Json& share : event["encodings"])
      fmt::print(stderr, "  {:<8} {:>7} {:>11} {:>11}\n", share.value("encoding", ""),
                 share.value("tensors", 0), size_text(share["from_bytes"]),
                 size_text(share["bytes"]));
    if (event.contains("weighed"))
      fmt::print(stderr, "  {} of them weighed by importance\n", event.value("weighed", 0));
    if (event.value("architecture", "") == "unknown")
      fmt::print(stderr,
                 "warning: the architecture is unknown; which tensors stay floats is decided by "
                 "their names alone\n");
  }
  void step(const Json& event) {
    if (!bar_) return;
    const double share = event.value("share", 0.0);
    const std::chrono::duration<double> spent = std::chrono::steady_clock::now() - started_;
    const double left = share > 0 ? spent.count() * (1 - share) / share : 0;
    constexpr int kWidth = 30;
    const int filled = static_cast<int>(share * kWidth);
    fmt::print(stderr, "\r\033[K[{:#<{}}{:.>{}}] {:3.0f} %, {} left", "", filled, "",
               kWidth - filled, 100 * share, duration(left));
    std::fflush(stderr);
  }
  void finish(const Json& event) {
    clear();
    fmt::print(stderr, "{} in {}, root mean square error {:.2e}, cosine {:.6f}\n",
               size_text(event["to_bytes"]), duration(event.value("seconds", 0.0)),
               event.value("rmse", 0.0), event.value("cosine", 0.0));
    fmt::print("{}\n", event.value("out", ""));
  }
  void clear() const {
    if (bar_ && !json_) fmt::print(stderr, "\r\033[K");
  }

  bool json_, bar_;
  std::stop_token stop_;
  std::chrono::steady_clock::time_point started_ = std::chrono::steady_clock::now();
};

}  // namespace

int run_quantize(std::span<const std::string> arguments) {
  QuantizeOptions o;
  bool list = false, json = false;
  CommandLine line("quantize", "Writes a model file in another encoding.");
  line.positional("IN", o.in,
                  "a .safetensors, .gguf or .ckpt file, an index of shards, or a folder");
  line.positional("OUT", o.out, "the file to write: .gguf, or .safetensors for floats and fp8");
  line.text("-t,--type", "NAME", o.type, "what to write, for instance Q4_K_M; see --list");
  line.flag("--list", list, "list the types and end");
  line.path("--imatrix", "FILE", o.imatrix,
            "spare the input channels that matter most, as this file says: from 'atelier generate "
            "--collect-imatrix' or llama.cpp");
  line.path("--report", "FILE", o.report, "write every tensor's encoding and error there, as JSON");
  line.integer("--threads", o.threads, 0, 1024, "threads to use; 0: all processors");
  line.flag("--overwrite", o.overwrite, "replace OUT and the report if they exist");
  line.flag("--json", json, "print one JSON object per line");
  line.footer(
      "What is sensitive (first and last layers, times and sizes) and all vectors stay floats; "
      "rows "
      "that suit no block of the type get the nearest encoding that fits.");
  if (!line.parse(arguments)) return 0;
  if (!list) check_quantize_options(o);
  const Interrupt interrupt("Stopping after these few megabytes; no file will be left");
  QuantizeHost host(json, interrupt.token());
  return load_engine().quantize(list ? QuantizeOptions{} : o, host);
}

}  // namespace atelier
