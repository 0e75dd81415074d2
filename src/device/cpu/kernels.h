// The CPU kernels of the engine, one table of functions per instruction set. Read this header
// first.
//
// All activations are channels-last: a picture is [batch][height][width][channels], a sequence
// [rows][channels]. They are stored as fp32 or bf16; sums are fp32. A result depends on the
// arguments and the instruction set alone, never on the number of threads. Pointers need no
// alignment unless said otherwise. Kernels check nothing: sizes must be positive, pointers valid
// and outputs disjoint from inputs unless a comment allows otherwise. All functions are
// thread-safe.
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>
#include <vector>

#include "device/cpu/attention.h"
#include "device/cpu/conv.h"
#include "device/cpu/features.h"
#include "device/cpu/linear.h"
#include "device/cpu/norms.h"
#include "device/cpu/parallel.h"
#include "device/cpu/types.h"

namespace atelier {

/// Everything one instruction set offers. All pointers are set; what a set has no good kernel for
/// it declines through `conv_method` or `linear_supported`.
struct CpuKernels {
  CpuIsa isa;

  // Attention (device/cpu/attention.h)
  int64_t (*packed_kv_bytes)(const CpuAttention& shape);
  void (*pack_kv)(const CpuAttention& shape, const CpuHeads& k, const CpuHeads& v, void* packed,
                  const Parallel& parallel);
  void (*attend)(const CpuAttention& shape, const CpuHeads& q, const void* packed,
                 const CpuMask& mask, const CpuHeads& out, const Parallel& parallel);

  // Linear layers (device/cpu/linear.h)
  bool (*linear_supported)(const CpuLinear& layer);
  int64_t (*linear_weight_bytes)(const CpuLinear& layer);
  void (*pack_linear)(const CpuLinear& layer, const CpuWeights& weights, void* packed,
                      const Parallel& parallel);
  /// Packs U [outputs, tail] of a layer that has a tail, into the same `packed`.
  void (*pack_linear_tail)(const CpuLinear& layer, const CpuWeights& weights, void* packed,
                           const Parallel& parallel);
  void (*linear)(const CpuLinear& layer, const CpuLinearRun& run, const Parallel& parallel);
  /// The same for few rows, with weights [outputs, inputs] that are read as they are needed, a few
  /// outputs at a time, instead of `run.packed`; the layer has no tail.
  void (*linear_unpacked)(const CpuLinear& layer, const CpuWeights& weights,
                          const CpuLinearRun& run, const Parallel& parallel);

  // Convolutions (device/cpu/conv.h)
  CpuConvMethod (*conv_method)(const CpuConv& layer);
  int64_t (*conv_weight_bytes)(const CpuConv& layer);
  void (*pack_conv)(const CpuConv& layer, const CpuWeights& weights, void* packed,
                    const Parallel& parallel);
  int64_t (*conv_scratch_bytes)(const CpuConv& layer, const CpuPicture& input, int threads);
  void (*conv)(const CpuConv& layer, const CpuConvRun& run, const Parallel& parallel);

  // Norms, activations, copies (device/cpu/norms.h)
  void (*group_norm)(const CpuGroupNorm& run, const Parallel& parallel);
  void (*layer_norm)(const CpuLayerNorm& run, const Parallel& parallel);
  void (*rms_norm)(const CpuRmsNorm& run, const Parallel& parallel);
  void (*geglu)(const CpuGeglu& run, const Parallel& parallel);
  void (*activate)(const CpuActivate& run, const Parallel& parallel);
  void (*upsample2)(const CpuUpsample& run, const Parallel& parallel);
  void (*interleave_phases)(const CpuUpsample& run, const Parallel& parallel);
};

/// "portable", "avx2", "avx512", "avx512_bf16", "amx".
std::string_view cpu_isa_name(CpuIsa isa);
/// The reverse; throws `invalid_argument` listing the names.
CpuIsa parse_cpu_isa(std::string_view name);

/// Whether this build contains `isa` and a processor with `features` can run it.
bool runs_on(CpuIsa isa, const CpuFeatures& features);
/// All for which runs_on() is true, slowest first; never empty.
std::vector<CpuIsa> cpu_isas(const CpuFeatures& features);

/// The fastest instruction set for `features`, or `wanted` where given. The environment variable
/// ATELIER_CPU_ISA takes the place of an absent `wanted`. Throws `unsupported` if this machine or
/// build cannot run what was asked for. The table lives as long as the program.
const CpuKernels& cpu_kernels(const CpuFeatures& features, std::optional<CpuIsa> wanted = {});

}  // namespace atelier
