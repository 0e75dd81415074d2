// Decoding of every encoding against memcpy of the same output.
//
//   decode_bench [--json] [--threads N] [--rounds N] [--megabytes N] [--only TEXT]
//
// Weights are decoded as the engine reads them: NF4 and FP4 under scales of blocks, which are fp32
// or encoded themselves. Before anything is timed, each result is compared, bit for bit, with the
// plain decoder's fp32, scaled and rounded here; a wrong one ends the program with exit code 1.
// Decoder and memcpy take turns, on as many threads each; figures are medians in GB/s of output.
// Prints a table, or with --json a list of {name, unit, ours, peer, peer_name, dtype, isa}.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstring>
#include <iostream>
#include <memory>
#include <random>

#include "base/error.h"
#include "base/json.h"
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

/// The scales of a tensor as bitsandbytes makes them: fp32 for every block of codes, or codes of 8
/// bits that have a table, an offset and such scales themselves.
class BlockScales {
 public:
  BlockScales(int64_t elements, bool nested) {
    std::mt19937 random(2);
    std::uniform_real_distribution<float> magnitude(0.02F, 0.1F);
    const auto blocks = static_cast<size_t>((elements + kBlock - 1) / kBlock);
    scales_.resize(nested ? (blocks + kNestedBlock - 1) / kNestedBlock : blocks);
    for (float& scale : scales_) scale = magnitude(random);
    if (!nested) return;
    for (int code = 0; code < 256; ++code)
      table_.push_back((static_cast<float>(code) - 127.5F) / 255);
    codes_.resize(blocks);
    for (std::byte& code : codes_) code = static_cast<std::byte>(random() & 0xff);
  }

  /// As range.cpp has it, computed another way.
  float of_element(size_t index) const {
    const size_t block = index / kBlock;
    if (codes_.empty()) return scales_[block];
    // A product in double is exact: rounding it is a step that no compiler joins with the sum.
    const double product = static_cast<double>(table_[static_cast<size_t>(codes_[block])]) *
                           static_cast<double>(scales_[block / kNestedBlock]);
    return static_cast<float>(product) + kOffset;
  }

  std::shared_ptr<const Scaling> scaling(int64_t elements) const {
    const std::span scales = std::as_bytes(std::span(scales_));
    Scaling scaling{
        .name = "absmax", .scales = scales, .columns = elements, .tile_columns = kBlock};
    if (!codes_.empty()) {
      scaling.nested = NestedScales{.table = std::as_bytes(std::span(table_)),
                                    .scales = scales,
                                    .block = kNestedBlock,
                                    .offset = kOffset};
      scaling.scales = codes_;
      scaling.encoding = Encoding::u8;
    }
    return std::make_shared<const Scaling>(std::move(scaling));
  }

 private:
  static constexpr int64_t kBlock = 64, kNestedBlock = 256;
  static constexpr float kOffset = 0.05F;
  std::vector<float> scales_, table_;
  std::vector<std::byte> codes_;
};

/// What is measured: an encoding, and the scales it has beside it.
struct Subject {
  Encoding encoding;
  enum { no_scales, scales, nested_scales } kind = no_scales;
  std::string name() const {
    return fmt::format("{}{}", encoding_info(encoding).name,
                       kind == nested_scales ? ", nested scales" : "");
  }
};

std::vector<Subject> subjects() {
  std::vector<Subject> all;
  for (const EncodingTraits& row : codec_tables().back().decoders) {
    const bool scaled = row.encoding == Encoding::nf4 || row.encoding == Encoding::fp4 ||
                        row.encoding == Encoding::e2m1;
    all.push_back({row.encoding, scaled ? Subject::scales : Subject::no_scales});
    if (scaled) all.push_back({row.encoding, Subject::nested_scales});
  }
  return all;
}

/// The first million elements by the table in use, and by the plain one in fp32.
void check(const TensorInfo& info, std::span<const std::byte> bytes, const BlockScales& scales,
           std::string_view name) {
  const int64_t block = encoding_info(info.encoding).block_elements;
  const int64_t some = std::min<int64_t>(info.elements(), 1 << 20) / block * block;
  const auto plain =
      std::ranges::find(codec_tables().front().decoders, info.encoding, &EncodingTraits::encoding);
  std::vector<float> wanted(static_cast<size_t>(some));
  plain->decode[static_cast<size_t>(Number::f32)](bytes.data(), some, wanted.data());
  std::vector<uint16_t> found(wanted.size());
  decode_range(bytes, info, 0, Number::bf16, std::as_writable_bytes(std::span(found)),
               SerialParallel(), name);
  for (size_t i = 0; i < found.size(); ++i) {
    const float number = info.scaling ? wanted[i] * scales.of_element(i) : wanted[i];
    if (found[i] != float_to_bfloat16(number))
      throw Error(ErrorCode::mismatch,
                  {.subject = fmt::format("{}, element {}", name, i),
                   .expected = fmt::format("{:04x}", float_to_bfloat16(number)),
                   .found = fmt::format("{:04x}", found[i])});
  }
}

Json measure(const Subject& subject, std::span<const std::byte> source, std::span<std::byte> out,
             const Options& options) {
  const EncodingInfo& encoding = encoding_info(subject.encoding);
  const std::string name = subject.name();
  const int64_t elements =
      static_cast<int64_t>(out.size()) / 2 / encoding.block_elements * encoding.block_elements;
  const auto bytes =
      source.first(static_cast<size_t>(elements / encoding.block_elements * encoding.block_bytes));
  const BlockScales scales(elements, subject.kind == Subject::nested_scales);
  const TensorInfo info{
      .shape = {elements},
      .encoding = subject.encoding,
      .size = bytes.size(),
      .scaling = subject.kind == Subject::no_scales ? nullptr : scales.scaling(elements)};
  const auto to = out.first(static_cast<size_t>(elements) * 2);
  check(info, bytes, scales, name);
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
  copying();
  for (int round = 0; round < options.rounds; ++round) {
    ours.push_back(seconds_of(decoding));
    peer.push_back(seconds_of(copying));
  }
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
      fmt::print("{:26} {:7.2f} {:7.2f} {:6.2f}\n", measured["name"].get<std::string>(),
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
