// Look-ups and binding of single weights.
#include "nn/scope.h"

#include <fmt/format.h>

#include "base/error.h"
#include "quant/decode.h"

namespace atelier {
namespace {

Shape without_trailing_ones(Shape shape) {
  while (!shape.empty() && shape.back() == 1) shape.pop_back();
  return shape;
}

}  // namespace

const KeyMap::Item* Scope::find(std::string_view name) const {
  return binding_->keys.find(prefix_ + std::string(name));
}

bool Scope::has(std::string_view name) const {
  const KeyMap::Item* item = find(name);
  return item && item->lacking.empty();
}

Shape Scope::shape(std::string_view name) const {
  const KeyMap::Item* item = find(name);
  if (item && item->lacking.empty()) return item->shape;
  const std::string missing = item ? item->lacking : prefix_ + std::string(name);
  throw Error(ErrorCode::mismatch, {.subject = binding_->keys.source()->label(),
                                    .expected = fmt::format("tensor {} is missing", missing)});
}

int64_t Scope::count(std::string_view stem, std::string_view leaf) const {
  int64_t n = 0;
  while (has(fmt::format("{}.{}.{}", stem, n, leaf))) ++n;
  return n;
}

Weight Scope::weight(std::string_view leaf, const Shape& shape) const {
  const std::string canonical = prefix_ + std::string(leaf);
  BindReport& report = binding_->report;
  report.bound(canonical, shape);
  const KeyMap::Item* item = find(leaf);
  if (!item || !item->lacking.empty()) {
    report.missing(item ? item->lacking : binding_->keys.prefix() + canonical, shape);
    return {};
  }
  bool readable = true;
  for (const WeightPart& part : item->parts) {
    report.used(part.name);
    const TensorInfo& info = part.source->tensors().find(part.name)->second;
    const bool unscaled = is_integer(info.encoding) && !info.scaling;
    if (decodable(info.encoding) && !unscaled) continue;
    readable = false;
    if (unscaled)
      report.unscaled(part.name, encoding_info(info.encoding).name);
    else
      report.unsupported(part.name, encoding_info(info.encoding).name);
  }
  if (without_trailing_ones(item->shape) != without_trailing_ones(shape)) {
    report.misshapen(canonical, item->shape, shape);
    return {};
  }
  if (!readable) return {};
  return binding_->residency.bind({item->parts, shape, canonical}, plain_form(), binding_->compute);
}

}  // namespace atelier
