// `atelier inspect`: what a checkpoint file holds, without reading its tensors.
#include <fmt/format.h>

#include <algorithm>
#include <cstdio>

#include "app/command_line.h"
#include "app/commands.h"
#include "app/engine_loader.h"
#include "app/option_checks.h"
#include "base/bytes.h"
#include "base/error.h"
#include "base/one_line.h"
#include "formats/model_folder.h"
#include "formats/summary.h"

namespace atelier {
namespace {

struct InspectOptions {
  std::filesystem::path file;
  bool tensors = false;
  bool json = false;
};

/// Keeps the engine's "model" event, or the "error" event in its place.
class Listener final : public EngineHost {
 public:
  void event(const Json& event) override { last = event; }
  std::stop_token stop() const override { return {}; }
  Json last;
};

/// What the engine recognises in the file: family, name and parts, or "error" with the reason.
Json identify(const std::filesystem::path& file) {
  try {
    Listener listener;
    load_engine().identify(file, listener);
    listener.last.erase("event");
    if (listener.last.contains("message")) return {{"error", listener.last["message"]}};
    return listener.last;
  } catch (const Error& error) {
    return {{"error", error.what()}};
  }
}

/// "859.5 M"
std::string count_text(uint64_t count) {
  const auto value = static_cast<double>(count);
  if (value >= 1e9) return fmt::format("{:.2f} G", value / 1e9);
  if (value >= 1e6) return fmt::format("{:.1f} M", value / 1e6);
  if (value >= 1e3) return fmt::format("{:.1f} k", value / 1e3);
  return std::to_string(count);
}

std::string size_text(uint64_t bytes) { return to_string(Bytes(static_cast<int64_t>(bytes))); }

/// Text from the file, not longer than about `longest` bytes.
std::string cell(std::string_view text, size_t longest) {
  return shortened(one_line(text), longest);
}

/// "Q4_K", or "F8_E4M3 scaled" where other tensors hold its scales.
std::string encoding_text(Encoding encoding, bool scaled) {
  return fmt::format("{}{}", encoding_info(encoding).name, scaled ? " scaled" : "");
}

/// Rows of picture sizes, columns of memory.
void print_fits(const Json& fits) {
  fmt::print(
      "fits          the finest 'atelier quantize --type' for pictures of a size, by memory\n  "
      "{:12}",
      "");
  for (const Json& memory : fits["memory"]) fmt::print("{:>11}", size_text(memory.get<uint64_t>()));
  bool any_tiled = false;
  for (const Json& row : fits["rows"]) {
    fmt::print("\n  {:12}", fmt::format("{}x{}", row.value("width", 0), row.value("height", 0)));
    for (size_t i = 0; i < row["types"].size(); ++i) {
      const std::string type = row["types"][i];
      const bool tiled = row["tiled"][i];
      any_tiled |= tiled;
      fmt::print("{:>11}", type.empty() ? "-" : type + (tiled ? "*" : ""));
    }
  }
  fmt::print("\n{}", any_tiled ? "  * with --tiled-vae\n" : "");
  const auto missing = fits["missing"].get<std::vector<std::string>>();
  if (!missing.empty())
    fmt::print("  without {}, which this file lacks: each needs room while it computes\n",
               fmt::join(missing, ", "));
}

void print(const Summary& summary, const TensorSource& source, const Json& model, bool tensors) {
  fmt::print("file          {}\n", one_line(summary.label));
  fmt::print("kind          {}, {} of tensors\n", summary.format, size_text(summary.bytes));
  if (model.contains("error")) {
    fmt::print("architecture  not recognised: {}\n", cell(model.value("error", ""), 2000));
  } else {
    fmt::print("architecture  {}\n", model.value("name", ""));
    for (const auto& [part, text] : model["parts"].items())
      fmt::print("  {:<18} {}\n", part, text.get<std::string>());
    if (model.contains("fits") && model["fits"].is_object()) print_fits(model["fits"]);
  }
  fmt::print("tensors       {}, {} values\n", summary.tensors, count_text(summary.parameters));
  const bool scaled = std::ranges::any_of(summary.encodings, &EncodingShare::scaled);
  const int width = scaled ? 15 : 8;
  for (const EncodingShare& share : summary.encodings)
    fmt::print("  {:<{}} {:>6} tensors {:>9} values {:>10}\n",
               encoding_text(share.encoding, share.scaled), width, share.tensors,
               count_text(share.elements), size_text(share.bytes));
  constexpr size_t kLongest = 100;
  if (!source.metadata().empty()) fmt::print("metadata\n");
  for (const auto& [key, value] : source.metadata())
    fmt::print("  {} = {}\n", cell(key, kLongest), cell(value, kLongest));
  if (!tensors) return;
  fmt::print("\n");
  for (const auto& [name, info] : source.tensors())
    fmt::print("{:<{}} {:>10}  {} {}\n", encoding_text(info.encoding, info.scaling != nullptr),
               width, size_text(info.size), cell(name, 1000), to_string(info.shape));
}

void print_json(const Summary& summary, const TensorSource& source, const Json& model,
                bool tensors) {
  Json shares = Json::array();
  for (const EncodingShare& share : summary.encodings)
    shares.push_back({{"encoding", encoding_info(share.encoding).name},
                      {"scaled", share.scaled},
                      {"tensors", share.tensors},
                      {"values", share.elements},
                      {"bytes", share.bytes}});
  Json report = {
      {"file", summary.label},      {"kind", summary.format},       {"model", model},
      {"tensors", summary.tensors}, {"values", summary.parameters}, {"bytes", summary.bytes},
      {"encodings", shares},        {"metadata", source.metadata()}};
  if (tensors) {
    Json list = Json::array();
    for (const auto& [name, info] : source.tensors())
      list.push_back({{"name", name},
                      {"encoding", encoding_info(info.encoding).name},
                      {"scaled", info.scaling != nullptr},
                      {"shape", info.shape},
                      {"bytes", info.size}});
    report["tensor_list"] = list;
  }
  fmt::print("{}\n", report.dump(2, ' ', false, Json::error_handler_t::replace));
}

}  // namespace

int run_inspect(std::span<const std::string> arguments) {
  InspectOptions options;
  CommandLine line("inspect", "Says what a checkpoint file or folder holds.");
  line.positional("FILE", options.file,
                  "a .safetensors, .gguf or .ckpt file, an index of shards, or a folder");
  line.flag("--tensors", options.tensors, "also list every tensor");
  line.flag("--json", options.json, "print one JSON object");
  if (!line.parse(arguments)) return 0;
  if (options.file.empty())
    throw Error(ErrorCode::invalid_argument, {.expected = "a file to inspect is needed",
                                              .hint = "See 'atelier inspect --help'"});
  check_readable(options.file, "inspect", Wanted::either);
  const auto source = open_source(options.file);
  const Summary summary = summarise(*source);
  const Json model = identify(options.file);
  if (options.json)
    print_json(summary, *source, model, options.tensors);
  else
    print(summary, *source, model, options.tensors);
  return 0;
}

}  // namespace atelier
