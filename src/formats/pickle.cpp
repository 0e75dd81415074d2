// The pickle machine: a table of opcodes, a stack of value indices, a memo.
#include "formats/pickle.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <unordered_map>

#include "base/error.h"
#include "formats/byte_reader.h"
#include "formats/layout.h"

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

class PickleMachine {
 public:
  explicit PickleMachine(std::span<const std::byte> bytes) : reader_(bytes, "pickle") {}
  PickleTree run();

  // Opcodes. Each is one row of kOpcodes.
  void protocol();
  void skip_frame() { reader_.take(8, "a frame"); }
  void mark() { grow(marks_.size()), marks_.push_back(stack_.size()); }
  void stop() { done_ = true; }
  void pop();
  void pop_mark() { take_to_mark(); }
  void none() { push({.kind = PickleKind::none}); }
  template <int kValue>
  void boolean() {
    push({.kind = PickleKind::boolean, .integer = kValue});
  }
  template <class T>
  void integer() {
    push({.kind = PickleKind::integer, .integer = reader_.number<T>("an integer")});
  }
  void long_integer();
  void real();
  template <class Size>
  void text() {
    push({.kind = PickleKind::text, .text = sized_text<Size>()});
  }
  template <class Size>
  void bytes() {
    sized_text<Size>();
    push({.kind = PickleKind::opaque});
  }
  template <PickleKind kKind>
  void empty() {
    push({.kind = kKind});
  }
  template <PickleKind kKind>
  void from_mark() {
    auto items = take_to_mark();
    push({.kind = kKind, .items = std::move(items)});
  }
  template <size_t kCount>
  void tuple();
  void append();
  void appends() { extend(PickleKind::list, take_to_mark()); }
  void set_item();
  void set_items() { extend(PickleKind::dict, take_to_mark()); }
  void add_items() { extend(PickleKind::set, take_to_mark()); }
  template <class Index>
  void put() {
    remember(reader_.number<Index>("a memo index"));
  }
  void memoize() { remember(memo_.size()); }
  template <class Index>
  void get();
  void global();
  void stack_global();
  void reduce();
  void build();
  void persistent();

 private:
  [[noreturn]] void fail(std::string expected, std::string found) const;
  void grow(size_t count) const;
  void push(PickleValue value);
  PickleId pop_id();
  std::vector<PickleId> take_to_mark();
  void extend(PickleKind kind, const std::vector<PickleId>& items);
  void remember(uint64_t index);
  void push_global(std::string_view module, std::string_view name);
  template <class Size>
  std::string_view sized_text();
  std::string_view line();

  ByteReader reader_;
  uint64_t opcode_at_ = 0;
  bool done_ = false;
  size_t item_count_ = 0;
  PickleTree tree_;
  std::vector<PickleId> stack_;
  std::vector<size_t> marks_;
  std::unordered_map<uint64_t, PickleId> memo_;
};

using Machine = PickleMachine;
using Kind = PickleKind;

