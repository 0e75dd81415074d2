// Matching a file's modules to the parts of a model, and placing their changes. Longer than most:
// the messages about what does not fit belong with what finds it.
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

namespace atelier {
namespace {

constexpr size_t kMostTold = 5;  // in a line
constexpr size_t kMostNearest = 300;  // names that the nearest are looked up for: it takes time

struct Extent {
  int64_t rows, columns;
  bool operator==(const Extent&) const = default;
};

// A weight as a matrix: [rows, everything else].
Extent extent_of(const Shape& shape) {
  Extent extent{shape.empty() ? 1 : shape[0], 1};
  for (size_t i = 1; i < shape.size(); ++i) extent.columns *= shape[i];
  return extent;
}

std::string number_or_any(int64_t number) { return number == 0 ? "any" : std::to_string(number); }

// The target in the LoRA's layout.
WeightForm form_of(const Target& target) {
  const Extent own = extent_of(target.shape);
  if (target.meaning.take.transposed) return {.columns = own.rows};
  const bool convolution = target.shape.size() > 2;
  return {.columns = own.columns,
          .kernel = convolution ? own.columns / target.shape[1] : 1,
          .convolution = convolution};
}

// Rows of the target in the LoRA's layout, for changes that do not say. What joined matrices are
// made of is square, all but the last.
int64_t rows_meant(const Target& target) {
  const Extent own = extent_of(target.shape);
  const KeyMeaning& meaning = target.meaning;
  if (meaning.take.transposed) return own.columns;
  if (meaning.take.of > 1) return own.rows * meaning.take.of;
  if (meaning.sources < 2) return own.rows;
  const bool last = meaning.source + 1 == meaning.sources;
  return last ? own.rows - own.columns * static_cast<int64_t>(meaning.source) : own.columns;
}

// `change` where the model keeps `target`; nothing if it is for a weight of another size.
std::optional<PlacedPatch> place(const ChangePtr& change, const Target& target, bool leading_rows,
                                 std::string_view module) {
  const Extent own = extent_of(target.shape);
  const KeyMeaning& meaning = target.meaning;
  const Take& take = meaning.take;
  const int64_t rows = change->rows() ? change->rows() : rows_meant(target);
  const int64_t columns = change->columns() ? change->columns() : own.columns;
  if (take.transposed) {
    if (rows != own.columns || (change->columns() && columns != own.rows)) return {};
    return PlacedPatch{transposed(change, own.rows, own.columns), 0, own.rows, 1};
  }
  if (columns != own.columns) return {};
  if (take.of > 1) {
    if (rows != own.rows * take.of) return {};
    if (change->rows() == 0 && change->by_rows()) return PlacedPatch{change, 0, own.rows, 1};
    return PlacedPatch{rows_of(change, take.part * own.rows, own.rows, module), 0, own.rows, 1};
  }
  if (take.halves_exchanged) {
    if (rows != own.rows || rows % 2 != 0) return {};
    return PlacedPatch{halves_exchanged(change), 0, rows, 1};
  }
  if (meaning.sources > 1) {
    // All sources are of one size but the last, which has the rest.
    const auto index = static_cast<int64_t>(meaning.source),
               count = static_cast<int64_t>(meaning.sources);
    const bool last = index + 1 == count;
    if (rows <= 0 || rows > own.rows || (!last && rows * (count - 1) >= own.rows)) return {};
    return PlacedPatch{change, last ? own.rows - rows : index * rows, rows, 1};
  }
  if (leading_rows ? rows > own.rows : rows != own.rows) return {};
  return PlacedPatch{change, 0, rows, 1};
}

/// The state of one matching.
class Matching {
 public:
  Matching(const TensorSource& source, const LoraModel& model)
      : source_(source), model_(model), file_(read_lora_file(source)) {
    for (const LoraPart& part : model.parts) targets_.emplace_back(part.layouts, *part.weights);
    lora_.label = file_.label;
  }

