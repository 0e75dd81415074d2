// What can be wrong with the options of `atelier quantize` and is known without opening the model.
#pragma once

#include "app/quantize_options.h"

namespace atelier {

/// Throws `invalid_argument`, `not_found`, `unreadable`, `unsupported` or `write_failed` for the
/// first thing wrong: missing options, one part of a split model for IN, files that would be
/// replaced and must not be, names no file can have. Makes the folders that are to be written to.
void check_quantize_options(const QuantizeOptions& options);

}  // namespace atelier
