// A loadable part of a checkpoint (denoiser, text encoder, autoencoder) as a row, and its loading.
#pragma once

#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "models/quant_rules.h"
#include "nn/scope.h"

namespace atelier {

/// Where in a file a part was found, and by which names.
struct Place {
  std::string prefix;
  const KeyLayout* layout = nullptr;
};

/// One architecture of a part. `fits` looks at names and shapes, `build` reads its config from
/// them and binds every weight; both see the model's own names.
template <class Interface>
struct PartDef {
  std::string_view name;
  std::span<const KeyLayout> layouts;
  std::span<const std::string_view> ignore;  // names that may lie unused under the prefix
  bool (*fits)(const Scope& w);
  std::unique_ptr<Interface> (*build)(const Scope& w);
  std::span<const QuantRule> quantisation = {};  // none: the part stays in floats
  /// `general.architecture` of its GGUF files, by which ComfyUI-GGUF's loaders (README) and
  /// llama.cpp know it; empty if they do not.
  std::string_view gguf_architecture = {};
};

/// An Interface that owns a config and the net built from it. Not movable: the net refers to the
/// config.
template <class Interface, class Config, class Net>
class Loaded : public Interface {
 public:
  Loaded(Config config, const Scope& w) : config_(std::move(config)), net_(w, config_) {}
  Loaded(const Loaded&) = delete;
  Loaded& operator=(const Loaded&) = delete;

 protected:
  const Config& config() const { return config_; }
  const Net& net() const { return net_; }

 private:
  Config config_;
  Net net_;
};

/// The first prefix and layout whose signature the file has.
std::optional<Place> find_place(const TensorSource& source,
                                std::span<const std::string_view> prefixes,
                                std::span<const KeyLayout> layouts);

/// A scope over the part of `source` at `place`. `residency` must outlive what is built from it,
/// `report` the building. `observer`, which may be null, is told the inputs of layers and
/// must outlive them.
Scope open_scope(std::shared_ptr<const TensorSource> source, const Place& place,
                 Residency& residency, BindReport& report, const Compute& compute,
                 nn::InputObserver* observer = nullptr);

/// Whether `def` has a layout in the file at one of `prefixes` and its shapes fit.
template <class Interface>
std::optional<Place> recognise(const PartDef<Interface>& def,
                               const std::shared_ptr<const TensorSource>& source,
                               std::span<const std::string_view> prefixes) {
  const std::optional<Place> place = find_place(*source, prefixes, def.layouts);
  if (!place) return {};
  Residency none;
  BindReport report;
  return def.fits(open_scope(source, *place, none, report, {})) ? place : std::nullopt;
}

/// Builds the part; what is missing, misshapen or unused goes to `report`, whose `throw_if_bad` the
/// caller calls once for all parts of a file.
template <class Interface>
std::unique_ptr<Interface> load_part(const PartDef<Interface>& def,
                                     std::shared_ptr<const TensorSource> source, const Place& place,
                                     Residency& residency, BindReport& report,
                                     const Compute& compute,
                                     nn::InputObserver* observer = nullptr) {
  const Scope w = open_scope(std::move(source), place, residency, report, compute, observer);
  std::unique_ptr<Interface> part = def.build(w);
  report.check_unused(w.keys(), def.ignore);
  return part;
}

}  // namespace atelier
