// Matching a file's modules to the parts of a model. Longer than most: the messages about what does
// not fit belong with what finds it.
#include "lora/lora.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <optional>

#include "base/error.h"
#include "base/nearest.h"
#include "formats/checkpoint.h"
#include "lora/change.h"
#include "lora/lora_file.h"
#include "lora/module_names.h"
#include "lora/origin.h"
#include "lora/place.h"

namespace atelier {
namespace {

constexpr size_t kMostTold = 5;  // in a line
constexpr size_t kMostLeaves = 3;  // after a module's name
constexpr std::string_view kUnknownKind = "an unknown kind of tensor of a known module";
constexpr size_t kMostNearest = 300;  // names that the nearest are looked up for: it takes time

std::string number_or_any(int64_t number) { return number == 0 ? "any" : std::to_string(number); }

// Rows of what joined matrices are made of: that of the module's weight is square.
int64_t side_of(const TargetModule& module) {
  return module.weight.empty() ? 0 : extent_of(module.weight.front().shape).columns;
}

std::string bias_name(const LoraModule& module) {
  using enum LoraRole;
  for (const LoraRole role : {set_bias, up_bias, diff_bias})
    if (module.has(role)) return module.name_of(role);
  return module.name;
}

/// The state of one matching.
class Matching {
 public:
  Matching(const TensorSource& source, const LoraModel& model)
      : source_(source), model_(model), file_(read_lora_file(source)) {
    for (const LoraPart& part : model.parts) targets_.emplace_back(part.layouts, *part.weights);
    lora_.label = file_.label;
    for (const std::string& line : file_.warnings) lora_.warnings.push_back({line, {}});
  }

  std::shared_ptr<const Lora> run() {
    for (const LoraModule& module : file_.modules) match(module);
    for (const std::string& name : file_.others) match_whole(name);
    for (const std::string& name : file_.lone_alphas)
      unknown_.push_back({name, "an alpha without the tensors it belongs with"});
    require_fit();
    tell_unknown();
    tell_misshapen();
    return std::make_shared<const Lora>(std::move(lora_));
  }

 private:
  struct Found {
    size_t part;
    const TargetModule* module;
    bool leading_rows;
  };
  struct Unknown {
    std::string name, why;  // why: empty where the nearest known name may help
  };
  struct Tally {
    int64_t modules = 0, fitting = 0;
  };

  static bool means(const NameReading& reading, const LoraPart& part) {
    if (reading.encoders.empty()) return part.denoiser;
    return !part.denoiser &&
           std::ranges::find(reading.encoders, part.name) != reading.encoders.end();
  }

  std::optional<Found> find(std::string_view name) const {
    std::optional<Found> found;
    read_module_name(name, [&](const NameReading& reading) {
      for (size_t i = 0; i < model_.parts.size() && !found; ++i) {
        if (!means(reading, model_.parts[i])) continue;
        const TargetModule* module =
            targets_[i].find(reading.name, reading.underscored, reading.layout);
        if (module) found = Found{i, module, reading.leading_rows};
      }
      return found.has_value();
    });
    return found;
  }

  void match(const LoraModule& module) {
    const std::optional<Found> found = find(module.name);
    const bool text = found ? !model_.parts[found->part].denoiser : names_text_encoder(module.name);
    Tally& tally = text ? text_ : denoiser_;
    ++tally.modules;
    if (!found) {
      unknown_.push_back({module.name, ""});
      return;
    }
    try {
      if (add_module(module, *found)) ++tally.fitting;
    } catch (const Error& error) {
      throw error.within(file_.label);
    }
  }

  bool add_module(const LoraModule& module, const Found& found) {
    const std::vector<Target>& weights = found.module->weight;
    const ModuleChanges changes =
        make_changes(module, weights.empty() ? WeightForm() : form_of(weights.front()));
    bool fits = true;
    if (changes.weight) {
      fits = weights.empty() ? lacks(module.name, "weight")
                             : add(changes.weight, weights, found, module.name);
      if (fits)
        for (const std::string_view kind : changes.kinds) ++lora_.kinds[std::string(kind)];
    }
    if (!fits || !changes.bias) return fits;
    const std::vector<Target>& biases = found.module->bias;
    return biases.empty() ? lacks(bias_name(module), "bias")
                          : add(changes.bias, biases, found, module.name);
  }

  bool lacks(const std::string& name, std::string_view what) {
    unknown_.push_back({name, fmt::format("the module has no {}", what)});
    return false;
  }

  // All or nothing of one change.
  bool add(const ChangePtr& change, const std::vector<Target>& targets, const Found& found,
           const std::string& name) {
    std::vector<Lora::Change> placed;
    for (const Target& target : targets) {
      const auto patch = place(change, target, side_of(*found.module), found.leading_rows, name);
      if (!patch) {
        const Extent own = extent_of(target.shape);
        misshapen_.push_back(fmt::format("{} ([{}, {}] for [{}, {}])", name,
                                         number_or_any(change->rows()),
                                         number_or_any(change->columns()), own.rows, own.columns));
        return false;
      }
      placed.push_back({found.part, target.meaning.canonical, *patch});
    }
    lora_.bytes += change->bytes();
    std::ranges::move(placed, std::back_inserter(lora_.changes));
    return true;
  }

