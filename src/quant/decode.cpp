// Checks a tensor's bytes and splits their decoding over the threads.
#include "quant/decode.h"

#include <ATen/Parallel.h>
#include <fmt/format.h>

#include <algorithm>

#include "base/error.h"
#include "quant/encoding_traits.h"

namespace atelier {
namespace {

constexpr int64_t kGrain = 1 << 15;  // elements one thread takes at least

template <class T>
void decode_parallel(std::span<const std::byte> bytes, const EncodingInfo& info, DecodeFn<T> run,
                     at::Tensor& out) {
  T* const to = out.mutable_data_ptr<T>();
  const int64_t blocks = out.numel() / info.block_elements;
  const int64_t grain = std::max<int64_t>(1, kGrain / info.block_elements);
  at::parallel_for(0, blocks, grain, [&](int64_t begin, int64_t end) {
    run(bytes.data() + begin * info.block_bytes, (end - begin) * info.block_elements,
        to + begin * info.block_elements);
  });
}

void check_size(std::span<const std::byte> bytes, const EncodingInfo& info, int64_t elements,
                std::string_view tensor) {
  const int64_t blocks = elements / info.block_elements;
  if (elements % info.block_elements == 0 &&
      bytes.size() == static_cast<uint64_t>(blocks) * static_cast<uint64_t>(info.block_bytes))
    return;
  throw Error(ErrorCode::malformed,
              {.subject = std::string(tensor),
               .expected = fmt::format("{} elements of {}", elements, info.name),
               .found = fmt::format("{} bytes", bytes.size())});
}

}  // namespace

bool decodable(Encoding encoding) { return encoding_traits(encoding) != nullptr; }

void decode(std::span<const std::byte> bytes, Encoding encoding, at::Tensor& out,
            std::string_view tensor) {
  const EncodingInfo& info = encoding_info(encoding);
  const EncodingTraits* traits = encoding_traits(encoding);
  if (!traits)
    throw Error(ErrorCode::unsupported,
                {.subject = std::string(tensor),
                 .expected = fmt::format("no decoder for {} tensors in this version", info.name)});
  ATELIER_CHECK(out.is_contiguous() && out.is_cpu());
  check_size(bytes, info, out.numel(), tensor);
  switch (out.scalar_type()) {
    case at::kFloat:
      return decode_parallel(bytes, info, traits->to_float, out);
    case at::kBFloat16:
      return decode_parallel(bytes, info, traits->to_bfloat16, out);
    case at::kHalf:
      return decode_parallel(bytes, info, traits->to_half, out);
    default:
      ATELIER_CHECK(!"weights are decoded to fp32, bf16 or fp16");
  }
}

at::Tensor view_of(std::span<const std::byte> bytes, Encoding encoding, at::ScalarType dtype,
                   const Shape& shape, std::shared_ptr<const void> owner) {
  const EncodingTraits* traits = encoding_traits(encoding);
  if (!traits || traits->same_as != dtype) return {};
  const size_t size = c10::elementSize(dtype);
  if (reinterpret_cast<uintptr_t>(bytes.data()) % size != 0) return {};
  const int64_t elements = c10::multiply_integers(shape);
  if (bytes.size() != static_cast<uint64_t>(elements) * size) return {};
  // from_blob takes a writable pointer; nothing in the engine writes to a weight.
  void* const data = const_cast<std::byte*>(bytes.data());
  return at::from_blob(data, shape, [owner = std::move(owner)](void*) {}, at::dtype(dtype));
}

}  // namespace atelier
