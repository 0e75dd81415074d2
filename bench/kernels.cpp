// Attention of the engine's kernels against libtorch's on the shapes of Stable Diffusion and DiT.
//
//   kernels_bench [--json] [--threads N] [--rounds N] [--isa NAME] [--only TEXT]
//
// --isa limits the engine alone; libtorch cannot be limited.
// Both results are compared with a double-precision reference of some heads, and with each other
// in full, before anything is timed; a wrong one ends the program with exit code 1. The two take
// turns; the figures are medians in GFLOP/s, more is better. Keys and values are packed anew in
// every call. Prints a table, or with --json a list of {name, unit, ours, peer, peer_name, dtype,
// isa, error, peer_error}.
#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <c10/core/InferenceMode.h>
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <functional>
#include <iostream>

#include "base/error.h"
#include "base/json.h"
#include "device/cpu/allocation.h"
#include "device/torch_allocator.h"
#include "nn/cpu.h"
#include "timing.h"

namespace atelier {
namespace {

using at::Tensor;

constexpr double kLeastSample = 0.02;  // seconds; shorter calls are repeated within a sample
constexpr double kPatience = 4;  // seconds per shape and dtype after which rounds end early
constexpr size_t kLeastRounds = 3;

struct Shape {
  const char* name;
  int64_t batch, heads, queries, keys, head_size;
};
constexpr Shape kShapes[] = {
    {"self 64x64", 2, 8, 4096, 4096, 40}, {"self 32x32", 2, 8, 1024, 1024, 80},
    {"self 16x16", 2, 8, 256, 256, 160},  {"cross 64x64", 2, 8, 4096, 77, 40},
    {"DiT", 1, 24, 2048, 2048, 128},      {"VAE", 1, 1, 4096, 4096, 512},
};

struct Number {
  const char* name;
  at::ScalarType dtype;
  double limit;  // largest error relative to the largest result
};
constexpr Number kNumbers[] = {{"bf16", at::kBFloat16, 2e-2}, {"fp32", at::kFloat, 2e-5}};

struct Options {
  bool json = false;
  int threads = 2;
  size_t rounds = 7;
  std::string isa, only;
};

std::string title(const Shape& s) {
  return fmt::format("attention {} {}x{}x{}, {} head{}", s.name, s.queries, s.keys, s.head_size,
                     s.batch * s.heads, s.batch * s.heads == 1 ? "" : "s");
}

/// Queries, keys and values [B, N, H D], as a layer sees them: parts of one product where they
/// come from one.
struct Inputs {
  Tensor q, k, v;
};

Inputs make_inputs(const Shape& s, at::ScalarType dtype) {
  const int64_t width = s.heads * s.head_size;
  const auto normal = [&](int64_t rows, int64_t columns) {
    return at::randn({s.batch, rows, columns}).to(dtype);
  };
  if (s.queries == s.keys) {
    const auto qkv = normal(s.queries, 3 * width).chunk(3, -1);
    return {qkv[0], qkv[1], qkv[2]};
  }
  const Tensor q = normal(s.queries, width);
  const auto kv = normal(s.keys, 2 * width).chunk(2, -1);
  return {q, kv[0], kv[1]};
}

Tensor split_heads(const Tensor& x, int64_t heads) {
  return x.unflatten(-1, {heads, -1}).transpose(1, 2);
}

Tensor ours(const Shape& s, const Inputs& in) {
  return nn::cpu::attend(in.q, nn::cpu::pack_keys(in.k, in.v, s.heads), {}, false);
}

/// [B, H, N, D], the layout libtorch is given.
Tensor peer(const Inputs& split) {
  return at::scaled_dot_product_attention(split.q, split.k, split.v);
}

double distance(const Tensor& result, const Tensor& reference) {
  const Tensor wanted = reference.to(at::kDouble);
  return ((result.to(at::kDouble) - wanted).abs().max() / wanted.abs().max()).item<double>();
}

/// The largest relative error over the first and the last head.
double error_of(const Shape& s, const Inputs& split, const Tensor& result) {
  double worst = 0;
  for (const bool last : {false, true}) {
    const int64_t b = last ? s.batch - 1 : 0, h = last ? s.heads - 1 : 0;
    const auto head = [&](const Tensor& x) { return x[b][h].to(at::kDouble); };
    const Tensor scores =
        at::matmul(head(split.q), head(split.k).t()) / std::sqrt(static_cast<double>(s.head_size));
    worst = std::max(worst, distance(result[b][h], at::matmul(scores.softmax(-1), head(split.v))));
  }
  return worst;
}

/// One side of the comparison: a call, how often a sample repeats it, and the samples.
struct Side {
  std::function<void()> call;
  int64_t times = 1;
  std::vector<double> seconds = {};

