// Decoding of every encoding against memcpy of the same output.
//
//   decode_bench [--json] [--threads N] [--rounds N] [--megabytes N] [--only TEXT]
//
// Each encoding's result is compared with the plain decoder's, bit for bit, before anything is
// timed; a wrong one ends the program with exit code 1. Decoder and memcpy take turns, on as many
// threads each; figures are medians in GB/s of output. Prints a table, or with --json a list of
// {name, unit, ours, peer, peer_name, dtype, isa}.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstring>
#include <iostream>
#include <random>

#include "base/error.h"
#include "base/json.h"
#include "quant/codec/codec.h"
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

/// The first million elements by the table in use and by the plain one.
void check(const EncodingTraits& row, std::span<const std::byte> bytes, int64_t elements) {
  const EncodingInfo& info = encoding_info(row.encoding);
  const int64_t some =
      std::min<int64_t>(elements, 1 << 20) / info.block_elements * info.block_elements;
  for (const EncodingTraits& plain : codec_tables().front().decoders) {
    if (plain.encoding != row.encoding) continue;
    std::vector<std::byte> quick(static_cast<size_t>(some) * 2), slow(quick.size());
    row.decode[static_cast<size_t>(Number::bf16)](bytes.data(), some, quick.data());
    plain.decode[static_cast<size_t>(Number::bf16)](bytes.data(), some, slow.data());
    if (quick != slow)
      throw Error(ErrorCode::mismatch,
                  {.subject = std::string(info.name), .expected = "the plain decoder's bits"});
  }
}

Json measure(const EncodingTraits& row, std::span<const std::byte> source, std::span<std::byte> out,
             const Options& options) {
  const EncodingInfo& info = encoding_info(row.encoding);
  const int64_t elements =
      static_cast<int64_t>(out.size()) / 2 / info.block_elements * info.block_elements;
  const auto bytes =
      source.first(static_cast<size_t>(elements / info.block_elements * info.block_bytes));
  const auto to = out.first(static_cast<size_t>(elements) * 2);
  check(row, bytes, elements);
  const SpawnParallel parallel(options.threads);
  const auto decoding = [&] { decode(bytes, row.encoding, Number::bf16, to, parallel, info.name); };
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
  copying();
  for (int round = 0; round < options.rounds; ++round) {
    ours.push_back(seconds_of(decoding));
    peer.push_back(seconds_of(copying));
  }
  const double gigabytes = static_cast<double>(to.size()) * 1e-9;
  return {{"name", fmt::format("decode {}", info.name)},
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
  for (const EncodingTraits& row : codec_tables().back().decoders) {
    const std::string name(encoding_info(row.encoding).name);
    if (name.find(options.only) == name.npos) continue;
    const Json measured = measure(row, source, out, options);
    if (!options.json)
      fmt::print("{:18} {:7.2f} {:7.2f} {:6.2f}\n", measured["name"].get<std::string>(),
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
