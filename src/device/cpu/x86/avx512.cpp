// Kernels for AVX-512 without native bf16 products: bf16 is widened to fp32 where it is read.
#include "device/cpu/portable/portable.h"
#include "device/cpu/x86/simd/attention.h"
#include "device/cpu/x86/simd/conv.h"
#include "device/cpu/x86/simd/elementwise.h"
#include "device/cpu/x86/simd/norms.h"
#include "device/cpu/x86/tables.h"

namespace atelier {

const CpuKernels kAvx512Kernels{
    .isa = CpuIsa::avx512,
#include "device/cpu/x86/simd/table.inc"
};

}  // namespace atelier
