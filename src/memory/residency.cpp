// The list of live weights and their bytes.
#include "memory/residency.h"

#include <algorithm>

#include "base/error.h"
#include "memory/entry.h"

namespace atelier {
namespace {
constexpr size_t kAhead = 8;  // weights whose bytes are asked for before their turn
constexpr int64_t kSmall = 64 << 10;  // bytes up to which preparing costs more than keeping
}  // namespace

void Residency::State::add_entry(const std::shared_ptr<Weight::Entry>& entry) {
  const std::lock_guard lock(mutex);
  entries.push_back(entry);
}

OperandPatches Residency::State::patches_of(const std::vector<Operand>& operands) {
  const std::lock_guard lock(mutex);
  OperandPatches found(operands.size());
  bool any = false;
  for (size_t i = 0; i < operands.size(); ++i)
    if (const auto placed = patches.find(operands[i].name); placed != patches.end()) {
      found[i] = placed->second;
      any = any || !found[i].empty();
    }
  return any ? found : OperandPatches();
}

void Residency::State::count(int64_t bytes) {
  const int64_t now = weight_bytes.fetch_add(bytes) + bytes;
  int64_t peak = peak_weight_bytes.load();
  while (now > peak && !peak_weight_bytes.compare_exchange_weak(peak, now)) {
  }
}

Residency::Residency() : state_(std::make_shared<State>()) {}
Residency::~Residency() = default;

Weight Residency::bind(Operand operand, Form form, const Compute& compute) {
  std::vector<Operand> operands;
  operands.push_back(std::move(operand));
  auto entry =
      std::make_shared<Weight::Entry>(state_, std::move(operands), std::move(form), compute);
  state_->add_entry(entry);
  return Weight(std::move(entry));
}

std::vector<std::shared_ptr<Weight::Entry>> Residency::State::all() {
  const std::lock_guard lock(mutex);
  std::erase_if(entries, [](const auto& entry) { return entry.expired(); });
  std::vector<std::shared_ptr<Weight::Entry>> found;
  for (const auto& weak : entries)
    if (auto entry = weak.lock()) found.push_back(std::move(entry));
  return found;
}

std::vector<std::shared_ptr<Weight::Entry>> Residency::State::live() {
  std::vector<std::shared_ptr<Weight::Entry>> found = all();
  std::erase_if(found, [](const auto& entry) { return entry->on_demand(); });
  return found;
}

Residency::Needs Residency::needs() const {
  Needs needs;
  for (const auto& entry : state_->all()) {
    if (entry->read_as_stored()) needs.as_stored += Bytes(entry->stored_bytes());
    if (entry->on_demand()) continue;
    const Bytes prepared(entry->expected_bytes());
    needs.prepared += prepared;
    needs.stored += Bytes(entry->stored_bytes());
    needs.largest = std::max(needs.largest, prepared);
  }
  return needs;
}

int64_t Residency::count_form(std::string_view name) const {
  return std::ranges::count_if(state_->live(),
                               [&](const auto& entry) { return entry->form() == name; });
}

void Residency::keep(const Stay& stay) {
  for (const auto& entry : state_->all())
    if (entry->read_as_stored()) entry->set_home(stay.as_stored ? Home::prepared : Home::disk);
  const auto entries = state_->live();
  std::vector<int64_t> sizes;
  int64_t small = 0, large = 0;
  for (const auto& entry : entries) {
    sizes.push_back(entry->expected_bytes());
    (sizes.back() < kSmall ? small : large) += sizes.back();
  }
  const double share =
      large == 0 ? 1
                 : static_cast<double>(stay.prepared.count() - small) / static_cast<double>(large);
  int64_t largest = 0;  // of those that do not stay
  double allowed = 0;  // of the weights so far, less what stays of them
  for (size_t i = 0; i < entries.size(); ++i) {
    const auto size = static_cast<double>(sizes[i]);
    const bool is_small = sizes[i] < kSmall;
    if (!is_small) allowed += share * size;
    const bool stays = is_small || share >= 1 || allowed >= size;
    if (stays && !is_small) allowed -= size;
    if (!stays) largest = std::max(largest, sizes[i]);
    entries[i]->set_home(stays ? Home::prepared : stay.stored ? Home::stored : Home::disk);
  }
  state_->slots->expect(largest);
}

void Residency::set_patches(PatchTable patches) {
  std::vector<std::shared_ptr<Weight::Entry>> changed;
  {
    const std::lock_guard lock(state_->mutex);
    const auto of = [](const PatchTable& table, const std::string& name) {
      const auto found = table.find(name);
      return found == table.end() ? std::vector<PlacedPatch>() : found->second;
    };
    for (const auto& weak : state_->entries)
      if (auto entry = weak.lock())
        if (std::ranges::any_of(entry->operands(), [&](const Operand& operand) {
              return of(state_->patches, operand.name) != of(patches, operand.name);
            }))
          changed.push_back(std::move(entry));
    state_->patches = std::move(patches);
  }
  for (const auto& entry : changed) entry->drop();
}

void Residency::prepare_all(const std::function<bool(double)>& progress) {
  std::vector<std::shared_ptr<Weight::Entry>> waiting;
  int64_t total = 0, done = 0;
  for (auto& entry : state_->live()) {
    if (entry->home() == Home::stored) entry->will_need();
    if (entry->home() != Home::prepared || entry->prepared()) continue;
    total += entry->stored_bytes();
    waiting.push_back(std::move(entry));
  }
  for (size_t i = 0; i < std::min(waiting.size(), kAhead); ++i) waiting[i]->will_need();
  for (size_t i = 0; i < waiting.size(); ++i) {
    if (i + kAhead < waiting.size()) waiting[i + kAhead]->will_need();
    std::shared_ptr<Weight::Entry>& entry = waiting[i];
    entry->pin();
    done += entry->stored_bytes();
    entry.reset();
    if (progress && !progress(static_cast<double>(done) / static_cast<double>(total))) return;
  }
}

Bytes Residency::weight_bytes() const { return Bytes(state_->weight_bytes.load()); }
Bytes Residency::peak_weight_bytes() const { return Bytes(state_->peak_weight_bytes.load()); }

}  // namespace atelier