struct Opcode {
  unsigned char code;
  std::string_view name;
  void (Machine::*run)();  // null: refused by this name
};
constexpr std::array kOpcodes = {
    Opcode{0x80, "PROTO", &Machine::protocol},
    Opcode{0x95, "FRAME", &Machine::skip_frame},
    Opcode{'(', "MARK", &Machine::mark},
    Opcode{'.', "STOP", &Machine::stop},
    Opcode{'0', "POP", &Machine::pop},
    Opcode{'1', "POP_MARK", &Machine::pop_mark},
    Opcode{'N', "NONE", &Machine::none},
    Opcode{0x88, "NEWTRUE", &Machine::boolean<1>},
    Opcode{0x89, "NEWFALSE", &Machine::boolean<0>},
    Opcode{'J', "BININT", &Machine::integer<int32_t>},
    Opcode{'K', "BININT1", &Machine::integer<uint8_t>},
    Opcode{'M', "BININT2", &Machine::integer<uint16_t>},
    Opcode{0x8a, "LONG1", &Machine::long_integer},
    Opcode{'G', "BINFLOAT", &Machine::real},
    Opcode{'X', "BINUNICODE", &Machine::text<uint32_t>},
    Opcode{0x8c, "SHORT_BINUNICODE", &Machine::text<uint8_t>},
    Opcode{0x8d, "BINUNICODE8", &Machine::text<uint64_t>},
    Opcode{'U', "SHORT_BINSTRING", &Machine::text<uint8_t>},
    Opcode{'T', "BINSTRING", &Machine::text<uint32_t>},
    Opcode{'C', "SHORT_BINBYTES", &Machine::bytes<uint8_t>},
    Opcode{'B', "BINBYTES", &Machine::bytes<uint32_t>},
    Opcode{0x8e, "BINBYTES8", &Machine::bytes<uint64_t>},
    Opcode{')', "EMPTY_TUPLE", &Machine::empty<Kind::tuple>},
    Opcode{']', "EMPTY_LIST", &Machine::empty<Kind::list>},
    Opcode{'}', "EMPTY_DICT", &Machine::empty<Kind::dict>},
    Opcode{0x8f, "EMPTY_SET", &Machine::empty<Kind::set>},
    Opcode{'t', "TUPLE", &Machine::from_mark<Kind::tuple>},
    Opcode{0x85, "TUPLE1", &Machine::tuple<1>},
    Opcode{0x86, "TUPLE2", &Machine::tuple<2>},
    Opcode{0x87, "TUPLE3", &Machine::tuple<3>},
    Opcode{'l', "LIST", &Machine::from_mark<Kind::list>},
    Opcode{0x91, "FROZENSET", &Machine::from_mark<Kind::set>},
    Opcode{'a', "APPEND", &Machine::append},
    Opcode{'e', "APPENDS", &Machine::appends},
    Opcode{'s', "SETITEM", &Machine::set_item},
    Opcode{'u', "SETITEMS", &Machine::set_items},
    Opcode{0x90, "ADDITEMS", &Machine::add_items},
    Opcode{'q', "BINPUT", &Machine::put<uint8_t>},
    Opcode{'r', "LONG_BINPUT", &Machine::put<uint32_t>},
    Opcode{0x94, "MEMOIZE", &Machine::memoize},
    Opcode{'h', "BINGET", &Machine::get<uint8_t>},
    Opcode{'j', "LONG_BINGET", &Machine::get<uint32_t>},
    Opcode{'c', "GLOBAL", &Machine::global},
    Opcode{0x93, "STACK_GLOBAL", &Machine::stack_global},
    Opcode{'R', "REDUCE", &Machine::reduce},
    Opcode{'b', "BUILD", &Machine::build},
    Opcode{'Q', "BINPERSID", &Machine::persistent},
    Opcode{'2', "DUP", nullptr},
    Opcode{'d', "DICT", nullptr},
    Opcode{'F', "FLOAT", nullptr},
    Opcode{'I', "INT", nullptr},
    Opcode{'L', "LONG", nullptr},
    Opcode{0x8b, "LONG4", nullptr},
    Opcode{'S', "STRING", nullptr},
    Opcode{'V', "UNICODE", nullptr},
    Opcode{'P', "PERSID", nullptr},
    Opcode{'p', "PUT", nullptr},
    Opcode{'g', "GET", nullptr},
    Opcode{'i', "INST", nullptr},
    Opcode{'o', "OBJ", nullptr},
    Opcode{0x81, "NEWOBJ", nullptr},
    Opcode{0x92, "NEWOBJ_EX", nullptr},
    Opcode{0x82, "EXT1", nullptr},
    Opcode{0x83, "EXT2", nullptr},
    Opcode{0x84, "EXT4", nullptr},
    Opcode{0x96, "BYTEARRAY8", nullptr},
    Opcode{0x97, "NEXT_BUFFER", nullptr},
    Opcode{0x98, "READONLY_BUFFER", nullptr},
};

