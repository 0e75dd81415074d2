// Kernels for AVX-512 with native bf16 products.
#include "device/cpu/portable/portable.h"
#include "device/cpu/x86/simd/attention.h"
#include "device/cpu/x86/simd/conv.h"
#include "device/cpu/x86/simd/elementwise.h"
#include "device/cpu/x86/simd/norms.h"
#include "device/cpu/x86/tables.h"

namespace atelier {

const CpuKernels kAvx512Bf16Kernels{
    .isa = CpuIsa::avx512_bf16,
#include "device/cpu/x86/simd/table.inc"
};

}  // namespace atelier
