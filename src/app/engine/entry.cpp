// The engine library's one symbol, and the last place an exception may reach.
#include <ATen/Parallel.h>
#include <ATen/Version.h>
#include <c10/util/Exception.h>
#include <fmt/format.h>
#include <jpeglib.h>
#include <png.h>
#include <webp/encode.h>

#include <chrono>
#include <filesystem>
#include <functional>

#include <torch/headeronly/version.h>
#include "app/engine/generation.h"
#include "app/engine/identify.h"
#include "app/engine/quantize.h"
#include "app/engine_interface.h"
#include "base/error.h"
#include "base/log.h"
#include "base/one_line.h"
#include "device/device.h"
#include "text/tokenizer.h"

namespace atelier {
namespace {

int report(EngineHost& host, ErrorCode code, const std::string& message) {
  const ErrorInfo& info = error_info(code);
  host.event({{"event", "error"},
              {"code", info.name},
              {"message", one_line(message)},
              {"exit_code", info.exit_code}});
  return info.exit_code;
}

/// libtorch says in words that an allocation failed.
int report_torch(EngineHost& host, const c10::Error& error) {
  std::string message = error.what_without_backtrace();
  message = message.substr(0, message.find('\n'));
  const bool memory = message.find("not enough memory") != message.npos ||
                      message.find("can't allocate memory") != message.npos ||
                      message.find("out of memory") != message.npos;
  if (!memory) return report(host, ErrorCode::internal, message);
  return report(host, ErrorCode::out_of_memory,
                "out of memory. Draw a smaller picture or use --tiled-vae");
}

/// Runs `work`; whatever it throws becomes an "error" event and the exit code.
int guarded(EngineHost& host, const std::function<void()>& work) {
  try {
    work();
    return 0;
  } catch (const Error& error) {
    return report(host, error.code(), error.what());
  } catch (const c10::Error& error) {
    return report_torch(host, error);
  } catch (const std::bad_alloc&) {
    return report(host, ErrorCode::out_of_memory, "out of memory");
  } catch (const std::exception& error) {
    return report(host, ErrorCode::internal, error.what());
  }
}

int generate(const GenerateOptions& options, EngineHost& host,
             std::chrono::steady_clock::time_point started) {
  log::set_up(options.verbose);
  return guarded(host, [&] { Generation(options, host, started).run(); });
}

int identify(const std::filesystem::path& path, EngineHost& host) {
  return guarded(host, [&] {
    Json event = {{"event", "model"}};
    event.update(identify_model(path));
    host.event(event);
  });
}

int quantize(const QuantizeOptions& options, EngineHost& host) {
  return guarded(host, [&] {
    if (options.in.empty())
      list_quant_types(host);
    else
      quantize_file(options, host);
  });
}

std::string webp_version() {
  const int version = WebPGetEncoderVersion();
  return fmt::format("{}.{}.{}", version >> 16, version >> 8 & 255, version & 255);
}

Json libraries() {
  return {{"libtorch", TORCH_VERSION},
          {"onednn", at::get_mkldnn_version()},
          {"mkl", at::get_mkl_version()},
          {"libpng", png_get_libpng_ver(nullptr)},
          {"libjpeg", fmt::format("API {}", JPEG_LIB_VERSION)},
          {"libwebp", webp_version()}};
}

Json device_rows() {
  Json rows = Json::array();
  for (const Device device : devices()) {
    const DeviceMemory memory = device_memory(device);
    rows.push_back(
        {{"name", to_string(device)},
         {"detail", fmt::format("{} of {} free, computes in {}", to_string(memory.free),
                                to_string(memory.total), dtype_name(default_dtype(device, {})))}});
  }
  return rows;
}

Json findings() {
  Json rows = Json::array();
  const std::filesystem::path vocabulary = ClipTokenizer::default_vocabulary();
  std::error_code none;
  if (!std::filesystem::exists(vocabulary, none))
    rows.push_back({{"state", "missing"},
                    {"what", "CLIP vocabulary"},
                    {"detail", vocabulary.string()},
                    {"fix", "make setup"}});
  return rows;
}

int describe(EngineHost& host) {
  return guarded(host, [&] {
    host.event({{"event", "engine"},
                {"build", ATELIER_VERSION},
                {"libraries", libraries()},
                {"devices", device_rows()},
                {"findings", findings()}});
  });
}

}  // namespace
}  // namespace atelier

extern "C" __attribute__((visibility("default"))) const atelier::EngineInterface*
atelier_engine_interface() {
  static constexpr atelier::EngineInterface kInterface = {
      .version = atelier::kEngineVersion,
      .options_size = sizeof(atelier::GenerateOptions),
      .build = ATELIER_VERSION,
      .generate = atelier::generate,
      .identify = atelier::identify,
      .quantize = atelier::quantize,
      .describe = atelier::describe};
  return &kInterface;
}