/// Row of each byte in kOpcodes, or kOpcodes.size().
constexpr auto kRowOf = [] {
  std::array<uint8_t, 256> rows{};
  rows.fill(kOpcodes.size());
  for (size_t i = 0; i < kOpcodes.size(); ++i) rows[kOpcodes[i].code] = static_cast<uint8_t>(i);
  return rows;
}();

PickleTree PickleMachine::run() {
  if (reader_.remaining() > kMaxPickle)
    fail(fmt::format("at most {} bytes", kMaxPickle), fmt::format("{}", reader_.remaining()));
  while (!done_) {
    opcode_at_ = reader_.position();
    const auto code = reader_.number<uint8_t>("an opcode");
    const size_t row = kRowOf[code];
    if (row == kOpcodes.size()) fail("an opcode", fmt::format("byte 0x{:02x}", code));
    if (!kOpcodes[row].run)
      throw Error(ErrorCode::unsupported, {.subject = fmt::format("pickle byte {}", opcode_at_),
                                           .expected = "only opcodes that describe tensors",
                                           .found = std::string(kOpcodes[row].name),
                                           .hint = std::string(kConvert)});
    (this->*kOpcodes[row].run)();
  }
  if (stack_.size() != 1 || !marks_.empty())
    fail("one value at the end", fmt::format("{}", stack_.size()));
  tree_.root = stack_.front();
  return std::move(tree_);
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

void PickleMachine::push(PickleValue value) {
  if (tree_.values.size() >= kMaxValues) fail(fmt::format("at most {} values", kMaxValues), "more");
  if ((item_count_ += value.items.size()) > kMaxItems)
    fail(fmt::format("at most {} elements", kMaxItems), "more");
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
  if ((item_count_ += items.size()) > kMaxItems)
    fail(fmt::format("at most {} elements", kMaxItems), "more");
  value.items.insert(value.items.end(), items.begin(), items.end());
}

void PickleMachine::remember(uint64_t index) {
  const PickleId id = pop_id();
  stack_.push_back(id);
  if (memo_.size() >= kMaxValues) fail(fmt::format("at most {} memo entries", kMaxValues), "more");
  memo_[index] = id;
}

template <class Size>
std::string_view PickleMachine::sized_text() {
  const uint64_t size = reader_.number<Size>("the length of a text");
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

template <size_t kCount>
void PickleMachine::tuple() {
  PickleValue value{.kind = PickleKind::tuple};
  value.items.resize(kCount);
  for (size_t i = kCount; i-- > 0;) value.items[i] = pop_id();
  push(std::move(value));
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

template <class Index>
void PickleMachine::get() {
  const uint64_t index = reader_.number<Index>("a memo index");
  const auto found = memo_.find(index);
  if (found == memo_.end()) fail("a memo entry", fmt::format("no entry {}", index));
  grow(stack_.size());
  stack_.push_back(found->second);
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
  if (row == rows.end())
    throw Error(ErrorCode::unsupported, {.subject = fmt::format("pickle byte {}", opcode_at_),
                                         .expected = "only globals that describe tensors",
                                         .found = in_quotes(fmt::format("{}.{}", module, name)),
                                         .hint = std::string(kConvert)});
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

/// The state of a dict (a state dict's `_metadata`) says nothing about tensors and is dropped.
void PickleMachine::build() {
  pop_id();
  const PickleId id = pop_id();
  stack_.push_back(id);
  if (tree_[id].kind != PickleKind::dict)
    throw Error(ErrorCode::unsupported, {.subject = fmt::format("pickle byte {}", opcode_at_),
                                         .expected = "only opcodes that describe tensors",
                                         .found = "BUILD of an object other than a dictionary",
                                         .hint = std::string(kConvert)});
}

void PickleMachine::persistent() {
  const PickleId id = pop_id();
  push({.kind = PickleKind::persistent, .items = {id}});
}

}  // namespace

PickleTree read_pickle(std::span<const std::byte> bytes) { return PickleMachine(bytes).run(); }

}  // namespace atelier
