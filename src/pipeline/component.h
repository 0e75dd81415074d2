// One part of a model that can be put into memory and taken out again.
#pragma once

#include <functional>
#include <memory>
#include <optional>

#include "base/error.h"
#include "models/part.h"
#include "pipeline/model_files.h"

namespace atelier {

/// A part bound to its file. Binding reads only names and shapes; weights come with `load` or with
/// the first use, and go with `release`. One thread at a time.
template <class Interface>
class Component {
 public:
  Component(const PartDef<Interface>& def, FoundPart found, const Compute& compute)
      : def_(&def), found_(std::move(found)), compute_(compute) {}

  /// Binds; problems go to `report`.
  void bind(BindReport& report) {
    residency_ = std::make_unique<Residency>();
    residency_->set_patches(patches_);
    try {
      part_ =
          load_part(*def_, found_.source, found_.place, *residency_, report, compute_, observer_);
    } catch (const Error& error) {
      const std::string label = found_.source->label();
      if (error.facts().subject.starts_with(label)) throw;
      throw error.within(label);
    }
    if (stay_) residency_->keep(*stay_);
  }
  /// The part, bound again if it was released.
  const Interface& get() {
    if (!part_) {
      BindReport report;
      bind(report);
      report.throw_if_bad(found_.source->label());
    }
    return *part_;
  }
  /// Prepares every weight now; `progress` as in `Residency::prepare_all`.
  void load(const std::function<bool(double)>& progress = {}) {
    get();
    residency_->prepare_all(progress);
  }
  /// Replaces all changes to weights. Weights whose changes differ from before are prepared again
  /// by `load` or when next used, all others stay; the part must not be computing.
  void patch(PatchTable patches) {
    patches_ = std::move(patches);
    if (residency_) residency_->set_patches(patches_);
  }
  /// Binds anew with `observer` told the inputs of layers; null: nobody. It must outlive the
  /// part or be replaced.
  void observe(nn::InputObserver* observer) {
    observer_ = observer;
    release();
  }
  /// What its weights take; binds if need be.
  Residency::Needs needs() {
    get();
    return residency_->needs();
  }
  /// How many of its weights take the form of this name; binds if need be.
  int64_t count_form(std::string_view name) {
    get();
    return residency_->count_form(name);
  }
  /// `Residency::keep`, now and whenever it is bound again.
  void keep(const Residency::Stay& stay) {
    stay_ = stay;
    if (residency_) residency_->keep(stay);
  }
  void release() {
    part_.reset();
    residency_.reset();
  }
  const Compute& compute() const { return compute_; }
  const FoundPart& found() const { return found_; }

 private:
  const PartDef<Interface>* def_;
  FoundPart found_;
  Compute compute_;
  PatchTable patches_;
  nn::InputObserver* observer_ = nullptr;
  std::optional<Residency::Stay> stay_;
  std::unique_ptr<Residency> residency_;
  std::unique_ptr<Interface> part_;
};

}  // namespace atelier
