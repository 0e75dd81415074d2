// Signals that would end the program without a word.
#pragma once

namespace atelier {

/// From now on a mapped file that is shortened (or whose disk fails) ends the program with one line
/// on standard error, with `json` an "error" event before it, and exit code 1; and a write beyond
/// the limit on a file's size fails instead of ending it. Call it before other threads begin.
void settle_fatal_signals(bool json);

}  // namespace atelier
