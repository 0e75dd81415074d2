// Standard input, output and error that are closed, full or broken.
#pragma once

#include <cstdio>
#include <string_view>

namespace atelier {

/// For the start of a program. Descriptors 0 to 2 that are closed are taken, so that no file opened
/// later gets their number; what is printed to such an output fails as before. And whatever is
/// printed to `stderr` from then on, by anyone, never fails: what cannot be written is lost.
/// `fileno(stderr)` is no descriptor then; use STDERR_FILENO.
void settle_standard_streams();

/// Writes text; a failure throws nothing and stays in `ferror(out)`.
void put(std::FILE* out, std::string_view text) noexcept;

}  // namespace atelier
