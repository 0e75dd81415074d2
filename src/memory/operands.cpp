// Decoding operands, whole or by row, and the patches merged into them or left beside them.
#include <numeric>

#include "base/error.h"
#include "memory/parts.h"
#include "memory/slots.h"
#include "quant/decode.h"

namespace atelier {

int64_t elements_of(const Shape& shape) {
  return std::accumulate(shape.begin(), shape.end(), int64_t{1}, std::multiplies<>());
}

const TensorInfo& info_of(const WeightPart& part) {
  const auto found = part.source->tensors().find(part.name);
  ATELIER_CHECK(found != part.source->tensors().end());
  return found->second;
}

namespace {

int64_t row_elements(const TensorInfo& info) {
  return info.shape.empty() ? 1 : info.elements() / std::max<int64_t>(1, info.shape[0]);
}

int64_t part_elements(const WeightPart& part, const TensorInfo& info) {
  return info.shape.empty() ? 1 : part.rows * row_elements(info);
}

bool is_whole(const WeightPart& part, const TensorInfo& info) {
  return info.shape.empty() || part.rows == info.shape[0];
}

// The stored bytes of the part's rows, of an encoding without blocks.
std::span<const std::byte> bytes_of(const WeightPart& part, const TensorInfo& info) {
  const std::span<const std::byte> all = part.source->bytes(part.name);
  if (is_whole(part, info)) return all;
  const size_t row = all.size() / static_cast<size_t>(info.shape[0]);
  return all.subspan(static_cast<size_t>(part.first_row) * row,
                     static_cast<size_t>(part.rows) * row);
}

// Calls `decode`; what it throws names the file, too.
template <class Decode>
void of_file(const WeightPart& part, Decode decode) {
  try {
    decode();
  } catch (const Error& error) {
    throw error.within(part.source->label());
  }
}

// The part's elements as stored, row by row.
void decode_rows(const WeightPart& part, const TensorInfo& info, at::Tensor out) {
  of_file(part, [&] {
    decode_range(part.source->bytes(part.name), info, part.first_row * row_elements(info), out,
                 part.name);
  });
}

void decode_part(const WeightPart& part, const at::Tensor& out) {
  const TensorInfo& info = info_of(part);
  if (!part.transposed) return decode_rows(part, info, out);
  const at::Tensor stored = at::empty({part.rows, row_elements(info)}, out.options());
  decode_rows(part, info, stored);
  out.view({row_elements(info), part.rows}).copy_(stored.t());
}

void decode_operand(const Operand& operand, const at::Tensor& out) {
  const at::Tensor flat = out.view({-1});
  int64_t at = 0;
  for (const WeightPart& part : operand.parts) {
    const int64_t n = part_elements(part, info_of(part));
    decode_part(part, flat.narrow(0, at, n));
    at += n;
  }
  ATELIER_CHECK(at == flat.numel());
}

// The operand where it lies; undefined where it does not lie in one piece as `dtype`.
at::Tensor view_of_operand(const Operand& operand, at::ScalarType dtype) {
  if (operand.parts.size() != 1 || operand.parts[0].transposed) return {};
  const WeightPart& part = operand.parts[0];
  const TensorInfo& info = info_of(part);
  if (same_dtype(info) != dtype) return {};
  return view_of(bytes_of(part, info), info.encoding, dtype, operand.shape, part.source);
}

// Fp32, with the patches merged.
at::Tensor patched(const Operand& operand, const std::vector<PlacedPatch>& patches) {
  at::Tensor weight = at::empty(operand.shape, at::dtype(at::kFloat));
  decode_operand(operand, weight);
  for (const PlacedPatch& placed : patches) {
    at::Tensor rows = weight.narrow(0, placed.first_row, placed.rows);
    placed.patch->apply(rows, placed.strength);
  }
  return weight;
}

}  // namespace

std::optional<at::ScalarType> Operands::stored_dtype() const {
  if (rounded_) return rounded_;
  if (merges()) return {};
  std::optional<at::ScalarType> common;
  for (const Operand& operand : operands_)
    for (const WeightPart& part : operand.parts) {
      const std::optional<at::ScalarType> same = same_dtype(info_of(part));
      if (!same || (common && common != same)) return {};
      common = same;
    }
  return common;
}

int64_t Operands::elements() const {
  int64_t elements = 0;
  for (const Operand& operand : operands_) elements += elements_of(operand.shape);
  return elements;
}

at::Tensor Operands::view(at::ScalarType dtype) const {
  if (operands_.size() != 1 || merges() || rounds_before(dtype)) return {};
  return view_of_operand(operands_[0], dtype);
}

at::Tensor Operands::decoded(size_t i, at::ScalarType dtype) const {
  if (rounds_before(dtype)) return decoded(i, *rounded_).to(dtype);
  const Operand& operand = operands_[i];
  if (merges() && !patches_[i].empty()) return patched(operand, patches_[i]).to(dtype);
  at::Tensor view = view_of_operand(operand, dtype);
  if (view.defined()) return view;
  at::Tensor out = at::empty(operand.shape, at::dtype(dtype));
  decode_operand(operand, out);
  return out;
}

at::Tensor Operands::joined(at::ScalarType dtype) const {
  if (rounds_before(dtype)) return joined(*rounded_).to(dtype);
  if (operands_.size() == 1) return decoded(0, dtype);
  Shape shape = operands_[0].shape;
  for (size_t i = 1; i < operands_.size(); ++i) shape[0] += operands_[i].shape[0];
  const at::Tensor out = at::empty(shape, at::dtype(dtype));
  int64_t row = 0;
  for (size_t i = 0; i < operands_.size(); ++i) {
    const at::Tensor rows = out.narrow(0, row, operands_[i].shape[0]);
    if (merges() && !patches_[i].empty())
      rows.copy_(patched(operands_[i], patches_[i]));
    else
      decode_operand(operands_[i], rows);
    row += operands_[i].shape[0];
  }
  return out;
}

bool Operands::streams() const {
  if (merges()) return false;
  return std::ranges::none_of(operands_, [](const Operand& operand) {
    return std::ranges::any_of(operand.parts, &WeightPart::transposed);
  });
}

void Operands::read(int64_t first, int64_t count, at::ScalarType dtype, void* to) const {
  ATELIER_CHECK(streams() && !rounds_before(dtype));
  char* out = static_cast<char*>(to);
  int64_t row = 0;  // of the joined operands
  for (const Operand& operand : operands_) {
    const int64_t width = elements_of(operand.shape) / operand.shape[0];
    int64_t begin = row;  // of the part
    for (const WeightPart& part : operand.parts) {
      const TensorInfo& info = info_of(part);
      const int64_t rows = part_elements(part, info) / width;
      const int64_t from = std::max(first, begin), end = std::min(first + count, begin + rows);
      if (from < end) {
        const int64_t start = part.first_row * row_elements(info) + (from - begin) * width;
        const int64_t elements = (end - from) * width;
        of_file(part, [&] {
          decode_range(part.source->bytes(part.name), info, start, elements, dtype, out, part.name);
        });
        out += elements * static_cast<int64_t>(c10::elementSize(dtype));
      }
      begin += rows;
    }
    row += operand.shape[0];
  }
}

at::Tensor Operands::allocate(int64_t bytes) const {
  return slots_ ? slots_->take(bytes) : at::empty({bytes}, at::dtype(at::kByte));
}

}  // namespace atelier
