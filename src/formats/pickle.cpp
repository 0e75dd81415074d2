// What the pickle machine does, opcode by opcode, within fixed limits. Longer than most files: all
// of it works on one stack.
#include "formats/pickle.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>

#include "base/error.h"
#include "formats/layout.h"
#include "formats/pickle_machine.h"

namespace atelier {
namespace {

constexpr size_t kMaxPickle = 64 << 20;  // data.pkl of the largest checkpoints is a few MB
constexpr size_t kMaxValues = 1'000'000;  // a tensor takes about 15
constexpr size_t kMaxItems = 4'000'000;
constexpr size_t kMaxStack = 1'000'000;
constexpr size_t kMaxText = 1 << 20;
constexpr std::string_view kConvert =
    "Only tensors are read from such files. Where you trust it, load it with torch.load and save "
    "its tensors with safetensors.torch.save_file";

}  // namespace

PickleTree PickleMachine::run() {
  if (reader_.remaining() > kMaxPickle)
    fail(fmt::format("at most {} bytes", kMaxPickle), fmt::format("{}", reader_.remaining()));
  while (!done_) {
    opcode_at_ = reader_.position();
    const auto code = reader_.number<uint8_t>("an opcode");
    const PickleOpcode* opcode = pickle_opcode(code);
    if (!opcode) fail("an opcode", fmt::format("byte 0x{:02x}", code));
    if (!opcode->run) refuse("opcodes", std::string(opcode->name));
    (this->*opcode->run)();
  }
  if (stack_.size() != 1 || !marks_.empty())
    fail("one value at the end", fmt::format("{}", stack_.size()));
  tree_.root = stack_.front();
  return std::move(tree_);
}

void PickleMachine::refuse(std::string what, std::string found) const {
  throw Error(ErrorCode::unsupported,
              {.subject = fmt::format("pickle byte {}", opcode_at_),
               .expected = fmt::format("only {} that describe tensors", what),
               .found = std::move(found),
               .hint = std::string(kConvert)});
}

void PickleMachine::fail(std::string expected, std::string found) const {
  throw Error(ErrorCode::malformed, {.subject = fmt::format("pickle byte {}", opcode_at_),
                                     .expected = std::move(expected),
                                     .found = std::move(found),
                                     .hint = std::string(kDamaged)});
}

void PickleMachine::grow(size_t count) const {
  if (count >= kMaxStack) fail(fmt::format("at most {} values at once", kMaxStack), "more");
}

void PickleMachine::count_items(size_t more) {
  item_count_ += more;
  if (item_count_ > kMaxItems) fail(fmt::format("at most {} elements", kMaxItems), "more");
}

void PickleMachine::push(PickleValue value) {
  if (tree_.values.size() >= kMaxValues) fail(fmt::format("at most {} values", kMaxValues), "more");
  count_items(value.items.size());
  grow(stack_.size());
  stack_.push_back(static_cast<PickleId>(tree_.values.size()));
  tree_.values.push_back(std::move(value));
}

PickleId PickleMachine::pop_id() {
  if (stack_.size() <= (marks_.empty() ? 0 : marks_.back())) fail("a value on the stack", "none");
  const PickleId id = stack_.back();
  stack_.pop_back();
  return id;
}

std::vector<PickleId> PickleMachine::take_to_mark() {
  if (marks_.empty()) fail("a mark on the stack", "none");
  const auto begin = stack_.begin() + static_cast<std::ptrdiff_t>(marks_.back());
  std::vector<PickleId> items(begin, stack_.end());
  stack_.erase(begin, stack_.end());
  marks_.pop_back();
  return items;
}

/// Adds `items` to the container on top of the stack.
void PickleMachine::extend(PickleKind kind, const std::vector<PickleId>& items) {
  const PickleId id = pop_id();
  stack_.push_back(id);
  PickleValue& value = tree_.values[id];
  if (value.kind != kind) fail("a container that takes elements", "another value");
  if (kind == PickleKind::dict && items.size() % 2 != 0) fail("keys with values", "an odd number");
  count_items(items.size());
  value.items.insert(value.items.end(), items.begin(), items.end());
}

void PickleMachine::remember(uint64_t index) {
  const PickleId id = pop_id();
  stack_.push_back(id);
  if (memo_.size() >= kMaxValues) fail(fmt::format("at most {} memo entries", kMaxValues), "more");
  memo_[index] = id;
}

void PickleMachine::recall(uint64_t index) {
  const auto found = memo_.find(index);
  if (found == memo_.end()) fail("a memo entry", fmt::format("no entry {}", index));
  grow(stack_.size());
  stack_.push_back(found->second);
}

std::string_view PickleMachine::sized_text(uint64_t size) {
  if (size > kMaxText)
    fail(fmt::format("texts of at most {} bytes", kMaxText), fmt::format("{}", size));
  return reader_.text(size, "a text");
}

/// A line of at most 255 bytes, without its newline.
std::string_view PickleMachine::line() {
  constexpr size_t kLongestLine = 255;
  std::string_view text;
  for (size_t length = 0; length <= kLongestLine; ++length) {
    const std::string_view next = reader_.text(1, "a name");
    if (next == "\n") return text;
    text = {text.empty() ? next.data() : text.data(), length + 1};
  }
  fail(fmt::format("a name of at most {} bytes", kLongestLine), "a longer one");
}

void PickleMachine::protocol() {
  const auto version = reader_.number<uint8_t>("the protocol");
  if (version < 2 || version > 5) fail("protocol 2 to 5", fmt::format("{}", version));
}

void PickleMachine::pop() {
  if (!marks_.empty() && marks_.back() == stack_.size())
    marks_.pop_back();
  else
    pop_id();
}

void PickleMachine::long_integer() {
  const auto size = reader_.number<uint8_t>("the length of an integer");
  const auto bytes = reader_.take(size, "an integer");
  if (size > sizeof(int64_t)) return push({.kind = PickleKind::opaque});
  const bool negative = size > 0 && (bytes.back() & std::byte{0x80}) != std::byte{0};
  int64_t value = negative ? -1 : 0;
  std::memcpy(&value, bytes.data(), size);
  push({.kind = PickleKind::integer, .integer = value});
}

void PickleMachine::real() {
  const auto bits = __builtin_bswap64(reader_.number<uint64_t>("a number"));
  push({.kind = PickleKind::real, .real = std::bit_cast<double>(bits)});
}

void PickleMachine::append() {
  const PickleId item = pop_id();
  extend(PickleKind::list, {item});
}

void PickleMachine::set_item() {
  const PickleId value = pop_id();
  const PickleId key = pop_id();
  extend(PickleKind::dict, {key, value});
}

void PickleMachine::global() {
  const std::string_view module = line();
  push_global(module, line());
}

void PickleMachine::stack_global() {
  const PickleId name = pop_id();
  const PickleId module = pop_id();
  for (const PickleId id : {module, name})
    if (tree_[id].kind != PickleKind::text) fail("names as text", "another value");
  push_global(tree_[module].text, tree_[name].text);
}

void PickleMachine::push_global(std::string_view module, std::string_view name) {
  const auto rows = pickle_globals();
  const auto row = std::find_if(rows.begin(), rows.end(), [&](const PickleGlobal& global) {
    return global.module == module && global.name == name;
  });
  if (row == rows.end()) refuse("globals", in_quotes(fmt::format("{}.{}", module, name)));
  push({.kind = PickleKind::global, .global = &*row});
}

void PickleMachine::reduce() {
  const PickleId arguments = pop_id();
  const PickleId callee = pop_id();
  if (tree_[arguments].kind != PickleKind::tuple) fail("arguments as a tuple", "another value");
  if (tree_[callee].kind != PickleKind::global) fail("a global to call", "another value");
  PickleValue call{.kind = PickleKind::call, .global = tree_[callee].global};
  call.items = tree_[arguments].items;
  const auto first = [&]() -> const PickleValue* {
    return call.items.empty() ? nullptr : &tree_[call.items.front()];
  };
  if (call.global->role == GlobalRole::ordered_dict) {
    std::vector<PickleId> items;
    for (const PickleId pair : first() ? first()->items : std::vector<PickleId>()) {
      if (tree_[pair].items.size() != 2) fail("pairs of key and value", "another value");
      items.insert(items.end(), tree_[pair].items.begin(), tree_[pair].items.end());
    }
    call.kind = PickleKind::dict;
    call.items = std::move(items);
  } else if (call.global->role == GlobalRole::set || call.global->role == GlobalRole::size) {
    call.kind = call.global->role == GlobalRole::set ? PickleKind::set : PickleKind::tuple;
    call.items = first() ? first()->items : std::vector<PickleId>();
  } else if (call.global->role == GlobalRole::opaque) {
    call.kind = PickleKind::opaque;
  }
  push(std::move(call));
}

/// Of all classes, torch's dictionary of parameters alone is let in.
void PickleMachine::new_object() {
  const size_t base = marks_.empty() ? 0 : marks_.back();
  const PickleGlobal* type =
      stack_.size() < base + 2 ? nullptr : tree_[stack_[stack_.size() - 2]].global;
  if (!type || type->role != GlobalRole::parameter_dict) refuse("opcodes", "NEWOBJ");
  pop_id();
  pop_id();
  push({.kind = PickleKind::dict, .global = type});
}

/// The state of a dict (a state dict's `_metadata`) says nothing about tensors and is dropped; that
/// of a dictionary of parameters has them.
void PickleMachine::build() {
  const PickleId state = pop_id();
  const PickleId id = pop_id();
  stack_.push_back(id);
  if (tree_[id].kind != PickleKind::dict)
    refuse("opcodes", "BUILD of an object other than a dictionary");
  if (!tree_[id].global || tree_[id].global->role != GlobalRole::parameter_dict) return;
  if (tree_[state].kind != PickleKind::dict) fail("a state as a dictionary", "another value");
  const std::vector<PickleId>& entries = tree_[state].items;
  for (size_t i = 0; i < entries.size(); i += 2)
    if (tree_[entries[i]].text == "_parameters" && tree_[entries[i + 1]].kind == PickleKind::dict)
      return extend(PickleKind::dict, std::vector(tree_[entries[i + 1]].items));
}

void PickleMachine::persistent() {
  const PickleId id = pop_id();
  push({.kind = PickleKind::persistent, .items = {id}});
}

PickleTree read_pickle(std::span<const std::byte> bytes) { return PickleMachine(bytes).run(); }

}  // namespace atelier
