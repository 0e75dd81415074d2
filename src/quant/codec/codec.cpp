// Picks the table for this processor, checks a tensor's bytes, splits their decoding over threads.
#include "quant/codec/codec.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <vector>
#if defined(__x86_64__)
#include <emmintrin.h>
#endif

#include "base/error.h"
#include "device/cpu/kernels.h"
#include "quant/codec/tables.h"

namespace atelier {
namespace {

constexpr int64_t kGrain = 1 << 16;  // elements of a task at least
constexpr int64_t kPiece = 1 << 12;  // elements that go through the first cache at a time
// The same of the widest numbers, for which reading on counts more than the cache.
constexpr int64_t kWidePiece = 1 << 14;
constexpr size_t kLarge = 32 << 20;  // bytes of output that no cache is going to keep

// Copies to memory past the caches, which need not read what is overwritten.
void copy_past_caches(std::byte* to, const std::byte* from, size_t bytes) {
#if defined(__x86_64__)
  for (; bytes >= 16; bytes -= 16, to += 16, from += 16)
    _mm_stream_si128(reinterpret_cast<__m128i*>(to),
                     _mm_load_si128(reinterpret_cast<const __m128i*>(from)));
#endif
  std::memcpy(to, from, bytes);
}

// What `run` makes of `elements` elements, piece by piece; `to` is aligned to 16 bytes.
void decode_past_caches(DecodeRun run, const EncodingInfo& info, int64_t width,
                        const std::byte* from, int64_t elements, std::byte* to) {
  alignas(64) std::byte piece[kWidePiece * sizeof(float)];
  const int64_t most = info.block_bytes < 8 * info.block_elements ? kPiece : kWidePiece;
  for (int64_t at = 0; at < elements; at += most) {
    const int64_t count = std::min(most, elements - at);
    run(from + at / info.block_elements * info.block_bytes, count, piece);
    copy_past_caches(to + at * width, piece, static_cast<size_t>(count * width));
  }
#if defined(__x86_64__)
  _mm_sfence();
#endif
}

// Up to the instruction set the kernels use.
std::vector<CodecTable> find_tables() {
  std::vector<CodecTable> tables{{"portable", kPortableDecoders, kPortableEncoders}};
#if defined(__x86_64__)
  const CpuIsa isa = cpu_kernels(detect_cpu_features()).isa;
  if (isa >= CpuIsa::avx2) tables.push_back({"avx2", kAvx2Decoders, kAvx2Encoders});
  if (isa >= CpuIsa::avx512) tables.push_back({"avx512", kAvx512Decoders, kAvx512Encoders});
#endif
  return tables;
}

// Throws unless `bytes` and `out` hold the same number of elements, which is returned.
int64_t count_elements(std::span<const std::byte> bytes, const EncodingInfo& info, Number number,
                       std::span<std::byte> out, std::string_view tensor) {
  const int64_t elements = static_cast<int64_t>(out.size()) / number_bytes(number);
  const int64_t blocks = elements / info.block_elements;
  if (elements % info.block_elements == 0 &&
      bytes.size() == static_cast<uint64_t>(blocks) * static_cast<uint64_t>(info.block_bytes))
    return elements;
  throw Error(ErrorCode::malformed,
              {.subject = std::string(tensor),
               .expected = fmt::format("{} elements of {}", elements, info.name),
               .found = fmt::format("{} bytes", bytes.size())});
}

}  // namespace

std::span<const CodecTable> codec_tables() {
  static const std::vector<CodecTable> tables = find_tables();
  return tables;
}

const EncodingTraits* encoding_traits(Encoding encoding) {
  const std::span<const EncodingTraits> rows = codec_tables().back().decoders;
  const auto found = std::find_if(rows.begin(), rows.end(), [&](const EncodingTraits& row) {
    return row.encoding == encoding;
  });
  return found == rows.end() ? nullptr : &*found;
}

bool decodable(Encoding encoding) { return encoding_traits(encoding) != nullptr; }

void decode(std::span<const std::byte> bytes, Encoding encoding, Number number,
            std::span<std::byte> out, const Parallel& parallel, std::string_view tensor) {
  const EncodingInfo& info = encoding_info(encoding);
  const EncodingTraits* traits = encoding_traits(encoding);
  if (!traits)
    throw Error(ErrorCode::unsupported,
                {.subject = std::string(tensor),
                 .expected = fmt::format("no decoder for {} tensors in this version", info.name)});
  const int64_t elements = count_elements(bytes, info, number, out, tensor);
  const DecodeRun run = traits->decode[static_cast<size_t>(number)];
  const int64_t task = std::max<int64_t>(kGrain, info.block_elements);
  const bool past_caches =
      out.size() >= kLarge && reinterpret_cast<uintptr_t>(out.data()) % 16 == 0;
  parallel_for(parallel, (elements + task - 1) / task, [&](int64_t begin, int64_t end) {
    const int64_t first = begin * task, last = std::min(elements, end * task);
    const std::byte* const from = bytes.data() + first / info.block_elements * info.block_bytes;
    std::byte* const to = out.data() + first * number_bytes(number);
    if (past_caches) {
      decode_past_caches(run, info, number_bytes(number), from, last - first, to);
    } else {
      run(from, last - first, to);
    }
  });
}

}  // namespace atelier