  // Control LoRAs bring norms and biases as whole tensors under the weights' own names.
  void match_whole(const std::string& name) {
    const bool bias = name.ends_with(".bias");
    std::string_view module = name;
    if (bias || name.ends_with(".weight")) module.remove_suffix(bias ? 5 : 7);
    const std::optional<Found> found = find(module);
    if (!found) {
      unknown_.push_back({name, std::string(of_known_module(name) ? kUnknownKind : "")});
      return;
    }
    const std::vector<Target>& targets = bias ? found->module->bias : found->module->weight;
    if (targets.empty()) {
      lacks(name, bias ? "bias" : "weight");
      return;
    }
    const ChangePtr change = make_replacement(read_lora_tensor(source_, name));
    if (add(change, targets, *found, name)) ++lora_.kinds["whole weight"];
  }

  // Whether some beginning of the name, up to a dot, is a module's.
  bool of_known_module(std::string_view name) const {
    for (size_t i = 0; i < kMostLeaves; ++i) {
      const size_t dot = name.rfind('.');
      if (dot == name.npos) return false;
      name = name.substr(0, dot);
      if (find(name)) return true;
    }
    return false;
  }

  void require_fit() const {
    const Tally& tally = denoiser_.modules > 0 ? denoiser_ : text_;
    if (2 * tally.fitting >= tally.modules) return;
    const std::string first = !misshapen_.empty() ? misshapen_.front() : unknown_.front().name;
    throw Error(ErrorCode::mismatch,
                {.subject = file_.label,
                 .expected = fmt::format("a LoRA for {}", model_.title),
                 .found = fmt::format("{}: {} of its {} modules fit, {} does not",
                                      lora_origin(file_, source_.metadata()), tally.fitting,
                                      tally.modules, first)});
  }

  // Every name of one part.
  const std::vector<std::string>& known_names(size_t part, bool underscored) {
    const auto [found, fresh] = known_.try_emplace({part, underscored});
    if (fresh) targets_[part].add_names(found->second, underscored);
    return found->second;
  }

  // "did you mean y?", of the parts that the name's prefix means; empty if nothing is near.
  std::string nearest_to(const std::string& name) {
    std::string text;
    read_module_name(name, [&](const NameReading& reading) {
      bool any = false;
      std::vector<std::string_view> views;
      for (size_t i = 0; i < model_.parts.size(); ++i) {
        if (!means(reading, model_.parts[i])) continue;
        any = true;
        for (const std::string& known : known_names(i, reading.underscored))
          if (known.size() <= reading.name.size() + 6 && reading.name.size() <= known.size() + 6)
            views.push_back(known);
      }
      const std::string_view close = nearest(reading.name, views);
      if (!any) text = "the model has no such text encoder";
      if (!close.empty()) text = fmt::format("did you mean {}{}?", reading.head, close);
      return true;
    });
    return text;
  }

  void tell(const std::string& what, std::vector<std::string> items) {
    const size_t told = std::min(items.size(), kMostTold), left = items.size() - told;
    std::string message =
        fmt::format("{}: {} {}: {}{}", file_.label, items.size(), what,
                    fmt::join(items.begin(), items.begin() + static_cast<int64_t>(told), ", "),
                    left > 0 ? fmt::format(" and {} more", left) : "");
    if (left == 0) items.clear();
    lora_.warnings.push_back({std::move(message), std::move(items)});
  }

  void tell_unknown() {
    if (unknown_.empty()) return;
    std::vector<std::string> items;
    for (const Unknown& unknown : unknown_) {
      const bool look_up = unknown.why.empty() && items.size() < kMostNearest;
      const std::string why = look_up ? nearest_to(unknown.name) : unknown.why;
      items.push_back(why.empty() ? unknown.name : fmt::format("{} ({})", unknown.name, why));
    }
    tell(unknown_.size() == 1 ? "name means nothing in this model and is left out"
                              : "names mean nothing in this model and are left out",
         std::move(items));
  }
  void tell_misshapen() {
    if (misshapen_.empty()) return;
    tell(misshapen_.size() == 1 ? "change was made for weights of another size and left out"
                                : "changes were made for weights of another size and left out",
         misshapen_);
  }

  const TensorSource& source_;
  const LoraModel& model_;
  LoraFile file_;
  std::vector<TargetNames> targets_;
  Lora lora_;
  std::vector<Unknown> unknown_;
  std::vector<std::string> misshapen_;
  std::map<std::pair<size_t, bool>, std::vector<std::string>> known_;
  Tally denoiser_, text_;
};

}  // namespace

std::shared_ptr<const Lora> read_lora(const TensorSource& source, const LoraModel& model) {
  try {
    return Matching(source, model).run();
  } catch (const Error& error) {
    ErrorFacts facts = error.facts();
    if (!facts.hint.empty() || error.code() != ErrorCode::malformed) throw;
    facts.hint = "Download the file again; if that does not help, it was written wrongly";
    throw Error(error.code(), std::move(facts));
  }
}

std::shared_ptr<const Lora> read_lora(const std::filesystem::path& file, const LoraModel& model) {
  return read_lora(*open_checkpoint(file), model);
}

}  // namespace atelier
