// Picks the encoder for this processor and splits rows over threads.
#include "quant/codec/encode.h"

#include <algorithm>
#include <cstring>
#include <vector>

#include "base/error.h"
#include "quant/codec/float_codes.h"
#include "quant/codec/tables.h"

namespace atelier {
namespace {

constexpr int64_t kGrain = 1 << 14;  // elements of a task, about

template <class Stored, Stored (*kNarrow)(float)>
void encode_plain(const float* from, int64_t elements, const float*, std::byte* to) {
  for (int64_t i = 0; i < elements; ++i) {
    const Stored stored = kNarrow(from[i]);
    std::memcpy(to + i * static_cast<int64_t>(sizeof(Stored)), &stored, sizeof(Stored));
  }
}

float same(float value) { return value; }
uint16_t to_half(float value) { return float_to_half(value); }
uint16_t to_bfloat16(float value) { return float_to_bfloat16(value); }
uint8_t to_e4m3(float value) { return float_to_e4m3(value); }
uint8_t to_e5m2(float value) { return float_to_e5m2(value); }

std::vector<EncoderRow> find_encoders() {
  std::vector<EncoderRow> rows{
      {Encoding::f32, encode_plain<float, same>},
      {Encoding::f16, encode_plain<uint16_t, to_half>},
      {Encoding::bf16, encode_plain<uint16_t, to_bfloat16>},
      {Encoding::f8_e4m3, encode_plain<uint8_t, to_e4m3>},
      {Encoding::f8_e5m2, encode_plain<uint8_t, to_e5m2>},
  };
  const std::span<const EncoderRow> blocks = codec_tables().back().encoders;
  rows.insert(rows.end(), blocks.begin(), blocks.end());
  return rows;
}

const EncoderRow* find(Encoding encoding) {
  for (const EncoderRow& row : encoders())
    if (row.encoding == encoding) return &row;
  return nullptr;
}

}  // namespace

std::span<const EncoderRow> encoders() {
  static const std::vector<EncoderRow> rows = find_encoders();
  return rows;
}

bool encodable(Encoding encoding) { return find(encoding) != nullptr; }

void encode(std::span<const float> from, int64_t row, Encoding encoding,
            std::span<const float> importance, std::span<std::byte> out, const Parallel& parallel) {
  const EncodingInfo& info = encoding_info(encoding);
  const EncoderRow* encoder = find(encoding);
  const auto elements = static_cast<int64_t>(from.size());
  ATELIER_CHECK(encoder != nullptr && row > 0 && row % info.block_elements == 0);
  ATELIER_CHECK(elements % row == 0);
  ATELIER_CHECK(out.size() ==
                static_cast<size_t>(elements / info.block_elements * info.block_bytes));
  ATELIER_CHECK(importance.empty() || static_cast<int64_t>(importance.size()) == row);
  const float* const weights = importance.empty() ? nullptr : importance.data();
  const int64_t rows = elements / row, bytes = row / info.block_elements * info.block_bytes;
  const int64_t together = std::max<int64_t>(1, kGrain / row);
  parallel_for(parallel, (rows + together - 1) / together, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin * together; i < std::min(rows, end * together); ++i)
      encoder->encode(from.data() + i * row, row, weights, out.data() + i * bytes);
  });
}

}  // namespace atelier
