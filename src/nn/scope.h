// Where a layer stands in a state dict: the first header to read of this library.
#pragma once

#include <memory>
#include <string>
#include <string_view>

#include "memory/residency.h"
#include "nn/bind_report.h"
#include "nn/input_observer.h"
#include "nn/key_map.h"

namespace atelier {

/// What the scopes of one component share: its names, where weights go, how it computes. The
/// residency and the report must outlive the binding of layers, the residency also the layers.
struct Binding {
  KeyMap keys;
  Residency& residency;
  BindReport& report;
  Compute compute;
  nn::InputObserver* observer = nullptr;  // of layers' inputs; must outlive them
};

/// A position in a state dict. Cheap to copy; `/` walks down.
class Scope {
 public:
  explicit Scope(std::shared_ptr<const Binding> binding) : binding_(std::move(binding)) {}
  Scope operator/(std::string_view child) const { return with(prefix_ + std::string(child) + "."); }
  Scope operator/(int64_t index) const { return *this / std::to_string(index); }
  /// Joins a partial name: `w.prefixed("img_") / "mlp"` is `img_mlp`.
  Scope prefixed(std::string_view stem) const { return with(prefix_ + std::string(stem)); }
  /// The name so far, with its final dot.
  const std::string& name() const { return prefix_; }
  const Compute& compute() const { return binding_->compute; }
  const KeyMap& keys() const { return binding_->keys; }
  nn::InputObserver* observer() const { return binding_->observer; }

  /// A parameter the model cannot do without, in the plain form. Trailing extents of 1 may differ
  /// between file and `shape` (a 1x1 convolution is a matrix). A missing, misshapen or undecodable
  /// tensor is reported, not thrown, and the handle is empty.
  Weight weight(std::string_view leaf, const Shape& shape) const;

  /// Look-ups by the model's names, for reading a config. `shape` throws `mismatch` if absent.
  bool has(std::string_view name) const;
  Shape shape(std::string_view name) const;
  /// Number of consecutive i from 0 for which `<stem>.<i>.<leaf>` exists.
  int64_t count(std::string_view stem, std::string_view leaf) const;

 private:
  Scope with(std::string prefix) const {
    Scope scope = *this;
    scope.prefix_ = std::move(prefix);
    return scope;
  }
  const KeyMap::Item* find(std::string_view name) const;

  std::shared_ptr<const Binding> binding_;
  std::string prefix_;
};

}  // namespace atelier
