// The state of the pickle machine and what each opcode does to it. Private to pickle*.cpp.
#pragma once

#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "formats/byte_reader.h"
#include "formats/pickle.h"

namespace atelier {

/// Reads one pickle with a stack of value indices, marks on it, and a memo.
class PickleMachine {
 public:
  explicit PickleMachine(std::span<const std::byte> bytes) : reader_(bytes, "pickle") {}
  PickleTree run();

  // What opcodes do. Each is one row of `pickle_opcode`'s table.
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
    push({.kind = PickleKind::text, .text = sized_text(reader_.number<Size>("a length"))});
  }
  template <class Size>
  void bytes() {
    sized_text(reader_.number<Size>("a length"));
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
  void tuple() {
    PickleValue value{.kind = PickleKind::tuple};
    value.items.resize(kCount);
    for (size_t i = kCount; i-- > 0;) value.items[i] = pop_id();
    push(std::move(value));
  }
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
  void get() {
    recall(reader_.number<Index>("a memo index"));
  }
  void global();
  void stack_global();
  void reduce();
  void new_object();
  void build();
  void persistent();

 private:
  [[noreturn]] void refuse(std::string what, std::string found) const;
  [[noreturn]] void fail(std::string expected, std::string found) const;
  void grow(size_t count) const;
  void count_items(size_t more);
  void push(PickleValue value);
  PickleId pop_id();
  std::vector<PickleId> take_to_mark();
  void extend(PickleKind kind, const std::vector<PickleId>& items);
  void remember(uint64_t index);
  void recall(uint64_t index);
  void push_global(std::string_view module, std::string_view name);
  std::string_view sized_text(uint64_t size);
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

/// One opcode: its byte, its name in CPython, and what it does.
struct PickleOpcode {
  unsigned char code;
  std::string_view name;
  void (PickleMachine::*run)();  // null: refused by name
};

/// The row of `code`, or null if it is no opcode.
const PickleOpcode* pickle_opcode(unsigned char code);

}  // namespace atelier