  void warm_up() {
    call();
    times = std::max<int64_t>(1, std::llround(kLeastSample / seconds_of(call, 1)));
  }
  void sample() { seconds.push_back(seconds_of(call, times)); }
};

/// The quicker of the inputs as they lie in the product and copied head by head.
Inputs best_layout(const Inputs& split) {
  const Inputs copied{split.q.contiguous(), split.k.contiguous(), split.v.contiguous()};
  double best[2] = {1e9, 1e9};
  for (int round = 0; round < 3; ++round)
    for (const bool copies : {false, true})
      best[copies] = std::min(best[copies], seconds_of([&] { peer(copies ? copied : split); }, 1));
  return best[1] < best[0] ? copied : split;
}

void require(double error, double limit, const std::string& what) {
  if (error < limit) return;
  throw Error(ErrorCode::mismatch, {.subject = what,
                                    .expected = fmt::format("an error below {:.0e}", limit),
                                    .found = fmt::format("{:.2e}", error)});
}

Json measure(const Shape& s, const Number& number, const Options& options) {
  const Inputs in = make_inputs(s, number.dtype);
  const Inputs split{split_heads(in.q, s.heads), split_heads(in.k, s.heads),
                     split_heads(in.v, s.heads)};
  const std::string name = title(s) + " " + number.name;
  const Tensor mine = split_heads(ours(s, in), s.heads), theirs = peer(split);
  const double my_error = error_of(s, split, mine), their_error = error_of(s, split, theirs);
  require(my_error, number.limit, name + ", ours");
  require(their_error, number.limit, name + ", libtorch's");
  require(distance(mine, theirs), 2 * number.limit, name + ", one against the other");

  const Inputs best = best_layout(split);
  Side sides[] = {{.call = [&] { ours(s, in); }}, {.call = [&] { peer(best); }}};
  for (Side& side : sides) side.warm_up();
  const auto start = Clock::now();
  for (size_t round = 0; round < options.rounds; ++round) {
    if (round >= kLeastRounds && seconds_since(start) > kPatience) break;
    for (Side& side : sides) side.sample();
  }
  const double gflop =
      4e-9 * static_cast<double>(s.batch * s.heads * s.queries * s.keys * s.head_size);
  return {{"name", title(s)},
          {"unit", "GFLOP/s"},
          {"ours", gflop / median(sides[0].seconds)},
          {"peer", gflop / median(sides[1].seconds)},
          {"peer_name", "ATen"},
          {"dtype", number.name},
          {"error", my_error},
          {"peer_error", their_error}};
}

void print_row(const Json& row) {
  const double mine = row["ours"].get<double>(), theirs = row["peer"].get<double>();
  fmt::print("{:46} {} {:8.0f} {:8.0f} {:7.2f} {:10.1e} {:9.1e}\n", row["name"].get<std::string>(),
             row["dtype"].get<std::string>(), mine, theirs, mine / theirs,
             row["error"].get<double>(), row["peer_error"].get<double>());
  std::fflush(stdout);
}

void run(const Options& options) {
  if (!options.isa.empty()) ::setenv("ATELIER_CPU_ISA", options.isa.c_str(), 1);
  const std::string isa(cpu_isa_name(cpu_kernels(detect_cpu_features()).isa));
  at::set_num_threads(options.threads);
  if (!options.json)
    fmt::print("{}, {} threads\n{:46} type     ours     ATen   times   error of ours, ATen's\n",
               isa, options.threads, "GFLOP/s, more is better");
  Json rows = Json::array();
  for (const Number& number : kNumbers)
    for (const Shape& shape : kShapes) {
      if (title(shape).find(options.only) == std::string::npos) continue;
      at::manual_seed(1);
      Json row = measure(shape, number, options);
      row["isa"] = isa;
      if (!options.json) print_row(row);
      rows.push_back(std::move(row));
    }
  if (options.json) std::cout << rows.dump() << std::endl;
}

}  // namespace
}  // namespace atelier

int main(int argc, char** argv) {
  atelier::Options options;
  CLI::App app("Attention against libtorch's, in GFLOP/s");
  app.add_flag("--json", options.json, "a JSON list instead of a table");
  app.add_option("--threads", options.threads)->check(CLI::Range(1, 1024));
  app.add_option("--rounds", options.rounds)->check(CLI::Range(1, 1000));
  app.add_option("--isa", options.isa, "instruction set, as ATELIER_CPU_ISA");
  app.add_option("--only", options.only, "only shapes whose name contains this");
  CLI11_PARSE(app, argc, argv);
  atelier::tune_allocator();
  atelier::use_arena_for_tensors();
  const c10::InferenceMode guard;
  try {
    atelier::run(options);
    return 0;
  } catch (const std::exception& error) {
    std::cerr << error.what() << std::endl;
    return 1;
  }
}
