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
#include "quant/codec/float_codes.h"

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

/// The bytes of scale numbers `begin` to `end`, which are of one row: four lie together.
void gather_swizzled(const Scaling& scaling, int64_t size, Range range, std::byte* to) {
  const int64_t across = (scaling.columns + scaling.tile_columns - 1) / scaling.tile_columns;
  const int64_t row = range.begin / across, end = range.end - row * across;
  const std::byte* const from = scaling.scales.data() + swizzled_index(row, 0, across) * size;
  for (int64_t column = range.begin - row * across; column < end;) {
    const std::byte* const at = from + swizzled_index(0, column, across) * size;
    const int64_t count = std::min(4 - column % 4, end - column);
    if (count * size == 4) {
      std::memcpy(to, at, 4);
    } else {
      std::memcpy(to, at, static_cast<size_t>(count * size));
    }
    column += count;
    to += count * size;
  }
}

/// Scales of a run of elements in fp32, for one thread.
class RowScales {
 public:
  explicit RowScales(const Scaling& scaling) : scaling_(scaling) {}

  /// Scale numbers `begin` to `end` until the next call; swizzled ones of one row.
  std::span<const float> load(Range range) {
    const auto count = static_cast<size_t>(range.end - range.begin);
    if (scales_.size() < count) scales_.resize(count);
    const std::span scales = std::span(scales_).first(count);
    if (scaling_.nested) {
      load_nested(range.begin, scales);
    } else {
      load_plain(range, scales.data());
    }
    if (scaling_.factor != 1)
      for (float& scale : scales) scale *= scaling_.factor;
    return scales;
  }

 private:
  void load_nested(int64_t first, std::span<float> scales) const {
    const NestedScales& nested = *scaling_.nested;
    for (size_t i = 0; i < scales.size(); ++i) {
      const int64_t index = first + static_cast<int64_t>(i);
      const auto code = static_cast<int64_t>(scaling_.scales[static_cast<size_t>(index)]);
      const float scale =
          load_float(nested.table, code) * load_float(nested.scales, index / nested.block);
      scales[i] = scale + nested.offset;
    }
  }

  void load_plain(Range range, float* scales) {
    const auto size = static_cast<int64_t>(encoding_info(scaling_.encoding).block_bytes);
    const int64_t count = range.end - range.begin;
    const std::byte* from = scaling_.scales.data() + range.begin * size;
    if (scaling_.swizzled) {
      const auto bytes = static_cast<size_t>(count * size);
      if (gathered_.size() < bytes) gathered_.resize(bytes);
      gather_swizzled(scaling_, size, range, gathered_.data());
      from = gathered_.data();
    }
    run_(from, count, scales);
  }

  const Scaling& scaling_;
  const DecodeRun run_ = scaling_.nested ? nullptr : encoding_traits(scaling_.encoding)->decode[0];
  std::vector<float> scales_;
  std::vector<std::byte> gathered_;
};

bool all_finite(std::span<const float> numbers) {
  constexpr uint32_t kExponent = 0x7f800000;
  uint32_t others = 0;  // without branches, so that several are looked at together
  for (const float number : numbers) others |= (bits_of(number) & kExponent) == kExponent ? 1U : 0U;
  return others == 0;
}

/// A decoder under the scales of one tensor, for several threads.
struct ScaledDecoder {
  const Scaling& scaling;
  ScaledRun run;
  const EncodingInfo& info;
  int64_t out_bytes;
  std::atomic<int64_t> bad = kNone;  // the first scale that is not finite

  void note_bad(std::span<const float> scales, int64_t first) {
    if (all_finite(scales)) return;
    const auto found =
        std::find_if(scales.begin(), scales.end(), [](float s) { return !std::isfinite(s); });
    const int64_t index = first + (found - scales.begin());
    int64_t known = bad.load();
    while (index < known && !bad.compare_exchange_weak(known, index)) {
    }
  }

  /// Elements of one row of tiles.
  void decode_row(const std::byte* from, Range range, RowScales& row_scales, std::byte* out) {
    const int64_t group = scaling.tile_columns, columns = scaling.columns;
    const int64_t row = range.begin / columns, first = row * columns;
    const int64_t base = row / scaling.tile_rows * ((columns + group - 1) / group);
    const int64_t begin = (range.begin - first) / group, end = (range.end - first - 1) / group + 1;
    const std::span<const float> scales = row_scales.load({base + begin, base + end});
    note_bad(scales, base + begin);
    // Up to the end of the first group, which the range may begin within; then whole groups.
    const bool within = range.begin > first + begin * group;
    const int64_t lead =
        within ? std::min(range.end, first + (begin + 1) * group) - range.begin : 0;
    if (within) run(from, lead, scales.data(), lead, out);
    const int64_t rest = range.end - range.begin - lead;
    if (rest == 0) return;
    run(from + lead / info.block_elements * info.block_bytes, rest,
        scales.data() + (within ? 1 : 0), group, out + lead * out_bytes);
  }

  void decode(const std::byte* from, Range range, std::byte* out) {
    RowScales scales(scaling);
    for (int64_t at = range.begin; at < range.end;) {
      const int64_t end = std::min(range.end, (at / scaling.columns + 1) * scaling.columns);
      const int64_t done = at - range.begin;
      decode_row(from + done / info.block_elements * info.block_bytes, {at, end}, scales,
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
