// Kernels for AVX-512 with native bf16 products.
#include "device/cpu/portable/portable.h"
#include "device/cpu/x86/avx512/attention.h"
#include "device/cpu/x86/avx512/elementwise.h"
#include "device/cpu/x86/avx512/norms.h"
#include "device/cpu/x86/avx512/winograd.h"
#include "device/cpu/x86/tables.h"

namespace atelier {

const CpuKernels kAvx512Bf16Kernels{
    .isa = CpuIsa::avx512_bf16,
#include "device/cpu/x86/avx512/table.inc"
};

}  // namespace atelier
