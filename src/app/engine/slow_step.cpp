// Thresholds, causes and remedies as tables.
#include "app/engine/slow_step.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>

namespace atelier {
namespace {

constexpr double kFar = 1.5, kFarFromPlan = 2, kFarWithoutCause = 4;  // times the usual
constexpr double kNoticed = 0.2, kLeastPlan = 0.1;  // seconds
constexpr double kFault = 2e-4;  // seconds a page from a disk takes, at least
constexpr double kDisk = 500e6;  // bytes a second that a good disk reads in passing
constexpr int64_t kPage = 4096;  // bytes a fault reads, at least
constexpr double kShare = 0.1;  // of the step's time, that a cause must explain
constexpr double kOthers = 0.15;  // of all processors
constexpr double kSlowClock = 0.8;  // of the usual
constexpr int64_t kSpilled = 1 << 20;  // bytes newly swapped out
constexpr int64_t kMuch = 8;  // one part in so many is worth raising --ram
constexpr int64_t kGrid = 16;  // pixels

/// What one cause looks like; nothing if it is not to be seen.
using Evidence = std::optional<std::string> (*)(const StepSeen& step);

Bytes read_in(const StepSeen& step) {
  const auto faults = static_cast<int64_t>(step.after.major_faults - step.before.major_faults);
  return std::max(step.after.read - step.before.read, Bytes(faults * kPage));
}

bool reading_explains(const StepSeen& step) {
  const auto faults = static_cast<double>(step.after.major_faults - step.before.major_faults);
  const double reading = static_cast<double>(read_in(step).count()) / kDisk;
  return std::max(reading, faults * kFault) >= kShare * step.seconds;
}

bool memory_was_short(const StepSeen& step) {
  return step.after.memory_stall - step.before.memory_stall >= kShare * step.seconds ||
         (step.after.swapped - step.before.swapped).count() >= kSpilled;
}

std::optional<std::string> of_first_reading(const StepSeen& step) {
  if (!step.first || memory_was_short(step) || !reading_explains(step)) return {};
  return to_string(read_in(step));
}

std::optional<std::string> of_memory(const StepSeen& step) {
  if (!memory_was_short(step) && !reading_explains(step)) return {};
  return fmt::format("{} resident of {} allowed, {} swapped out, {} read back from disk",
                     to_string(step.after.resident), to_string(step.after.allowed),
                     to_string(step.after.swapped), to_string(read_in(step)));
}

std::optional<std::string> of_limit(const StepSeen& step) {
  const double held = step.after.held_back - step.before.held_back;
  if (held <= 0 || held < kShare * step.seconds) return {};
  return fmt::format("{:.1f} s of processors held back", held);
}

std::optional<std::string> of_others(const StepSeen& step) {
  const double all = static_cast<double>(step.after.processors) * step.seconds;
  const double others = (step.after.busy - step.before.busy) - (step.after.own - step.before.own);
  const double stolen = step.after.stolen - step.before.stolen;
  if (others < kOthers * all && stolen < kShare * all) return {};
  if (stolen > others)
    return fmt::format("{:.0f} % of the processors went to other guests of this machine's host",
                       100 * stolen / all);
  return fmt::format("{:.0f} % of the processors", 100 * std::min(1.0, others / all));
}

std::optional<std::string> of_heat(const StepSeen& step) {
  const uint64_t times = step.after.throttled - step.before.throttled;
  if (times > 0) return fmt::format("slowed down {} times", times);
  const double clock = step.after.megahertz;
  if (clock <= 0 || clock >= kSlowClock * step.usual_clock) return {};
  return fmt::format("{:.0f} MHz instead of {:.0f}", clock, step.usual_clock);
}

struct Row {
  SlowCause cause;
  std::string_view name;  // in the event
  std::string_view words;
  Evidence evidence;
};
constexpr std::array kRows = {
    Row{SlowCause::first_reading, "first reading", "weights were read from disk for the first time",
        of_first_reading},
    Row{SlowCause::memory, "memory", "memory ran short", of_memory},
    Row{SlowCause::limit, "processor limit", "the container's processor limit was reached",
        of_limit},
    Row{SlowCause::others, "other processes", "other programs were busy", of_others},
    Row{SlowCause::heat, "heat", "the processor was throttled", of_heat},
    Row{SlowCause::unknown, "unknown", "neither memory, other programs nor heat are to blame",
        nullptr},
};

const Row& row_of(SlowCause cause) { return kRows[static_cast<size_t>(cause)]; }

/// The type of `atelier quantize` that is next in size below files mostly in `encoding`. Those of
/// no more bits than Q2_K have none.
struct Smaller {
  std::string_view encoding, type;
};
constexpr Smaller kSmaller[] = {
    {"F64", "BF16"},     {"F32", "BF16"},       {"F16", "Q8_0"},         {"BF16", "Q8_0"},
    {"F8_E4M3", "Q6_K"}, {"F8_E5M2", "Q6_K"},   {"F8_E4M3FNUZ", "Q6_K"}, {"F8_E5M2FNUZ", "Q6_K"},
    {"I8", "Q6_K"},      {"Q8_0", "Q6_K"},      {"Q8_1", "Q6_K"},        {"Q8_K", "Q6_K"},
    {"Q6_K", "Q5_K_M"},  {"F6_E2M3", "Q5_K_M"}, {"F6_E3M2", "Q5_K_M"},   {"Q5_K", "Q4_K_M"},
    {"Q5_1", "Q4_K_M"},  {"Q5_0", "Q4_K_M"},    {"Q4_K", "Q3_K_M"},      {"Q4_0", "Q3_K_M"},
    {"Q4_1", "Q3_K_M"},  {"IQ4_NL", "Q3_K_M"},  {"IQ4_XS", "Q3_K_M"},    {"MXFP4", "Q3_K_M"},
    {"NVFP4", "Q3_K_M"}, {"NF4", "Q3_K_M"},     {"FP4", "Q3_K_M"},       {"E2M1", "Q3_K_M"},
    {"F4", "Q3_K_M"},    {"Q3_K", "Q2_K"},      {"IQ3_S", "Q2_K"},       {"IQ3_XXS", "Q2_K"},
};

int64_t lower(int64_t pixels) { return std::max(kGrid, (pixels - 1) / kGrid * kGrid); }

/// What to do with --ram: more helps where the system has it to give, less where it has not.
std::string_view change_ram(const RunSize& size, const Vitals& now) {
  if (size.ram == Bytes()) return "Draw ";
  const Bytes could_hold = std::min(now.allowed, now.resident + now.available);
  return could_hold > size.ram + Bytes(size.ram.count() / kMuch) ? "Raise --ram, draw "
                                                                 : "Lower --ram, draw ";
}

std::string less_memory(const RunSize& size, const Vitals& now) {
  std::string text(change_ram(size, now));
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

Diagnosis diagnose(const StepSeen& step) {
  for (const Row& row : kRows)
    if (row.evidence)
      if (auto evidence = row.evidence(step)) return {row.cause, std::move(*evidence)};
  return {};
}

std::string advice(SlowCause cause, const RunSize& size, const Vitals& now) {
  if (cause == SlowCause::memory) return less_memory(size, now);
  if (cause == SlowCause::limit)
    return "Allow the container more processors, or use no more --threads than it has";
  if (cause == SlowCause::others) return "End other programs, or leave them cores with --threads";
  if (cause == SlowCause::heat) return "See to the cooling, or use fewer --threads";
  return {};
}

void SlowSteps::begin(const Vitals& now) {
  last_ = now;
  clock_ = std::max(clock_, now.megahertz);
}

std::optional<Json> SlowSteps::step(double seconds, int64_t calls, const Vitals& now) {
  StepSeen seen{.before = std::exchange(last_, now),
                .after = now,
                .seconds = seconds,
                .usual_clock = clock_ = std::max(clock_, now.megahertz),
                .first = past_.empty()};
  if (size_.ram > Bytes()) seen.after.allowed = std::min(now.allowed, size_.ram);
  const auto times = static_cast<double>(std::max<int64_t>(calls, 1));
  const double median = times * median_of(past_), planned = times * planned_;
  past_.push_back(seconds / times);
  const auto beyond = [&](double usual, double far) {
    return usual > 0 && seconds > far * usual && seconds > usual + kNoticed;
  };
  const bool unusual = beyond(median, kFar);
  const bool unplanned = planned >= kLeastPlan && beyond(planned, kFarFromPlan);
  if (!unusual && !unplanned) return {};
  const Diagnosis found = diagnose(seen);
  const bool unsure = found.cause == SlowCause::unknown;
  if (!unusual && unsure && (median > 0 || !beyond(planned, kFarWithoutCause))) return {};
  const double usual = unusual ? median : planned;
  const Row& row = row_of(found.cause);
  std::string message = fmt::format("this step took {:.1f} s instead of {}{:.1f} s: {}", seconds,
                                    unusual ? "" : "an estimated ", usual, row.words);
  if (!found.evidence.empty()) message += fmt::format(" ({})", found.evidence);
  const std::string help = advice(found.cause, size_, now);
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
