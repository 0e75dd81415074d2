// The engine as a process that answers JSON lines, so that a driver can let it take turns with
// others.
//
//   {"op":"load","part":"unet"|"vae","folder":F,"dtype":"fp32"|"bf16","threads":N,"keep":BYTES,
//    "int8":true}
//       F may be any checkpoint; with "keep" at most so many bytes of weights stay prepared, with
//       "int8" Q8_0 matrices are multiplied as 8-bit integers
//   {"op":"loras","files":[FILE...],"strength":S}   in place of those before; prepares what changes
//   {"op":"run","input":FILE,"output":FILE}   safetensors with sample, timestep, context and for
//       some models vector and guidance, or latent
//   {"op":"quit"}
// Answers {"ready":true,"streaming_mb":M,"int8_layers":N} (what a denoiser of 512x512 pictures,
// batch 2, needs beside the program if no weight stays prepared: the stored ones, two prepared ones
// and activations), {"seconds":S,"peak_rss_mb":M,"program_mb":M} (the call alone; the most memory
// this process ever had; what of its code and libraries is in memory; in millions of bytes) or
// {"error":TEXT}.
#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <c10/core/InferenceMode.h>

#include <chrono>
#include <fstream>
#include <iostream>
#include <optional>

#include "base/error.h"
#include "base/json.h"
#include "device/cpu/allocation.h"
#include "device/device.h"
#include "device/memory_info.h"
#include "device/torch_allocator.h"
#include "formats/checkpoint.h"
#include "formats/model_folder.h"
#include "formats/safetensors.h"
#include "models/model.h"
#include "models/vae.h"
#include "nn/layers.h"
#include "pipeline/loras.h"
#include "quant/decode.h"

namespace atelier {
namespace {

using at::Tensor;

Tensor read_tensor(const TensorSource& file, std::string_view name) {
  const TensorInfo& info = file.tensors().at(std::string(name));
  Tensor tensor = at::empty(info.shape, at::kFloat);
  decode(file.bytes(name), info.encoding, tensor, name);
  return tensor;
}

void write_tensor(const std::filesystem::path& path, const Tensor& tensor) {
  const Tensor result = tensor.to(at::kFloat).contiguous();
  const TensorSpec spec{"result", result.sizes().vec(), Encoding::f32};
  write_safetensors(path, std::span(&spec, 1), [&](size_t) {
    return std::as_bytes(std::span(result.const_data_ptr<float>(), size_t(result.numel())));
  });
}

/// Resident code and libraries.
double program_megabytes() {
  std::ifstream maps("/proc/self/smaps");
  double kilobytes = 0;
  bool counts = false;
  for (std::string line; std::getline(maps, line);) {
    const bool header = line.find("-") < line.find(" ") && line.find("kB") == line.npos;
    if (header) counts = line.find(".so") != line.npos || line.find("bench_worker") != line.npos;
    if (counts && line.starts_with("Rss:")) kilobytes += std::stod(line.substr(4));
  }
  return kilobytes * 1024e-6;
}

/// One loaded part and how it is called.
class Part {
 public:
  explicit Part(const Json& job) {
    at::set_num_threads(job.at("threads").get<int>());
    const Compute compute{.device = {},
                          .dtype = parse_dtype(job.at("dtype").get<std::string>()),
                          .rounded = {},
                          .int8 = job.value("int8", false)};
    const auto source = open_source(job.at("folder").get<std::string>());
    BindReport report;
    if (job.at("part") == "unet") {
      const Detected found = detect_model(source);
      def_ = found.def;
      unet_ = load_part(found.def->denoiser, source, found.denoiser, residency_, report, compute);
      for (const auto& [name, shape] : report.manifest()) weights_[name] = shape;
    } else {
      constexpr std::string_view kPrefixes[] = {"vae."};
      const auto place = recognise(kl_vae, source, kPrefixes);
      if (!place)
        throw Error(ErrorCode::mismatch, {.subject = source->label(), .expected = "no VAE"});
      vae_ = load_part(kl_vae, source, *place, residency_, report, compute);
    }
    report.throw_if_bad(source->label());
    if (job.contains("keep")) residency_.keep({.prepared = Bytes(job.at("keep").get<int64_t>())});
    residency_.prepare_all();
  }

