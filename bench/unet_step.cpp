// Where a step of a checkpoint's denoiser spends its time: loading, then each kind of kernel.
//
//   unet_step FILE [--size PIXELS] [--batch N] [--dtype fp32|bf16] [--int8] [--threads N]
//   [--steps N] [--ops]
//
// Prints seconds to load and prepare, per step, the memory held, and with --ops each kernel by
// shape instead of by kind. Times of kernels include waiting for threads.
#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <ATen/record_function.h>
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <sys/resource.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <map>

#include "base/error.h"
#include "device/cpu/allocation.h"
#include "device/memory_info.h"
#include "device/torch_allocator.h"
#include "formats/model_folder.h"
#include "models/model.h"
#include "timing.h"

namespace atelier {
namespace {

/// Processor seconds of all threads, which a busy machine inflates less than the clock's.
double processor_seconds() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  const auto seconds = [](const timeval& t) {
    return static_cast<double>(t.tv_sec) + 1e-6 * static_cast<double>(t.tv_usec);
  };
  return seconds(usage.ru_utime) + seconds(usage.ru_stime);
}

struct Line {
  int64_t calls = 0;
  double seconds = 0, processor = 0, gflop = 0;
};

/// Outermost operators and kernels seen by libtorch's own recorder. One thread calls operators.
struct Profile {
  std::map<std::string, Line> lines;
  bool on = false, by_shape = false;
  int depth = 0;
};
Profile profile;

struct Started : at::ObserverContext {
  std::string name;
  double gflop = 0;
  Clock::time_point start;
  double processor = 0;
};

std::string shapes(const at::RecordFunction& record) {
  std::vector<std::string> sizes;
  for (const c10::IValue& input : record.inputs())
    if (input.isTensor() && input.toTensor().defined())
      sizes.push_back(fmt::format("{}", fmt::join(input.toTensor().sizes(), "x")));
  return fmt::format("{}", fmt::join(sizes, " "));
}

// Library products by the shapes of their operands; our own kernels tell theirs. A convolution's
// lists are padding, stride and dilation.
double library_gflop(const at::RecordFunction& record, const std::string& name) {
  if (!name.starts_with("mkldnn::")) return 0;
  std::vector<at::Tensor> tensors;
  std::vector<std::vector<int64_t>> lists;
  for (const c10::IValue& input : record.inputs()) {
    if (input.isTensor() && input.toTensor().defined()) tensors.push_back(input.toTensor());
    if (input.isIntList()) lists.push_back(input.toIntVector());
  }
  if (tensors.size() < 2) return 0;
  const bool in_place = name.ends_with("pointwise_");
  const at::Tensor &x = tensors[in_place ? 1 : 0], &weight = tensors[in_place ? 2 : 1];
  const int64_t pixels = x.numel() / x.size(x.dim() == 4 ? 1 : -1);
  const int64_t stride = lists.size() > 1 ? lists[1][0] * lists[1][1] : 1;
  return 2e-9 * static_cast<double>(weight.numel()) * static_cast<double>(pixels / stride);
}

std::unique_ptr<at::ObserverContext> begin_op(const at::RecordFunction& record) {
  if (!profile.on || profile.depth++ > 0) return nullptr;
  auto started = std::make_unique<Started>();
  started->name = record.name();
  started->gflop = library_gflop(record, started->name);
  if (const size_t comma = started->name.rfind(", "); comma != std::string::npos) {
    started->gflop = std::stod(started->name.substr(comma + 2));
    started->name.resize(profile.by_shape ? comma : started->name.find(' '));
  } else if (profile.by_shape) {
    started->name += " " + shapes(record);
  }
  started->processor = processor_seconds();
  started->start = Clock::now();
  return started;
}

void end_op(const at::RecordFunction&, at::ObserverContext* context) {
  if (!profile.on) return;
  --profile.depth;
  if (!context) return;
  const Started& started = *static_cast<Started*>(context);
  Line& line = profile.lines[started.name];
  ++line.calls;
  line.seconds += seconds_since(started.start);
  line.processor += processor_seconds() - started.processor;
  line.gflop += started.gflop;
}

void set_up_profile() {
  at::addGlobalCallback(at::RecordFunctionCallback(begin_op, end_op)
                            .needsInputs(true)
                            .scopes({at::RecordScope::FUNCTION, at::RecordScope::USER_SCOPE}));
}

void print_profile(int steps, double step) {
  std::vector<std::pair<std::string, Line>> rows(profile.lines.begin(), profile.lines.end());
  std::ranges::sort(
      rows, [](const auto& a, const auto& b) { return a.second.seconds > b.second.seconds; });
  double sum = 0;
  fmt::print("{:44} calls        ms      %  processor ms  GFLOP/s  per processor\n", "");
  for (const auto& [name, line] : rows) {
    sum += line.seconds / steps;
    if (line.seconds / steps < 2e-4) continue;
    fmt::print("{:44} {:5} {:9.2f} {:6.1f} {:13.2f} {:8.0f} {:14.0f}\n", name, line.calls / steps,
               1e3 * line.seconds / steps, 100 * line.seconds / steps / step,
               1e3 * line.processor / steps, line.gflop / line.seconds,
               line.gflop / line.processor);
  }
  fmt::print("{:44}       {:9.2f}\n", "outside kernels", 1e3 * (step - sum));
}

int run(int argc, char** argv) {
  std::string file, dtype = "bf16";
  int64_t size = 512, batch = 2, tokens = 77;
  int threads = 2, steps = 5;
  bool int8 = false;
  CLI::App app("Times a checkpoint's denoiser");
  app.add_option("file", file)->required();
  app.add_option("--size", size);
  app.add_option("--batch", batch);
  app.add_option("--dtype", dtype);
  app.add_flag("--int8", int8);
  app.add_option("--threads", threads);
  app.add_option("--steps", steps);
  app.add_flag("--ops", profile.by_shape);
  CLI11_PARSE(app, argc, argv);
  setvbuf(stdout, nullptr, _IOLBF, 0);
  tune_allocator();
  use_arena_for_tensors();
  at::set_num_threads(threads);
  set_up_profile();

  auto start = Clock::now();
  Residency residency;
  BindReport report;
  const auto source = open_source(file);
  const Detected found = detect_model(source);
  const auto model = load_part(found.def->denoiser, source, found.denoiser, residency, report,
                               {.device = {}, .dtype = parse_dtype(dtype), .int8 = int8});
  report.throw_if_bad(source->label());
  fmt::print("{} bound in {:.3f} s\n", found.def->title, seconds_since(start));
  start = Clock::now();
  double processor = processor_seconds();
  residency.prepare_all();
  fmt::print("prepared in {:.3f} s (processor {:.3f} s), weights {}, memory {}\n",
             seconds_since(start), processor_seconds() - processor,
             to_string(residency.weight_bytes()), to_string(read_process_memory().resident));

  const ModelTraits& traits = model->traits();
  at::manual_seed(1);
  DiffusionInput input;
  input.x = at::randn({batch, traits.in_channels, size / 8, size / 8});
  input.timestep = at::full({batch}, 500.0);
  input.context = nn::Context(at::randn({batch, tokens, traits.context_width}));
  if (traits.vector_width) input.vector = at::randn({batch, traits.vector_width});
  std::vector<double> times;
  for (int i = 0; i <= steps; ++i) {
    profile.on = i > 0;
    start = Clock::now();
    processor = processor_seconds();
    const at::Tensor out = model->forward(input);
    times.push_back(seconds_since(start));
    fmt::print("{}{:.3f} s (processor {:.3f} s), checksum {:.9g}\n", i ? "step " : "first step ",
               times.back(), processor_seconds() - processor,
               out.to(at::kDouble).abs().sum().item<double>());
  }
  times.erase(times.begin());
  double mean = 0;
  for (const double time : times) mean += time / steps;
  std::ranges::sort(times);
  print_profile(steps, mean);
  const ProcessMemory memory = read_process_memory();
  fmt::print("best {:.3f} s, median {:.3f} s; memory {} now, {} at most\n", times.front(),
             times[times.size() / 2], to_string(memory.resident), to_string(memory.peak));
  return 0;
}

}  // namespace
}  // namespace atelier

int main(int argc, char** argv) {
  try {
    return atelier::run(argc, argv);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
}
