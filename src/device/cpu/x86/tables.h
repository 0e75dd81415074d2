// The x86-64 tables, each defined in the translation unit of its instruction set.
#pragma once

#include "device/cpu/int8.h"
#include "device/cpu/kernels.h"

namespace atelier {

extern const CpuKernels kAvx2Kernels;
extern const CpuKernels kAvx512Kernels;
extern const CpuKernels kAvx512Bf16Kernels;
extern const CpuKernels kAmxKernels;

extern const CpuInt8Kernels kAvxVnniKernels;
extern const CpuInt8Kernels kAvx512VnniKernels;
extern const CpuInt8Kernels kAmxInt8Kernels;

}  // namespace atelier
