// The table of opcodes: those that can describe tensors, and the others, which are refused by name.
#include <array>

#include "formats/pickle_machine.h"

namespace atelier {
namespace {

using Machine = PickleMachine;
using Kind = PickleKind;

constexpr std::array kOpcodes = {
    PickleOpcode{0x80, "PROTO", &Machine::protocol},
    PickleOpcode{0x95, "FRAME", &Machine::skip_frame},
    PickleOpcode{'(', "MARK", &Machine::mark},
    PickleOpcode{'.', "STOP", &Machine::stop},
    PickleOpcode{'0', "POP", &Machine::pop},
    PickleOpcode{'1', "POP_MARK", &Machine::pop_mark},
    PickleOpcode{'N', "NONE", &Machine::none},
    PickleOpcode{0x88, "NEWTRUE", &Machine::boolean<1>},
    PickleOpcode{0x89, "NEWFALSE", &Machine::boolean<0>},
    PickleOpcode{'J', "BININT", &Machine::integer<int32_t>},
    PickleOpcode{'K', "BININT1", &Machine::integer<uint8_t>},
    PickleOpcode{'M', "BININT2", &Machine::integer<uint16_t>},
    PickleOpcode{0x8a, "LONG1", &Machine::long_integer},
    PickleOpcode{'G', "BINFLOAT", &Machine::real},
    PickleOpcode{'X', "BINUNICODE", &Machine::text<uint32_t>},
    PickleOpcode{0x8c, "SHORT_BINUNICODE", &Machine::text<uint8_t>},
    PickleOpcode{0x8d, "BINUNICODE8", &Machine::text<uint64_t>},
    PickleOpcode{'U', "SHORT_BINSTRING", &Machine::text<uint8_t>},
    PickleOpcode{'T', "BINSTRING", &Machine::text<uint32_t>},
    PickleOpcode{'C', "SHORT_BINBYTES", &Machine::bytes<uint8_t>},
    PickleOpcode{'B', "BINBYTES", &Machine::bytes<uint32_t>},
    PickleOpcode{0x8e, "BINBYTES8", &Machine::bytes<uint64_t>},
    PickleOpcode{')', "EMPTY_TUPLE", &Machine::empty<Kind::tuple>},
    PickleOpcode{']', "EMPTY_LIST", &Machine::empty<Kind::list>},
    PickleOpcode{'}', "EMPTY_DICT", &Machine::empty<Kind::dict>},
    PickleOpcode{0x8f, "EMPTY_SET", &Machine::empty<Kind::set>},
    PickleOpcode{'t', "TUPLE", &Machine::from_mark<Kind::tuple>},
    PickleOpcode{0x85, "TUPLE1", &Machine::tuple<1>},
    PickleOpcode{0x86, "TUPLE2", &Machine::tuple<2>},
    PickleOpcode{0x87, "TUPLE3", &Machine::tuple<3>},
    PickleOpcode{'l', "LIST", &Machine::from_mark<Kind::list>},
    PickleOpcode{0x91, "FROZENSET", &Machine::from_mark<Kind::set>},
    PickleOpcode{'a', "APPEND", &Machine::append},
    PickleOpcode{'e', "APPENDS", &Machine::appends},
    PickleOpcode{'s', "SETITEM", &Machine::set_item},
    PickleOpcode{'u', "SETITEMS", &Machine::set_items},
    PickleOpcode{0x90, "ADDITEMS", &Machine::add_items},
    PickleOpcode{'q', "BINPUT", &Machine::put<uint8_t>},
    PickleOpcode{'r', "LONG_BINPUT", &Machine::put<uint32_t>},
    PickleOpcode{0x94, "MEMOIZE", &Machine::memoize},
    PickleOpcode{'h', "BINGET", &Machine::get<uint8_t>},
    PickleOpcode{'j', "LONG_BINGET", &Machine::get<uint32_t>},
    PickleOpcode{'c', "GLOBAL", &Machine::global},
    PickleOpcode{0x93, "STACK_GLOBAL", &Machine::stack_global},
    PickleOpcode{'R', "REDUCE", &Machine::reduce},
    PickleOpcode{0x81, "NEWOBJ", &Machine::new_object},
    PickleOpcode{'b', "BUILD", &Machine::build},
    PickleOpcode{'Q', "BINPERSID", &Machine::persistent},
    PickleOpcode{'2', "DUP", nullptr},
    PickleOpcode{'d', "DICT", nullptr},
    PickleOpcode{'F', "FLOAT", nullptr},
    PickleOpcode{'I', "INT", nullptr},
    PickleOpcode{'L', "LONG", nullptr},
    PickleOpcode{0x8b, "LONG4", nullptr},
    PickleOpcode{'S', "STRING", nullptr},
    PickleOpcode{'V', "UNICODE", nullptr},
    PickleOpcode{'P', "PERSID", nullptr},
    PickleOpcode{'p', "PUT", nullptr},
    PickleOpcode{'g', "GET", nullptr},
    PickleOpcode{'i', "INST", nullptr},
    PickleOpcode{'o', "OBJ", nullptr},
    PickleOpcode{0x92, "NEWOBJ_EX", nullptr},
    PickleOpcode{0x82, "EXT1", nullptr},
    PickleOpcode{0x83, "EXT2", nullptr},
    PickleOpcode{0x84, "EXT4", nullptr},
    PickleOpcode{0x96, "BYTEARRAY8", nullptr},
    PickleOpcode{0x97, "NEXT_BUFFER", nullptr},
    PickleOpcode{0x98, "READONLY_BUFFER", nullptr},
};

/// Row of each byte in kOpcodes, or kOpcodes.size().
constexpr auto kRowOf = [] {
  std::array<uint8_t, 256> rows{};
  rows.fill(kOpcodes.size());
  for (size_t i = 0; i < kOpcodes.size(); ++i) rows[kOpcodes[i].code] = static_cast<uint8_t>(i);
  return rows;
}();

}  // namespace

const PickleOpcode* pickle_opcode(unsigned char code) {
  const size_t row = kRowOf[code];
  return row < kOpcodes.size() ? &kOpcodes[row] : nullptr;
}

}  // namespace atelier
