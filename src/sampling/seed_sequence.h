// NumPy's SeedSequence: mixes an entropy and a spawn key into one 32-bit seed.
#pragma once

#include <cstdint>
#include <span>

namespace atelier {

/// The first 32-bit word that numpy.random.SeedSequence(entropy, spawn_key, pool_size=24)
/// generates. Source: O'Neill's seed_seq as in numpy/random/bit_generator.pyx.
uint32_t seed_sequence_word(uint64_t entropy, std::span<const uint64_t> spawn_key);

}  // namespace atelier
