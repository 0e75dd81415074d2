// Thresholds, causes and remedies as tables.
#include "app/engine/slow_step.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>

namespace atelier {
namespace {

constexpr double kFar = 1.5, kFarFromPlan = 2;  // times the usual
constexpr double kNoticed = 0.2;  // seconds
constexpr double kFault = 2e-4;  // seconds a page from a disk takes, at least
constexpr double kShare = 0.1;  // of the step's time, that a cause must explain
constexpr double kOthers = 0.15;  // of all processors
constexpr double kSlowClock = 0.8;  // of the usual
constexpr int64_t kSpilled = 1 << 20;  // bytes newly swapped out
constexpr int64_t kGrid = 16;  // pixels

/// What one cause looks like; nothing if it is not to be seen.
using Evidence = std::optional<std::string> (*)(const Vitals& before, const Vitals& after,
                                                double seconds, double usual_clock);

std::optional<std::string> of_memory(const Vitals& before, const Vitals& after, double seconds,
                                     double) {
  const auto faults = static_cast<double>(after.major_faults - before.major_faults);
  const double waited = after.memory_stall - before.memory_stall;
  const int64_t swapped = after.swapped.count() - before.swapped.count();
  if (faults * kFault < kShare * seconds && waited < kShare * seconds && swapped < kSpilled)
    return {};
  return fmt::format("{} resident of {} allowed, {} swapped out, {:.0f} pages read back from disk",
                     to_string(after.resident), to_string(after.allowed), to_string(after.swapped),
                     faults);
}

std::optional<std::string> of_others(const Vitals& before, const Vitals& after, double seconds,
                                     double) {
  const double all = static_cast<double>(after.processors) * seconds;
  const double others = (after.busy - before.busy) - (after.own - before.own);
  const double stolen = after.stolen - before.stolen;
  if (others < kOthers * all && stolen < kShare * all) return {};
  if (stolen > others)
    return fmt::format("{:.0f} % of the processors went to other guests of this machine's host",
                       100 * stolen / all);
  return fmt::format("{:.0f} % of the processors", 100 * std::min(1.0, others / all));
}

std::optional<std::string> of_heat(const Vitals& before, const Vitals& after, double,
                                   double usual_clock) {
  const uint64_t times = after.throttled - before.throttled;
  if (times > 0) return fmt::format("slowed down {} times", times);
  if (after.megahertz <= 0 || after.megahertz >= kSlowClock * usual_clock) return {};
  return fmt::format("{:.0f} MHz instead of {:.0f}", after.megahertz, usual_clock);
}

struct Row {
  SlowCause cause;
  std::string_view name;  // in the event
  std::string_view words;
  Evidence evidence;
};
constexpr std::array kRows = {
    Row{SlowCause::memory, "memory", "memory ran short", of_memory},
    Row{SlowCause::others, "other processes", "other programs were busy", of_others},
    Row{SlowCause::heat, "heat", "the processor was throttled", of_heat},
    Row{SlowCause::unknown, "unknown", "neither memory, other programs nor heat are to blame",
        nullptr},
};

const Row& row_of(SlowCause cause) { return kRows[static_cast<size_t>(cause)]; }

/// The type of `atelier quantize` that is next in size below files mostly in `encoding`.
struct Smaller {
  std::string_view encoding, type;
};
constexpr Smaller kSmaller[] = {
    {"F64", "BF16"},     {"F32", "BF16"},     {"F16", "Q8_0"},      {"BF16", "Q8_0"},
    {"F8_E4M3", "Q6_K"}, {"F8_E5M2", "Q6_K"}, {"Q8_0", "Q6_K"},     {"Q6_K", "Q5_K_M"},
    {"Q5_K", "Q4_K_M"},  {"Q5_1", "Q4_K_M"},  {"Q5_0", "Q4_K_M"},   {"Q4_K", "Q3_K_M"},
    {"Q4_0", "Q3_K_M"},  {"Q4_1", "Q3_K_M"},  {"IQ4_NL", "Q3_K_M"}, {"IQ4_XS", "Q3_K_M"},
    {"Q3_K", "Q2_K"},
};

int64_t lower(int64_t pixels) { return std::max(kGrid, (pixels - 1) / kGrid * kGrid); }

std::string less_memory(const RunSize& size) {
  std::string text = size.ram == Bytes() ? "Draw " : "Raise --ram, draw ";
  text += fmt::format("{}x{}", lower(size.width), lower(size.height));
  if (size.batch > 1) text += fmt::format(", --batch {}", size.batch - 1);
  const auto smaller = std::ranges::find(kSmaller, size.encoding, &Smaller::encoding);
  if (smaller != std::end(kSmaller))
    text += fmt::format(", use a smaller encoding ('atelier quantize --type {}')", smaller->type);
  if (size.could_tile) text += ", use --tiled-vae";
  return text + ", or end other programs";
}

/// 0 for fewer than two.
double median_of(std::vector<double> values) {
  if (values.size() < 2) return 0;
  const auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

}  // namespace

Diagnosis diagnose(const Vitals& before, const Vitals& after, double seconds, double usual_clock) {
  for (const Row& row : kRows)
    if (row.evidence)
      if (auto evidence = row.evidence(before, after, seconds, usual_clock))
        return {row.cause, std::move(*evidence)};
  return {};
}

std::string advice(SlowCause cause, const RunSize& size) {
  if (cause == SlowCause::memory) return less_memory(size);
  if (cause == SlowCause::others) return "End other programs, or leave them cores with --threads";
  if (cause == SlowCause::heat) return "See to the cooling, or use fewer --threads";
  return {};
}

void SlowSteps::begin(const Vitals& now) {
  last_ = now;
  clock_ = std::max(clock_, now.megahertz);
}

std::optional<Json> SlowSteps::step(double seconds, int64_t calls, const Vitals& now) {
  const Vitals before = std::exchange(last_, now);
  Vitals after = now;
  if (size_.ram > Bytes()) after.allowed = std::min(after.allowed, size_.ram);
  const double usual_clock = clock_ = std::max(clock_, now.megahertz);
  const auto times = static_cast<double>(std::max<int64_t>(calls, 1));
  const double median = times * median_of(past_), planned = times * planned_;
  past_.push_back(seconds / times);
  const auto beyond = [&](double usual, double far) {
    return usual > 0 && seconds > far * usual && seconds > usual + kNoticed;
  };
  const bool unusual = beyond(median, kFar), unplanned = beyond(planned, kFarFromPlan);
  if (!unusual && !unplanned) return {};
  const Diagnosis found = diagnose(before, after, seconds, usual_clock);
  if (!unusual && found.cause == SlowCause::unknown) return {};
  const double usual = unusual ? median : planned;
  const Row& row = row_of(found.cause);
  std::string message =
      fmt::format("this step took {:.1f} s instead of {:.1f} s: {}", seconds, usual, row.words);
  if (!found.evidence.empty()) message += fmt::format(" ({})", found.evidence);
  const std::string help = advice(found.cause, size_);
  if (!help.empty()) message += ". " + help;
  return Json{{"event", "slow_step"},
              {"seconds", seconds},
              {"usual", usual},
              {"against", unusual ? "median" : "plan"},
              {"cause", row.name},
              {"evidence", found.evidence},
              {"advice", help},
              {"message", message},
              {"first", told_.insert(found.cause).second}};
}

}  // namespace atelier