  std::shared_ptr<const Lora> run() {
    for (const LoraModule& module : file_.modules) match(module);
    for (const std::string& name : file_.others) match_whole(name);
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
  struct Tally {
    int64_t modules = 0, fitting = 0;
  };

  std::optional<Found> find(std::string_view name) const {
    std::optional<Found> found;
    read_module_name(name, [&](const NameReading& reading) {
      for (size_t i = 0; i < model_.parts.size() && !found; ++i) {
        const LoraPart& part = model_.parts[i];
        const bool meant = reading.encoders.empty()
                               ? part.denoiser
                               : !part.denoiser && std::ranges::find(reading.encoders, part.name) !=
                                                       reading.encoders.end();
        if (!meant) continue;
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
      unknown_.push_back(module.name);
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
      fits = add(changes.weight, weights, found, module.name);
      if (fits)
        for (const std::string_view kind : changes.kinds) ++lora_.kinds[std::string(kind)];
    }
    if (fits && changes.bias) fits = add(changes.bias, found.module->bias, found, module.name);
    return fits;
  }

  // All or nothing of one change.
  bool add(const ChangePtr& change, const std::vector<Target>& targets, const Found& found,
           const std::string& name) {
    std::vector<Lora::Change> placed;
    for (const Target& target : targets) {
      const auto patch = place(change, target, found.leading_rows, name);
      if (!patch) {
        const Extent own = extent_of(target.shape);
        misshapen_.push_back(fmt::format("{} ([{}, {}] for [{}, {}])", name,
                                         number_or_any(change->rows()),
                                         number_or_any(change->columns()), own.rows, own.columns));
        return false;
      }
      placed.push_back({found.part, target.meaning.canonical, *patch});
    }
    if (placed.empty()) {
      unknown_.push_back(name);
      return false;
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
    const std::vector<Target>* targets = !found ? nullptr
                                         : bias ? &found->module->bias
                                                : &found->module->weight;
    if (!targets || targets->empty()) {
      unknown_.push_back(name);
      return;
    }
    const ChangePtr change = make_replacement(read_lora_tensor(source_, name));
    if (add(change, *targets, *found, name)) ++lora_.kinds["whole weight"];
  }

  void require_fit() const {
    const Tally& tally = denoiser_.modules > 0 ? denoiser_ : text_;
    if (2 * tally.fitting >= tally.modules) return;
    const std::string first = !misshapen_.empty() ? misshapen_.front() : unknown_.front();
    throw Error(ErrorCode::mismatch,
                {.subject = file_.label,
                 .expected = fmt::format("a LoRA for {}", model_.title),
                 .found = fmt::format("{}: {} of its {} modules fit, {} does not",
                                      lora_origin(file_, source_.metadata()), tally.fitting,
                                      tally.modules, first)});
  }

  // Every name of the denoiser, or of the text encoders.
  const std::vector<std::string>& known_names(bool denoiser, bool underscored) {
    const auto [found, fresh] = known_.try_emplace({denoiser, underscored});
    for (size_t i = 0; i < model_.parts.size() && fresh; ++i)
      if (model_.parts[i].denoiser == denoiser) targets_[i].add_names(found->second, underscored);
    return found->second;
  }

  // "x (did you mean y?)"
  std::string with_nearest(const std::string& name) {
    std::string text = name;
    read_module_name(name, [&](const NameReading& reading) {
      std::vector<std::string_view> views;
      for (const std::string& known : known_names(reading.encoders.empty(), reading.underscored))
        if (known.size() <= reading.name.size() + 6 && reading.name.size() <= known.size() + 6)
          views.push_back(known);
      const std::string_view close = nearest(reading.name, views);
      const size_t head =
          name.size() >= reading.name.size() ? name.size() - reading.name.size() : 0;
      if (!close.empty()) text += fmt::format(" (did you mean {}{}?)", name.substr(0, head), close);
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
    std::vector<std::string> items = unknown_;
    for (size_t i = 0; i < std::min(items.size(), kMostNearest); ++i)
      items[i] = with_nearest(items[i]);
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
  std::vector<std::string> unknown_, misshapen_;
  std::map<std::pair<bool, bool>, std::vector<std::string>> known_;
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
