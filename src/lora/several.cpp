// A module with more than one kind of change: each of them in turn.
#include <fmt/format.h>

#include <algorithm>

#include "base/error.h"
#include "lora/change.h"

namespace atelier {
namespace {

/// Every change on what those before it have left.
class Several final : public Change {
 public:
  Several(std::vector<ChangePtr> parts, int64_t rows, int64_t columns)
      : parts_(std::move(parts)), rows_(rows), columns_(columns) {}
  int64_t rows() const override { return rows_; }
  int64_t columns() const override { return columns_; }
  bool by_rows() const override { return std::ranges::all_of(parts_, &Change::by_rows); }
  Bytes bytes() const override {
    Bytes bytes;
    for (const ChangePtr& part : parts_) bytes += part->bytes();
    return bytes;
  }
  void apply(at::Tensor& weight, double strength) const override {
    for (const ChangePtr& part : parts_) part->apply(weight, strength);
  }

 private:
  std::vector<ChangePtr> parts_;
  int64_t rows_, columns_;
};

// The number that all state; 0 if none states one.
int64_t agreed(const std::vector<ChangePtr>& parts, int64_t (Change::*number)() const,
               const LoraModule& module) {
  int64_t agreed = 0;
  for (const ChangePtr& part : parts) {
    const int64_t own = (*part.*number)();
    if (own != 0 && agreed != 0 && own != agreed)
      throw Error(ErrorCode::malformed,
                  {.subject = module.name,
                   .expected = "changes to a weight of one size",
                   .found = fmt::format("[{}, {}] and [{}, {}]", parts.front()->rows(),
                                        parts.front()->columns(), part->rows(), part->columns())});
    if (own != 0) agreed = own;
  }
  return agreed;
}

}  // namespace

ChangePtr make_several(std::vector<ChangePtr> parts, const LoraModule& module) {
  if (parts.empty()) return {};
  if (parts.size() == 1) return parts.front();
  const int64_t rows = agreed(parts, &Change::rows, module);
  const int64_t columns = agreed(parts, &Change::columns, module);
  return std::make_shared<Several>(std::move(parts), rows, columns);
}

}  // namespace atelier
