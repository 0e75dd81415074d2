// The tables of a build for x86-64 and the processor flags each needs.
#include "device/cpu/portable/portable.h"
#include "device/cpu/tables.h"
#include "device/cpu/x86/tables.h"

namespace atelier {
namespace {

bool has_avx2(const CpuFeatures& f) { return f.avx2 && f.fma && f.f16c; }
bool has_avx512(const CpuFeatures& f) {
  return has_avx2(f) && f.avx512f && f.avx512bw && f.avx512vl && f.avx512dq;
}
bool has_avx512_bf16(const CpuFeatures& f) { return has_avx512(f) && f.avx512_bf16; }
bool has_amx(const CpuFeatures& f) {
  return has_avx512_bf16(f) && f.avx512_vbmi && f.amx_tile && f.amx_bf16;
}

constexpr CpuTable kTables[] = {
    {&portable::kKernels, [](const CpuFeatures&) { return true; }},
    {&kAvx2Kernels, has_avx2},
    {&kAvx512Kernels, has_avx512},
    {&kAvx512Bf16Kernels, has_avx512_bf16},
    {&kAmxKernels, has_amx},
};

}  // namespace

std::span<const CpuTable> cpu_tables() { return kTables; }

std::span<const CpuInt8Table> cpu_int8_tables() {
  static constexpr CpuInt8Table kInt8Tables[] = {
      {&kAvxVnniKernels, CpuIsa::avx2, &CpuFeatures::avx_vnni},
      {&kAvx512VnniKernels, CpuIsa::avx512, &CpuFeatures::avx512_vnni},
      {&kAmxInt8Kernels, CpuIsa::amx, &CpuFeatures::amx_int8},
  };
  return kInt8Tables;
}

}  // namespace atelier
