// Decoding operands and preparing weights once.
#include "memory/weight.h"

#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/core/grad_mode.h>
#include <c10/core/InferenceMode.h>

#include <numeric>

#include "base/error.h"
#include "memory/entry.h"
#include "quant/decode.h"

namespace atelier {
namespace {

int64_t row_elements(const TensorInfo& info) {
  return info.shape.empty() ? 1 : info.elements() / std::max<int64_t>(1, info.shape[0]);
}

int64_t part_elements(const WeightPart& part, const TensorInfo& info) {
  return info.shape.empty() ? 1 : part.rows * row_elements(info);
}

int64_t elements_of(const Shape& shape) {
  return std::accumulate(shape.begin(), shape.end(), int64_t{1}, std::multiplies<>());
}

const TensorInfo& info_of(const WeightPart& part) {
  const auto found = part.source->tensors().find(part.name);
  ATELIER_CHECK(found != part.source->tensors().end());
  return found->second;
}

bool is_whole(const WeightPart& part, const TensorInfo& info) {
  return info.shape.empty() || part.rows == info.shape[0];
}

// The stored bytes of the part's rows, of an encoding without blocks.
std::span<const std::byte> bytes_of(const WeightPart& part, const TensorInfo& info) {
  const std::span<const std::byte> all = part.source->bytes(part.name);
  if (is_whole(part, info)) return all;
  const size_t row = all.size() / static_cast<size_t>(info.shape[0]);
  return all.subspan(static_cast<size_t>(part.first_row) * row,
                     static_cast<size_t>(part.rows) * row);
}

// The part's elements as stored, row by row.
void decode_rows(const WeightPart& part, const TensorInfo& info, at::Tensor out) {
  decode_range(part.source->bytes(part.name), info, part.first_row * row_elements(info), out,
               part.name);
}

void decode_part(const WeightPart& part, const at::Tensor& out) {
  const TensorInfo& info = info_of(part);
  if (!part.transposed) return decode_rows(part, info, out);
  const at::Tensor stored = at::empty({part.rows, row_elements(info)}, out.options());
  decode_rows(part, info, stored);
  out.view({row_elements(info), part.rows}).copy_(stored.t());
}

void decode_operand(const Operand& operand, const at::Tensor& out) {
  const at::Tensor flat = out.view({-1});
  int64_t at = 0;
  for (const WeightPart& part : operand.parts) {
    const int64_t n = part_elements(part, info_of(part));
    decode_part(part, flat.narrow(0, at, n));
    at += n;
  }
  ATELIER_CHECK(at == flat.numel());
}

// The operand where it lies; undefined where it does not lie in one piece as `dtype`.
at::Tensor view_of_operand(const Operand& operand, at::ScalarType dtype) {
  if (operand.parts.size() != 1 || operand.parts[0].transposed) return {};
  const WeightPart& part = operand.parts[0];
  const TensorInfo& info = info_of(part);
  if (same_dtype(info) != dtype) return {};
  return view_of(bytes_of(part, info), info.encoding, dtype, operand.shape, part.source);
}

// Fp32, with the patches merged.
at::Tensor patched(const Operand& operand, const std::vector<PlacedPatch>& patches) {
  at::Tensor weight = at::empty(operand.shape, at::dtype(at::kFloat));
  decode_operand(operand, weight);
  for (const PlacedPatch& placed : patches) {
    at::Tensor rows = weight.narrow(0, placed.first_row, placed.rows);
    placed.patch->apply(rows, placed.strength);
  }
  return weight;
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
  for (const auto& of_one : patches)
    for (const PlacedPatch& placed : of_one)
      if (!placed.patch->low_rank()) return false;
  return true;
}

int64_t prepared_bytes(const at::Tensor& tensor) {
  if (!tensor.is_mkldnn()) return static_cast<int64_t>(tensor.nbytes());
  static const auto nbytes = c10::Dispatcher::singleton()
                                 .findSchemaOrThrow("mkldnn::_nbytes", "")
                                 .typed<int64_t(const at::Tensor&)>();
  return nbytes.call(tensor);
}

}  // namespace

std::optional<at::ScalarType> Operands::stored_dtype() const {
  if (rounded_) return rounded_;
  if (merges()) return {};
  std::optional<at::ScalarType> common;
  for (const Operand& operand : operands_)
    for (const WeightPart& part : operand.parts) {
      const std::optional<at::ScalarType> same = same_dtype(info_of(part));
      if (!same || (common && common != same)) return {};
      common = same;
    }
  return common;
}

int64_t Operands::elements() const {
  int64_t elements = 0;
  for (const Operand& operand : operands_) elements += elements_of(operand.shape);
  return elements;
}

at::Tensor Operands::view(at::ScalarType dtype) const {
  if (operands_.size() != 1 || merges() || rounds_before(dtype)) return {};
  return view_of_operand(operands_[0], dtype);
}

at::Tensor Operands::decoded(size_t i, at::ScalarType dtype) const {
  if (rounds_before(dtype)) return decoded(i, *rounded_).to(dtype);
  const Operand& operand = operands_[i];
  if (merges() && !patches_[i].empty()) return patched(operand, patches_[i]).to(dtype);
  at::Tensor view = view_of_operand(operand, dtype);
  if (view.defined()) return view;
  at::Tensor out = at::empty(operand.shape, at::dtype(dtype));
  decode_operand(operand, out);
  return out;
}

at::Tensor Operands::joined(at::ScalarType dtype) const {
  if (rounds_before(dtype)) return joined(*rounded_).to(dtype);
  if (operands_.size() == 1) return decoded(0, dtype);
  Shape shape = operands_[0].shape;
  for (size_t i = 1; i < operands_.size(); ++i) shape[0] += operands_[i].shape[0];
  const at::Tensor out = at::empty(shape, at::dtype(dtype));
  int64_t row = 0;
  for (size_t i = 0; i < operands_.size(); ++i) {
    const at::Tensor rows = out.narrow(0, row, operands_[i].shape[0]);
    if (merges() && !patches_[i].empty())
      rows.copy_(patched(operands_[i], patches_[i]));
    else
      decode_operand(operands_[i], rows);
    row += operands_[i].shape[0];
  }
  return out;
}

bool Operands::streams() const {
  if (merges()) return false;
  return std::ranges::none_of(operands_, [](const Operand& operand) {
    return std::ranges::any_of(operand.parts, &WeightPart::transposed);
  });
}

void Operands::read(int64_t first, int64_t count, at::ScalarType dtype, void* to) const {
  ATELIER_CHECK(streams() && !rounds_before(dtype));
  char* out = static_cast<char*>(to);
  int64_t row = 0;  // of the joined operands
  for (const Operand& operand : operands_) {
    const int64_t width = elements_of(operand.shape) / operand.shape[0];
    int64_t begin = row;  // of the part
    for (const WeightPart& part : operand.parts) {
      const TensorInfo& info = info_of(part);
      const int64_t rows = part_elements(part, info) / width;
      const int64_t from = std::max(first, begin), end = std::min(first + count, begin + rows);
      if (from < end) {
        const int64_t start = part.first_row * row_elements(info) + (from - begin) * width;
        const int64_t elements = (end - from) * width;
        decode_range(part.source->bytes(part.name), info, start, elements, dtype, out, part.name);
        out += elements * static_cast<int64_t>(c10::elementSize(dtype));
      }
      begin += rows;
    }
    row += operand.shape[0];
  }
}

int64_t Operands::side_rank() const {
  int64_t rank = 0;
  if (beside_)
    for (const auto& of_one : patches_)
      for (const PlacedPatch& placed : of_one) rank += placed.patch->low_rank()->up.size(1);
  return rank;
}

std::optional<LowRank> Operands::side() const {
  if (!beside_ || patches_.empty()) return {};
  struct Placed {
    LowRank change;
    int64_t row;
    double strength;
  };
  std::vector<Placed> changes;
  int64_t rows = 0, rank = 0;
  for (size_t i = 0; i < operands_.size(); ++i) {
    for (const PlacedPatch& placed : patches_[i]) {
      std::optional<LowRank> change = placed.patch->low_rank();
      ATELIER_CHECK(change && change->up.size(0) == placed.rows &&
                    change->up.size(1) == change->down.size(0));
      rank += change->up.size(1);
      changes.push_back({std::move(*change), rows + placed.first_row, placed.strength});
    }
    rows += operands_[i].shape[0];
  }
  LowRank all{at::zeros({rows, rank}, at::dtype(at::kFloat)), {}};
  std::vector<at::Tensor> downs;
  int64_t column = 0;
  for (const Placed& placed : changes) {
    const at::Tensor& up = placed.change.up;
    const at::Tensor place = all.up.narrow(0, placed.row, up.size(0)).narrow(1, column, up.size(1));
    place.copy_(up * placed.strength);
    downs.push_back(placed.change.down);
    column += up.size(1);
  }
  all.down = at::cat(downs);
  return all;
}

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
  if (home_ == Home::stored) release_stored(nullptr);
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
  const Operands operands(operands_, patches, compute_.rounded, beside);
  at::Tensor prepared = form_.prepare(operands, compute_);
  const std::optional<LowRank> side = operands.side();
  if (!side) return Pin(std::move(prepared));
  return Pin(std::move(prepared), form_.prepare_down(side->down, compute_), side->down.size(0));
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
