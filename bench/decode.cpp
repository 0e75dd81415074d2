// Decoding of every encoding against memcpy of the same output.
//
//   decode_bench [--json] [--threads N] [--rounds N] [--megabytes N] [--only TEXT]
//
// Weights are decoded as the engine reads them, with the scales files have beside them
// (decode_scales.h). Before anything is timed and after, the first and the last million elements
// are compared, bit for bit, with the plain decoder's fp32, scaled and rounded here; a wrong one
// ends the program with exit code 1. Decoder and memcpy take turns, on as many threads each;
// figures are medians in GB/s of output. Prints a table, or with --json a list of {name, unit,
// ours, peer, peer_name, dtype, isa}.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstring>
#include <iostream>
#include <random>

#include "base/error.h"
#include "base/json.h"
#include "decode_scales.h"
#include "quant/codec/codec.h"
#include "quant/codec/float_codes.h"
#include "quant/codec/tables.h"
#include "timing.h"

namespace atelier {
namespace {

struct Options {
  bool json = false;
  int threads = 2;
  int rounds = 7;
  int64_t megabytes = 96;
  std::string only;
};

/// Bytes whose fp16 scales are finite and below 2, as a file's are.
std::vector<std::byte> tame_bytes(size_t count) {
  std::mt19937_64 random(1);
  std::vector<std::byte> bytes(count + 8);
  for (size_t i = 0; i < count; i += 8) {
    const uint64_t word = random() & 0x3fff3fff3fff3fffULL;
    std::memcpy(bytes.data() + i, &word, 8);
  }
  bytes.resize(count);
  return bytes;
}

/// What is measured: an encoding, and the scales it has beside it.
struct Subject {
  Encoding encoding;
  ScaleKind scales = ScaleKind::none;
  const char* said = "";  // of the scales
  std::string name() const { return std::string(encoding_info(encoding).name) + said; }
};

constexpr Subject kScaled[] = {
    {Encoding::nf4, ScaleKind::blocks},
    {Encoding::nf4, ScaleKind::nested, ", nested scales"},
    {Encoding::fp4, ScaleKind::blocks},
    {Encoding::fp4, ScaleKind::nested, ", nested scales"},
    {Encoding::e2m1, ScaleKind::nvfp4, ", NVFP4 scales"},
    {Encoding::f8_e4m3, ScaleKind::one, ", one scale"},
    {Encoding::f8_e4m3, ScaleKind::tiles, ", tiles"},
    {Encoding::f8_e4m3, ScaleKind::mxfp8, ", MXFP8 scales"},
    {Encoding::i8, ScaleKind::rows, ", scales of rows"},
};

/// All encodings that files have by themselves, and those with scales.
std::vector<Subject> subjects() {
  std::vector<Subject> all;
  for (const EncodingTraits& row : codec_tables().back().decoders)
    if (row.encoding != Encoding::nf4 && row.encoding != Encoding::fp4 &&
        row.encoding != Encoding::e2m1)
      all.push_back({row.encoding});
  all.insert(all.end(), std::begin(kScaled), std::end(kScaled));
  return all;
}

/// Elements `first` to `last` by the table in use, in `found`, and by the plain one in fp32.
void check_part(const TensorInfo& info, std::span<const std::byte> bytes, const BenchScales& scales,
                std::span<const std::byte> found, int64_t first, int64_t last,
                std::string_view name) {
  const EncodingInfo& encoding = encoding_info(info.encoding);
  const auto plain =
      std::ranges::find(codec_tables().front().decoders, info.encoding, &EncodingTraits::encoding);
  std::vector<float> wanted(static_cast<size_t>(last - first));
  plain->decode[static_cast<size_t>(Number::f32)](
      bytes.data() + first / encoding.block_elements * encoding.block_bytes, last - first,
      wanted.data());
  for (int64_t i = first; i < last; ++i) {
    uint16_t is = 0;
    std::memcpy(&is, found.data() + 2 * i, 2);
    const float code = wanted[static_cast<size_t>(i - first)];
    const uint16_t should = float_to_bfloat16(info.scaling ? code * scales.of_element(i) : code);
    if (is != should)
      throw Error(ErrorCode::mismatch, {.subject = fmt::format("{}, element {}", name, i),
                                        .expected = fmt::format("{:04x}", should),
                                        .found = fmt::format("{:04x}", is)});
  }
}

/// The first million elements and the last.
void check(const TensorInfo& info, std::span<const std::byte> bytes, const BenchScales& scales,
           std::span<const std::byte> found, std::string_view name) {
  const int64_t block = encoding_info(info.encoding).block_elements, elements = info.elements();
  const int64_t some = std::min<int64_t>(elements, 1 << 20) / block * block;
  check_part(info, bytes, scales, found, 0, some, name);
  check_part(info, bytes, scales, found, elements - some, elements, name);
}

Json measure(const Subject& subject, std::span<const std::byte> source, std::span<std::byte> out,
             const Options& options) {
  const EncodingInfo& encoding = encoding_info(subject.encoding);
  const std::string name = subject.name();
  const int64_t unit = subject.scales == ScaleKind::none ? encoding.block_elements : kScaledWidth;
  const int64_t elements = static_cast<int64_t>(out.size()) / 2 / unit * unit;
  const auto bytes =
      source.first(static_cast<size_t>(elements / encoding.block_elements * encoding.block_bytes));
  const BenchScales scales(subject.scales, elements);
  const TensorInfo info{.shape = {elements},
                        .encoding = subject.encoding,
                        .size = bytes.size(),
                        .scaling = scales.scaling()};
  const auto to = out.first(static_cast<size_t>(elements) * 2);
  const SpawnParallel parallel(options.threads);
  const auto decoding = [&] { decode_range(bytes, info, 0, Number::bf16, to, parallel, name); };
  const auto copying = [&] {
    parallel_for(parallel, options.threads, [&](int64_t begin, int64_t end) {
      const size_t share = to.size() / static_cast<size_t>(options.threads);
      std::memcpy(to.data() + static_cast<size_t>(begin) * share,
                  source.data() + static_cast<size_t>(begin) * share,
                  static_cast<size_t>(end - begin) * share);
    });
  };
  std::vector<double> ours, peer;
  decoding();
  check(info, bytes, scales, to, name);
  for (int round = 0; round < options.rounds; ++round) {
    peer.push_back(seconds_of(copying));
    ours.push_back(seconds_of(decoding));
  }
  check(info, bytes, scales, to, name);
  const double gigabytes = static_cast<double>(to.size()) * 1e-9;
  return {{"name", "decode " + name},
          {"unit", "GB/s"},
          {"ours", gigabytes / median(ours)},
          {"peer", gigabytes / median(peer)},
          {"peer_name", "memcpy"},
          {"dtype", "bf16"},
          {"isa", codec_tables().back().isa}};
}

void run(const Options& options) {
  const auto size = static_cast<size_t>(options.megabytes) << 20;
  const std::vector<std::byte> source = tame_bytes(size * 4);  // fp64 is the widest
  std::vector<std::byte> out(size);
  Json rows = Json::array();
  for (const Subject& subject : subjects()) {
    if (subject.name().find(options.only) == std::string::npos) continue;
    const Json measured = measure(subject, source, out, options);
    if (!options.json)
      fmt::print("{:30} {:7.2f} {:7.2f} {:6.2f}\n", measured["name"].get<std::string>(),
                 measured["ours"].get<double>(), measured["peer"].get<double>(),
                 measured["ours"].get<double>() / measured["peer"].get<double>());
    std::fflush(stdout);
    rows.push_back(measured);
  }
  if (options.json) fmt::print("{}\n", rows.dump());
}

}  // namespace
}  // namespace atelier

int main(int argc, char** argv) {
  atelier::Options options;
  CLI::App app("Measures decoding against memcpy.");
  app.add_flag("--json", options.json, "print JSON");
  app.add_option("--threads", options.threads, "threads of both")->check(CLI::Range(1, 1024));
  app.add_option("--rounds", options.rounds, "samples of each")->check(CLI::Range(1, 1000));
  app.add_option("--megabytes", options.megabytes, "of output")->check(CLI::Range(1, 65536));
  app.add_option("--only", options.only, "part of the encodings' names");
  CLI11_PARSE(app, argc, argv);
  try {
    atelier::run(options);
  } catch (const std::exception& error) {
    std::cerr << error.what() << "\n";
    return 1;
  }
}
