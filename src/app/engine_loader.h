// Finds and opens the engine library that lies beside the command.
#pragma once

#include "app/engine_interface.h"

namespace atelier {

/// The engine's functions; loads libtorch (about 0.2 s) on the first call. The library stays
/// loaded until the program ends. Throws `not_found` or `mismatch` with what would help.
const EngineInterface& load_engine();

}  // namespace atelier
