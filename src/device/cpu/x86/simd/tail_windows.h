// Which part of a layer's tail each panel of packed columns takes.
#pragma once

#include "device/cpu/linear.h"
#include "device/cpu/x86/simd/common.h"

namespace atelier {
namespace {

/// Units of the tail's inputs, and the window of units, equally long for all panels, that holds
/// what a panel's outputs take. Panels of gated layers take all.
class TailWindows {
 public:
  /// Panels of `columns` outputs, units of `unit` inputs.
  TailWindows(const CpuLinear& layer, int64_t columns, int64_t unit)
      : ranges_(layer.tail_ranges),
        count_(layer.epilogue == CpuEpilogue::geglu ? 0 : layer.tail_range_count),
        columns_(columns),
        unit_(unit),
        units_(divide_up(layer.tail, unit)),
        width_(count_ == 0 ? units_ : 0) {
    for (int64_t i = 0; i < count_; ++i) {
      // The last panel that begins in this range may reach into others.
      const int64_t last = (ranges_[i].outputs_end - 1) / columns_ * columns_ + columns_ - 1;
      const int64_t end = divide_up(ranges_[range_of(min64(last, layer.outputs - 1))].end, unit_);
      width_ = max64(width_, end - ranges_[i].first / unit_);
    }
  }
  /// Units of the whole tail, and of a window.
  int64_t units() const { return units_; }
  int64_t width() const { return width_; }
  /// Windows there are, the one a panel takes, and the first unit of one.
  int64_t count() const { return max64(1, count_); }
  int64_t of_panel(int64_t panel) const { return count_ == 0 ? 0 : range_of(panel * columns_); }
  int64_t first(int64_t window) const {
    return count_ == 0 ? 0 : min64(ranges_[window].first / unit_, units_ - width_);
  }

 private:
  int64_t range_of(int64_t output) const {
    int64_t i = 0;
    while (i + 1 < count_ && output >= ranges_[i].outputs_end) ++i;
    return i;
  }

  const TailRange* ranges_;
  int64_t count_, columns_, unit_, units_, width_;
};

}  // namespace
}  // namespace atelier
