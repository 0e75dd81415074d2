// What a text encoder asks of a chunk of tokens before it computes.
#pragma once

#include "models/text_encoder.h"

namespace atelier {

/// What one encoder takes.
struct ChunkLimits {
  int64_t vocabulary = 0, width = 0, positions = 0;
};

/// Throws `invalid_argument` unless `chunk` has `length` tokens, 1 to `positions`, all of the
/// vocabulary, and vectors of the right width at places within.
void check_chunk(const TokenChunk& chunk, size_t length, const ChunkLimits& limits);

/// Throws the `invalid_argument` of an encoder that was given no chunks.
void check_any(std::span<const TokenChunk> chunks);

}  // namespace atelier
