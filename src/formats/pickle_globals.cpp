// The globals a tensor file may name. None of them is imported or called: each is a word whose
// meaning the torch reader knows.
#include <array>

#include "formats/pickle.h"

namespace atelier {
namespace {

using E = Encoding;
using R = GlobalRole;
constexpr std::array kGlobals = {
    PickleGlobal{"torch._utils", "_rebuild_tensor", R::rebuild_tensor},
    PickleGlobal{"torch._utils", "_rebuild_tensor_v2", R::rebuild_tensor_v2},
    PickleGlobal{"torch._utils", "_rebuild_tensor_v3", R::rebuild_tensor_v3},
    PickleGlobal{"torch._utils", "_rebuild_parameter", R::rebuild_parameter},
    PickleGlobal{"torch._utils", "_rebuild_parameter_with_state", R::rebuild_parameter_state},
    PickleGlobal{"torch._tensor", "_rebuild_from_type_v2", R::rebuild_from_type},
    PickleGlobal{"torch", "Tensor", R::tensor_type},
    PickleGlobal{"torch.nn.parameter", "Parameter", R::tensor_type},
    PickleGlobal{"torch.nn.parameter", "Buffer", R::tensor_type},
    PickleGlobal{"torch", "DoubleStorage", R::storage, E::f64},
    PickleGlobal{"torch", "FloatStorage", R::storage, E::f32},
    PickleGlobal{"torch", "HalfStorage", R::storage, E::f16},
    PickleGlobal{"torch", "BFloat16Storage", R::storage, E::bf16},
    PickleGlobal{"torch", "LongStorage", R::storage, E::i64},
    PickleGlobal{"torch", "IntStorage", R::storage, E::i32},
    PickleGlobal{"torch", "ShortStorage", R::storage, E::i16},
    PickleGlobal{"torch", "CharStorage", R::storage, E::i8},
    PickleGlobal{"torch", "ByteStorage", R::storage, E::u8},
    PickleGlobal{"torch", "BoolStorage", R::storage, E::boolean},
    PickleGlobal{"torch", "ComplexFloatStorage", R::storage, E::c64},
    PickleGlobal{"torch", "UntypedStorage", R::untyped_storage},
    PickleGlobal{"torch.storage", "UntypedStorage", R::untyped_storage},
    PickleGlobal{"torch", "float64", R::dtype, E::f64},
    PickleGlobal{"torch", "float32", R::dtype, E::f32},
    PickleGlobal{"torch", "float16", R::dtype, E::f16},
    PickleGlobal{"torch", "bfloat16", R::dtype, E::bf16},
    PickleGlobal{"torch", "float8_e4m3fn", R::dtype, E::f8_e4m3},
    PickleGlobal{"torch", "float8_e5m2", R::dtype, E::f8_e5m2},
    PickleGlobal{"torch", "float8_e4m3fnuz", R::dtype, E::f8_e4m3fnuz},
    PickleGlobal{"torch", "float8_e5m2fnuz", R::dtype, E::f8_e5m2fnuz},
    PickleGlobal{"torch", "float8_e8m0fnu", R::dtype, E::f8_e8m0},
    PickleGlobal{"torch", "int64", R::dtype, E::i64},
    PickleGlobal{"torch", "int32", R::dtype, E::i32},
    PickleGlobal{"torch", "int16", R::dtype, E::i16},
    PickleGlobal{"torch", "int8", R::dtype, E::i8},
    PickleGlobal{"torch", "uint64", R::dtype, E::u64},
    PickleGlobal{"torch", "uint32", R::dtype, E::u32},
    PickleGlobal{"torch", "uint16", R::dtype, E::u16},
    PickleGlobal{"torch", "uint8", R::dtype, E::u8},
    PickleGlobal{"torch", "bool", R::dtype, E::boolean},
    PickleGlobal{"torch", "complex64", R::dtype, E::c64},
    PickleGlobal{"collections", "OrderedDict", R::ordered_dict},
    PickleGlobal{"torch.nn.modules.container", "ParameterDict", R::parameter_dict},
    PickleGlobal{"__builtin__", "set", R::set},
    PickleGlobal{"builtins", "set", R::set},
    PickleGlobal{"torch", "Size", R::size},
    PickleGlobal{"torch", "device", R::opaque},
    PickleGlobal{"torch.serialization", "_get_layout", R::opaque},
    PickleGlobal{"_codecs", "encode", R::opaque},
};

}  // namespace

std::span<const PickleGlobal> pickle_globals() { return kGlobals; }

}  // namespace atelier
