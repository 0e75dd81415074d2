// Kernels for AVX-512 without native bf16 products: bf16 is widened to fp32 where it is read.
#include "device/cpu/portable/portable.h"
#include "device/cpu/x86/avx512/attention.h"
#include "device/cpu/x86/avx512/elementwise.h"
#include "device/cpu/x86/avx512/norms.h"
#include "device/cpu/x86/avx512/winograd.h"
#include "device/cpu/x86/tables.h"

namespace atelier {

const CpuKernels kAvx512Kernels{
    .isa = CpuIsa::avx512,
#include "device/cpu/x86/avx512/table.inc"
};

}  // namespace atelier
