// `atelier quantize` in the engine: plans, writes, reports.
#pragma once

#include "app/engine_interface.h"

namespace atelier {

/// Events: "quant_plan" before anything is read, "tensor" after each, "quantized" at the end.
/// Throws `Error`.
void quantize_file(const QuantizeOptions& options, EngineHost& host);

/// One "quant_types" event: the names and what they are.
void list_quant_types(EngineHost& host);

}  // namespace atelier
