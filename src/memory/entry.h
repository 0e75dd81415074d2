// What lies behind a weight's handle, and the counters all entries of one Residency share.
#pragma once

#include <atomic>
#include <memory>
#include <mutex>
#include <optional>
#include <vector>

#include "memory/residency.h"
#include "memory/slots.h"
#include "memory/weight.h"

namespace atelier {

struct Residency::State {
  std::mutex mutex;
  std::vector<std::weak_ptr<Weight::Entry>> entries;  // in the order of binding
  PatchTable patches;
  std::shared_ptr<Slots> slots = std::make_shared<Slots>();
  std::atomic<int64_t> weight_bytes = 0, peak_weight_bytes = 0;

  /// Those that have handles, in the order of binding; and of these, those that are not prepared on
  /// demand.
  std::vector<std::shared_ptr<Weight::Entry>> all();
  std::vector<std::shared_ptr<Weight::Entry>> live();
  void add_entry(const std::shared_ptr<Weight::Entry>& entry);
  void count(int64_t bytes);
  /// Patches by operand; empty if no operand has any.
  OperandPatches patches_of(const std::vector<Operand>& operands);
};

/// Where a weight is between its uses.
enum class Home : uint8_t {
  disk,
  stored,  // in memory as the file has it
  prepared,
};

class Weight::Entry {
 public:
  Entry(std::shared_ptr<Residency::State> state, std::vector<Operand> operands, Form form,
        Compute compute);
  ~Entry();
  Entry(const Entry&) = delete;
  Entry& operator=(const Entry&) = delete;

  Pin pin();
  bool with_stored(const std::function<void(const Operands& operands)>& use) const;
  at::Tensor rows(const at::Tensor& ids);
  bool as_stored() const;
  /// Lets the prepared tensor go; nobody may have it pinned or be about to.
  void drop();
  void set_home(Home home);
  Home home() const { return home_; }
  /// Bytes of the prepared tensor, worked out from shapes; a view's are the file's.
  int64_t expected_bytes() const;
  bool prepared() const { return ready_.load(std::memory_order_acquire); }
  bool on_demand() const { return form_.on_demand; }
  bool read_as_stored() const { return form_.read_as_stored; }
  std::string_view form() const { return form_.name; }
  /// Starts fetching the stored bytes.
  void will_need() const;
  /// Size as stored, a measure of the work of preparing.
  int64_t stored_bytes() const;
  const std::vector<Operand>& operands() const { return operands_; }
  const Compute& compute() const { return compute_; }
  const std::shared_ptr<Residency::State>& state() const { return state_; }

 private:
  Pin prepare() const;
  void keep(Pin pin);
  /// Unless `pin` views them.
  void release_stored(const Pin* pin) const;

  std::shared_ptr<Residency::State> state_;
  std::vector<Operand> operands_;
  Form form_;
  Compute compute_;
  std::mutex mutex_;
  std::atomic<bool> ready_ = false;
  Home home_ = Home::prepared;
  std::optional<Pin> prepared_;  // written before ready_
  int64_t bytes_ = 0;
};

}  // namespace atelier
