// Decoding any elements of a tensor, and the scales that lie beside it. Compiled without
// contraction of sums, so that nested scales are the same on every processor.
#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "base/error.h"
#include "quant/codec/codec.h"

namespace atelier {
namespace {

constexpr int64_t kGrain = 1 << 16;  // elements of a task at least
constexpr int64_t kNone = std::numeric_limits<int64_t>::max();

/// A run of elements, [begin, end).
struct Range {
  int64_t begin, end;
};

float load_float(std::span<const std::byte> from, int64_t index) {
  float value = 0;
  std::memcpy(&value, from.data() + index * 4, 4);
  return value;
}

/// Scale numbers `begin` to `end` in fp32.
std::vector<float> load_scales(const Scaling& scaling, Range range) {
  std::vector<float> scales(static_cast<size_t>(range.end - range.begin));
  if (const auto& nested = scaling.nested) {
    for (size_t i = 0; i < scales.size(); ++i) {
      const int64_t index = range.begin + static_cast<int64_t>(i);
      const auto code = static_cast<int64_t>(scaling.scales[static_cast<size_t>(index)]);
      const float scale =
          load_float(nested->table, code) * load_float(nested->scales, index / nested->block);
      scales[i] = scale + nested->offset;
    }
  } else {
    const auto size = static_cast<int64_t>(encoding_info(scaling.encoding).block_bytes);
    const DecodeRun run = encoding_traits(scaling.encoding)->decode[0];
    if (scaling.swizzled) {
      const int64_t across = (scaling.columns + scaling.tile_columns - 1) / scaling.tile_columns;
      for (size_t i = 0; i < scales.size(); ++i) {
        const int64_t index = range.begin + static_cast<int64_t>(i);
        const int64_t at = swizzled_index(index / across, index % across, across);
        run(scaling.scales.data() + at * size, 1, &scales[i]);
      }
    } else {
      run(scaling.scales.data() + range.begin * size, range.end - range.begin, scales.data());
    }
  }
  for (float& scale : scales) scale *= scaling.factor;
  return scales;
}

/// A decoder under the scales of one tensor, for several threads.
struct ScaledDecoder {
  const Scaling& scaling;
  ScaledRun run;
  const EncodingInfo& info;
  int64_t out_bytes;
  std::atomic<int64_t> bad = kNone;  // the first scale that is not finite

  void note_bad(std::span<const float> scales, int64_t first) {
    const auto found =
        std::find_if(scales.begin(), scales.end(), [](float s) { return !std::isfinite(s); });
    if (found == scales.end()) return;
    const int64_t index = first + (found - scales.begin());
    int64_t known = bad.load();
    while (index < known && !bad.compare_exchange_weak(known, index)) {
    }
  }

  /// Elements of one row of tiles.
  void decode_row(const std::byte* from, Range range, std::byte* out) {
    const int64_t group = scaling.tile_columns, columns = scaling.columns;
    const int64_t row = range.begin / columns, first = row * columns;
    const int64_t base = row / scaling.tile_rows * ((columns + group - 1) / group);
    const int64_t begin = (range.begin - first) / group, end = (range.end - first - 1) / group + 1;
    const std::vector<float> scales = load_scales(scaling, {base + begin, base + end});
    note_bad(scales, base + begin);
    // Up to the end of the first group, which the range may begin within; then whole groups.
    const int64_t lead = std::min(range.end, first + (begin + 1) * group) - range.begin;
    run(from, lead, scales.data(), lead, out);
    const int64_t rest = range.end - range.begin - lead;
    if (rest == 0) return;
    run(from + lead / info.block_elements * info.block_bytes, rest, scales.data() + 1, group,
        out + lead * out_bytes);
  }

  void decode(const std::byte* from, Range range, std::byte* out) {
    for (int64_t at = range.begin; at < range.end;) {
      const int64_t end = std::min(range.end, (at / scaling.columns + 1) * scaling.columns);
      const int64_t done = at - range.begin;
      decode_row(from + done / info.block_elements * info.block_bytes, {at, end},
                 out + done * out_bytes);
      at = end;
    }
  }
};

/// Whole blocks under scales.
void decode_under_scales(std::span<const std::byte> bytes, const TensorInfo& info, Range range,
                         Number number, std::byte* out, const Parallel& parallel,
                         std::string_view tensor) {
  const EncodingInfo& encoding = encoding_info(info.encoding);
  const EncodingTraits* traits = encoding_traits(info.encoding);
  const ScaledRun run = traits ? traits->scaled[static_cast<size_t>(number)] : nullptr;
  if (!run)
    throw Error(ErrorCode::unsupported,
                {.subject = std::string(tensor),
                 .expected = fmt::format("no decoder for {} under scales", encoding.name)});
  ScaledDecoder decoder{*info.scaling, run, encoding, number_bytes(number)};
  const int64_t elements = range.end - range.begin;
  parallel_for(parallel, (elements + kGrain - 1) / kGrain, [&](int64_t begin, int64_t end) {
    const Range part{range.begin + begin * kGrain, range.begin + std::min(elements, end * kGrain)};
    decoder.decode(bytes.data() + part.begin / encoding.block_elements * encoding.block_bytes, part,
                   out + begin * kGrain * number_bytes(number));
  });
  if (const int64_t bad = decoder.bad; bad != kNone)
    throw Error(ErrorCode::malformed,
                {.subject = fmt::format("tensor '{}'", info.scaling->name),
                 .expected = "finite scales",
                 .found = fmt::format("another at index {}", bad),
                 .hint = "The file is damaged or was converted badly; download it again"});
}

}  // namespace

void decode_range(std::span<const std::byte> bytes, const TensorInfo& info, int64_t first,
                  Number number, std::span<std::byte> out, const Parallel& parallel,
                  std::string_view tensor) {
  const EncodingInfo& encoding = encoding_info(info.encoding);
  const int64_t block = encoding.block_elements, width = number_bytes(number);
  const int64_t count = static_cast<int64_t>(out.size()) / width, elements = info.elements();
  ATELIER_CHECK(first >= 0 && count <= elements - first);
  // Of codes that share bytes the last may have one to itself.
  const int64_t blocks_held = (elements + block - 1) / block;
  if ((elements % block != 0 && encoding.block_bytes != 1) ||
      bytes.size() !=
          static_cast<uint64_t>(blocks_held) * static_cast<uint64_t>(encoding.block_bytes))
    throw Error(ErrorCode::malformed,
                {.subject = std::string(tensor),
                 .expected = fmt::format("{} elements of {}", elements, encoding.name),
                 .found = fmt::format("{} bytes", bytes.size())});
  if (count == 0) return;
  const Range range{first / block * block, (first + count + block - 1) / block * block};
  const bool whole = range.begin == first && range.end == first + count;
  std::vector<std::byte> blocks;
  if (!whole) blocks.resize(static_cast<size_t>((range.end - range.begin) * width));
  const std::span<std::byte> to = whole ? out : std::span(blocks);
  if (info.scaling) {
    decode_under_scales(bytes, info, range, number, to.data(), parallel, tensor);
  } else {
    const int64_t begin = range.begin / block * encoding.block_bytes;
    const int64_t size = range.end / block * encoding.block_bytes - begin;
    decode(bytes.subspan(static_cast<size_t>(begin), static_cast<size_t>(size)), info.encoding,
           number, to, parallel, tensor);
  }
  if (!whole) std::memcpy(out.data(), blocks.data() + (first - range.begin) * width, out.size());
}

}  // namespace atelier