  /// Of a denoiser.
  Bytes streaming_bytes() const {
    const Residency::Needs needs = residency_.needs();
    return needs.stored + needs.largest + needs.largest + unet_->activation_bytes(2, 64, 64);
  }
  int64_t int8_layers() const { return residency_.count_form(nn::kInt8Form); }
  bool is_denoiser() const { return unet_ != nullptr; }

  double set_loras(const Json& job) {
    std::vector<LoraUse> uses;
    for (const Json& file : job.at("files"))
      uses.push_back({.file = file.get<std::string>(), .strength = job.value("strength", 1.0)});
    if (!unet_) throw Error(ErrorCode::invalid_argument, {.expected = "LoRAs need a denoiser"});
    const LoraModel model{
        def_->name, def_->title, {{"denoiser", true, def_->denoiser.layouts, &weights_}}};
    const auto start = std::chrono::steady_clock::now();
    LoraShelf::Result result = shelf_.use(uses, model);
    residency_.set_patches(std::move(result.tables[0]));
    residency_.prepare_all();
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  }

  double run(const Json& job) {
    const auto file = open_checkpoint(job.at("input").get<std::string>());
    const auto seconds = [&, start = std::chrono::steady_clock::now()] {
      return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    };
    Tensor result;
    double spent = 0;
    if (unet_) {
      const Tensor x = read_tensor(*file, "sample"), t = read_tensor(*file, "timestep");
      const Tensor context = read_tensor(*file, "context");
      DiffusionInput input;
      input.x = x;
      if (file->tensors().contains("vector")) input.vector = read_tensor(*file, "vector");
      if (file->tensors().contains("guidance")) input.guidance = read_tensor(*file, "guidance");
      input.timestep = t.expand({x.size(0)});
      // A new context each call: keys and values of the prompt are part of what is timed.
      const double before = seconds();
      input.context = nn::Context(context);
      result = unet_->forward(input);
      spent = seconds() - before;
    } else {
      const Tensor latent = read_tensor(*file, "latent");
      const double before = seconds();
      result = vae_->decode(latent);
      spent = seconds() - before;
    }
    if (job.contains("output")) write_tensor(job.at("output").get<std::string>(), result);
    return spent;
  }

 private:
  Residency residency_;
  const ModelDef* def_ = nullptr;
  WeightShapes weights_;
  LoraShelf shelf_;
  std::unique_ptr<DiffusionModel> unet_;
  std::unique_ptr<Vae> vae_;
};

Json answer(const Json& job, std::unique_ptr<Part>& part) {
  if (job.at("op") == "load") {
    part = std::make_unique<Part>(job);
    Json reply{{"ready", true}, {"int8_layers", part->int8_layers()}};
    if (part->is_denoiser())
      reply["streaming_mb"] = 1e-6 * static_cast<double>(part->streaming_bytes().count());
    return reply;
  }
  if (!part) throw Error(ErrorCode::invalid_argument, {.expected = "load before run"});
  const double seconds = job.at("op") == "loras" ? part->set_loras(job) : part->run(job);
  const auto peak = static_cast<double>(read_process_memory().peak.count());
  return {{"seconds", seconds}, {"peak_rss_mb", 1e-6 * peak}, {"program_mb", program_megabytes()}};
}

}  // namespace
}  // namespace atelier

int main() {
  atelier::tune_allocator();
  atelier::use_arena_for_tensors();
  const c10::InferenceMode guard;
  std::unique_ptr<atelier::Part> part;
  for (std::string line; std::getline(std::cin, line);) {
    atelier::Json reply;
    try {
      const atelier::Json job = atelier::parse_json(line, "job");
      if (job.at("op") == "quit") break;
      reply = atelier::answer(job, part);
    } catch (const std::exception& error) {
      reply = {{"error", error.what()}};
    }
    std::cout << reply.dump() << std::endl;
  }
}
