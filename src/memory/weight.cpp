// Preparing weights once, or for each use.
#include "memory/weight.h"

#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/core/grad_mode.h>
#include <c10/core/InferenceMode.h>

#include <algorithm>

#include "base/error.h"
#include "memory/entry.h"
#include "memory/parts.h"
#include "quant/decode.h"

namespace atelier {
namespace {

// Whether all patches cost at most what the matrix [out, in] itself does, those of rank r on some
// rows r (in + rows) products. Depends on nothing but patches and shapes.
bool pays_beside(const std::vector<Operand>& operands, const OperandPatches& patches) {
  int64_t out = 0, elements = 0, beside = 0;
  for (const Operand& operand : operands) {
    out += operand.shape[0];
    elements += elements_of(operand.shape);
  }
  for (const auto& of_one : patches)
    for (const PlacedPatch& placed : of_one) {
      const std::optional<LowRank> product = placed.patch->low_rank();
      if (!product) return false;
      beside += product->up.size(1) * (elements / std::max<int64_t>(out, 1) + placed.rows);
    }
  return beside <= elements;
}

// Whether the layer can leave the stored matrix alone and run its patches beside it.
bool runs_beside(const std::vector<Operand>& operands, const OperandPatches& patches) {
  const auto quantised = [](const WeightPart& part) {
    return encoding_info(info_of(part).encoding).block_elements > 1 ||
           encoding_info(info_of(part).encoding).block_bytes < 2;
  };
  if (std::ranges::none_of(operands, [&](const Operand& operand) {
        return std::ranges::any_of(operand.parts, quantised);
      }))
    return false;
  return pays_beside(operands, patches);
}

int64_t prepared_bytes(const at::Tensor& tensor) {
  if (!tensor.is_mkldnn()) return static_cast<int64_t>(tensor.nbytes());
  static const auto nbytes = c10::Dispatcher::singleton()
                                 .findSchemaOrThrow("mkldnn::_nbytes", "")
                                 .typed<int64_t(const at::Tensor&)>();
  return nbytes.call(tensor);
}

}  // namespace

Form plain_form() {
  return {.name = "plain", .prepare = [](const Operands& operands, const Compute& compute) {
            return operands.joined(compute.dtype).to(compute.device.torch());
          }};
}

Form rows_form() {
  Form form = plain_form();
  form.name = "rows";
  form.on_demand = true;
  return form;
}

Form fp32_form() {
  return {.name = "fp32",
          .prepare =
              [](const Operands& operands, const Compute& compute) {
                return operands.joined(at::kFloat).to(compute.device.torch());
              },
          .size =
              [](const Operands& operands, const Compute&) {
                return operands.elements() * static_cast<int64_t>(sizeof(float));
              }};
}

Pin Weight::pin() const {
  ATELIER_CHECK(entry_);
  return entry_->pin();
}

at::Tensor Weight::rows(const at::Tensor& ids) const {
  ATELIER_CHECK(entry_);
  return entry_->rows(ids);
}

bool Weight::as_stored() const { return entry_->as_stored(); }

bool Weight::stored_in(Encoding encoding) const {
  return std::ranges::all_of(entry_->operands(), [&](const Operand& operand) {
    return std::ranges::all_of(
        operand.parts, [&](const WeightPart& part) { return info_of(part).encoding == encoding; });
  });
}

Weight Weight::as(Form form) const { return gather({*this}, std::move(form)); }

bool Weight::with_stored(const std::function<void(const Operands& operands)>& use) const {
  return entry_->with_stored(use);
}

const Shape& Weight::shape(size_t operand) const { return entry_->operands()[operand].shape; }

const Compute& Weight::compute() const { return entry_->compute(); }

Weight gather(const std::vector<Weight>& weights, Form form) {
  ATELIER_CHECK(!weights.empty());
  std::vector<Operand> operands;
  for (const Weight& weight : weights) {
    if (!weight) return {};
    ATELIER_CHECK(weight.compute() == weights[0].compute());
    const auto& own = weight.entry_->operands();
    operands.insert(operands.end(), own.begin(), own.end());
  }
  const Weight::Entry& first = *weights[0].entry_;
  auto entry = std::make_shared<Weight::Entry>(first.state(), std::move(operands), std::move(form),
                                               first.compute());
  first.state()->add_entry(entry);
  return Weight(std::move(entry));
}

Weight::Entry::Entry(std::shared_ptr<Residency::State> state, std::vector<Operand> operands,
                     Form form, Compute compute)
    : state_(std::move(state)),
      operands_(std::move(operands)),
      form_(std::move(form)),
      compute_(compute) {}

Weight::Entry::~Entry() {
  state_->count(-bytes_);
  if (home_ == Home::stored || form_.read_as_stored) release_stored(nullptr);
}

int64_t Weight::Entry::stored_bytes() const {
  int64_t bytes = 0;
  for (const Operand& operand : operands_)
    for (const WeightPart& part : operand.parts) bytes += static_cast<int64_t>(info_of(part).size);
  return bytes;
}

void Weight::Entry::will_need() const {
  for (const Operand& operand : operands_)
    for (const WeightPart& part : operand.parts) part.source->will_need(part.name);
}

void Weight::Entry::release_stored(const Pin* pin) const {
  const bool plain = pin && !(*pin)->is_mkldnn();
  const void* const prepared = plain ? (*pin)->const_data_ptr() : nullptr;
  for (const Operand& operand : operands_)
    for (const WeightPart& part : operand.parts) {
      const std::span<const std::byte> bytes = part.source->bytes(part.name);
      const bool viewed = prepared >= bytes.data() && prepared < bytes.data() + bytes.size();
      if (!viewed) part.source->wont_need(part.name);
    }
}

Pin Weight::Entry::pin() {
  if (home_ != Home::prepared) {
    Pin pin = prepare();
    if (home_ == Home::disk) release_stored(&pin);
    return pin;
  }
  if (!prepared()) {
    const std::lock_guard lock(mutex_);
    if (!prepared()) keep(prepare());
  }
  return *prepared_;
}

bool Weight::Entry::with_stored(const std::function<void(const Operands&)>& use) const {
  const OperandPatches patches = state_->patches_of(operands_);
  const Operands operands(operands_, patches, compute_.rounded, runs_beside(operands_, patches));
  if (!operands.streams()) return false;
  use(operands);
  if (home_ == Home::disk) release_stored(nullptr);
  return true;
}

bool Weight::Entry::as_stored() const {
  const std::vector<WeightPart>& parts = operands_[0].parts;
  const bool rounded = compute_.rounded && compute_.rounded != compute_.dtype;
  return operands_.size() == 1 && parts.size() == 1 && !parts[0].transposed && !rounded &&
         same_dtype(info_of(parts[0])) == compute_.dtype;
}

at::Tensor Weight::Entry::rows(const at::Tensor& ids) {
  const OperandPatches patches = state_->patches_of(operands_);
  const Operands operands(operands_, patches, compute_.rounded, false);
  if (as_stored() || prepared() || !operands.streams()) return at::embedding(*pin(), ids);
  const int64_t rows = operands_[0].shape[0], width = elements_of(operands_[0].shape) / rows;
  const at::Tensor flat = ids.to(at::kCPU, at::kLong).contiguous().view({-1});
  const auto* wanted = flat.const_data_ptr<int64_t>();
  const at::ScalarType dtype = compute_.rounded.value_or(compute_.dtype);
  const at::Tensor out = at::empty({flat.numel(), width}, at::dtype(dtype));
  char* to = static_cast<char*>(out.mutable_data_ptr());
  for (int64_t i = 0; i < flat.numel(); ++i) {
    if (wanted[i] < 0 || wanted[i] >= rows)
      throw Error(ErrorCode::invalid_argument, {.subject = operands_[0].parts[0].name,
                                                .expected = "a row below " + std::to_string(rows),
                                                .found = std::to_string(wanted[i])});
    operands.read(wanted[i], 1, dtype, to + i * width * out.element_size());
  }
  Shape shape = ids.sizes().vec();
  shape.push_back(width);
  return out.to(compute_.dtype).to(compute_.device.torch()).view(shape);
}

Pin Weight::Entry::prepare() const {
  // Outside inference mode whoever comes first, so that the tensor is the same kind for everyone.
  const c10::InferenceMode off(false);
  const at::NoGradGuard no_gradients;
  const OperandPatches patches = state_->patches_of(operands_);
  const bool beside = form_.prepare_down && runs_beside(operands_, patches);
  Slots* const slots = home_ == Home::prepared ? nullptr : state_->slots.get();
  const Operands operands(operands_, patches, compute_.rounded, beside, slots);
  at::Tensor prepared = form_.prepare(operands, compute_);
  std::optional<Side> side = operands.side();
  if (!side) return Pin(std::move(prepared));
  return Pin(std::move(prepared), form_.prepare_down(side->down, compute_), side->down.size(0),
             std::make_shared<const std::vector<TailRange>>(std::move(side->ranges)));
}

void Weight::Entry::keep(Pin pin) {
  bytes_ = prepared_bytes(*pin) + (pin.rank() > 0 ? prepared_bytes(pin.down()) : 0);
  prepared_ = std::move(pin);
  state_->count(bytes_);
  release_stored(&*prepared_);
  ready_.store(true, std::memory_order_release);
}

void Weight::Entry::drop() {
  const std::lock_guard lock(mutex_);
  if (!prepared()) return;
  ready_.store(false, std::memory_order_release);
  prepared_.reset();
  state_->count(-std::exchange(bytes_, 0));
}

void Weight::Entry::set_home(Home home) {
  home_ = home;
  if (home != Home::prepared) drop();
}

int64_t Weight::Entry::expected_bytes() const {
  const OperandPatches patches = state_->patches_of(operands_);
  const bool beside = form_.prepare_down && runs_beside(operands_, patches);
  const Operands operands(operands_, patches, compute_.rounded, beside);
  if (form_.size) return form_.size(operands, compute_);
  return operands.elements() * static_cast<int64_t>(c10::elementSize(compute_.dtype));
}

}  // namespace atelier
