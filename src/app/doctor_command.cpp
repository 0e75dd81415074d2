// `atelier doctor`: what this machine offers, what the installation has, and how to mend it.
#include <fmt/format.h>

#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <iterator>

#include "app/command_line.h"
#include "app/commands.h"
#include "app/engine_loader.h"
#include "app/machine.h"
#include "base/error.h"

namespace atelier {
namespace {

/// One line of the report. `fix` is the command that helps; only "missing" lines fail the check.
struct Finding {
  const char* state;  // "ok", "note" or "missing"
  std::string what;
  std::string detail;
  std::string fix = {};
};

/// Keeps the engine's "engine" event, or the reason why it could not be had.
class Listener final : public EngineHost {
 public:
  void event(const Json& event) override { last = event; }
  std::stop_token stop() const override { return {}; }
  Json last;
};

Json ask_engine() {
  try {
    Listener listener;
    load_engine().describe(listener);
    return listener.last;
  } catch (const Error& error) {
    return {{"event", "error"}, {"message", error.what()}};
  }
}

void look_at_processor(const CpuFeatures& cpu, std::vector<Finding>& findings) {
  const int threads = cpu.usable_threads();
  findings.push_back({"ok", "processor",
                      fmt::format("{}, {} core{} usable", cpu.model.empty() ? "unknown" : cpu.model,
                                  threads, threads == 1 ? "" : "s")});
  std::string list;
  for (const CpuFlag& flag : cpu_flags())
    if (cpu.*flag.value) list += fmt::format("{} ", flag.name);
  if (cpu.avx512_bf16 || cpu.amx_bf16)
    findings.push_back({"ok", "features", list + "(bf16 is native)"});
  else if (cpu.avx2)
    findings.push_back({"note", "features", list + "(bf16 is not native: fp32 is used)"});
  else
    findings.push_back({"note", "features", list + "(no AVX2: portable kernels, slow)"});
}

void look_at_memory(const MemoryInfo& memory, std::vector<Finding>& findings) {
  const bool small = memory.usable_available() < 4_GiB;
  findings.push_back({small ? "note" : "ok", "memory",
                      fmt::format("{} available of {}{}", to_string(memory.usable_available()),
                                  to_string(memory.usable_total()),
                                  small ? " (SD 1.5 at 512x512 takes about 4 GiB)" : "")});
}

void look_at_engine(const Json& engine, std::vector<Finding>& findings) {
  if (engine.value("event", "") != "engine") {
    findings.push_back(
        {"missing", "engine", engine.value("message", "gave no answer"), "make build"});
    return;
  }
  findings.push_back({"ok", "engine", engine.value("build", "")});
  for (const auto& [name, version] : engine["libraries"].items())
    findings.push_back({"ok", name, version.get<std::string>()});
  for (const Json& device : engine["devices"])
    findings.push_back({device.value("name", "") == "cpu" ? "ok" : "note", device.value("name", ""),
                        device.value("detail", "")});
  for (const Json& row : engine["findings"]) {
    const bool missing = row.value("state", "") == "missing";
    findings.push_back({missing ? "missing" : "note", row.value("what", ""),
                        row.value("detail", ""), row.value("fix", "")});
  }
}

void look_at_gpu(const Machine& m, std::vector<Finding>& findings) {
  findings.push_back(
      {"note", "graphics card",
       m.nvidia_driver.empty()
           ? "no NVIDIA driver; this version draws on the CPU in any case"
           : fmt::format("NVIDIA driver {}, but this version draws on the CPU", m.nvidia_driver)});
}

void print(const std::vector<Finding>& findings) {
  for (const Finding& f : findings) {
    fmt::print("{:<8} {:<16} {}\n", f.state, f.what, f.detail);
    if (!f.fix.empty()) fmt::print("{:<25} to mend it: {}\n", "", f.fix);
  }
}

void print_json(const std::vector<Finding>& findings, const Json& engine) {
  Json list = Json::array();
  for (const Finding& f : findings)
    list.push_back({{"state", f.state}, {"what", f.what}, {"detail", f.detail}, {"fix", f.fix}});
  const Json report = {{"version", ATELIER_VERSION}, {"findings", list}, {"engine", engine}};
  fmt::print("{}\n", report.dump(2, ' ', false, Json::error_handler_t::replace));
}

}  // namespace

int run_doctor(std::span<const std::string> arguments) {
  bool json = false;
  CommandLine line("doctor", "Looks at this machine and this installation.");
  line.flag("--json", json, "print one JSON object");
  line.footer("Leaves with 1 when something needed is missing.");
  if (!line.parse(arguments)) return 0;

  const Machine machine = look_at_machine();
  const Json engine = ask_engine();
  std::vector<Finding> findings = {{"ok", "atelier", ATELIER_VERSION},
                                   {"ok", "system", machine.system}};
  look_at_processor(machine.cpu, findings);
  look_at_memory(machine.memory, findings);
  look_at_engine(engine, findings);
  look_at_gpu(machine, findings);
  json ? print_json(findings, engine) : print(findings);
  const auto missing = std::count_if(findings.begin(), findings.end(), [](const Finding& f) {
    return std::string_view(f.state) == "missing";
  });
  if (!json)
    fmt::print("{}\n", missing == 0 ? "Everything needed is here."
                                    : fmt::format("{} thing{} missing.", missing,
                                                  missing == 1 ? " is" : "s are"));
  return missing == 0 ? 0 : 1;
}

}  // namespace atelier
