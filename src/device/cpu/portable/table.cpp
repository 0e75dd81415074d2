// The portable table. It leaves linear layers and convolutions to libtorch.
#include "base/error.h"
#include "device/cpu/portable/portable.h"

namespace atelier::portable {
namespace {

bool no_linear(const CpuLinear&) { return false; }
int64_t no_linear_bytes(const CpuLinear&) { return 0; }
void no_pack_linear(const CpuLinear&, const CpuWeights&, void*, const Parallel&) {
  ATELIER_CHECK(!"a linear layer was packed that linear_supported() declines");
}
void no_linear_unpacked(const CpuLinear&, const CpuWeights&, const CpuLinearRun&, const Parallel&) {
  ATELIER_CHECK(!"a linear layer was run that linear_supported() declines");
}
void no_linear_run(const CpuLinear&, const CpuLinearRun&, const Parallel&) {
  ATELIER_CHECK(!"a linear layer was run that linear_supported() declines");
}

CpuConvMethod no_conv(const CpuConv&) { return CpuConvMethod::library; }
int64_t no_conv_bytes(const CpuConv&) { return 0; }
void no_pack_conv(const CpuConv&, const CpuWeights&, void*, const Parallel&) {
  ATELIER_CHECK(!"a convolution was packed that conv_method() leaves to the library");
}
int64_t no_conv_scratch(const CpuConv&, const CpuPicture&, int) { return 0; }
void no_conv_run(const CpuConv&, const CpuConvRun&, const Parallel&) {
  ATELIER_CHECK(!"a convolution was run that conv_method() leaves to the library");
}

}  // namespace

const CpuKernels kKernels{
    .isa = CpuIsa::portable,
    .packed_kv_bytes = packed_kv_bytes,
    .pack_kv = pack_kv,
    .attend = attend,
    .linear_supported = no_linear,
    .linear_weight_bytes = no_linear_bytes,
    .pack_linear = no_pack_linear,
    .pack_linear_tail = no_pack_linear,
    .linear = no_linear_run,
    .linear_unpacked = no_linear_unpacked,
    .conv_method = no_conv,
    .conv_weight_bytes = no_conv_bytes,
    .pack_conv = no_pack_conv,
    .conv_scratch_bytes = no_conv_scratch,
    .conv = no_conv_run,
    .group_norm = group_norm,
    .layer_norm = layer_norm,
    .rms_norm = rms_norm,
    .geglu = geglu,
    .activate = activate,
    .upsample2 = upsample2,
    .interleave_phases = interleave_phases,
};

}  // namespace atelier::portable
