// What must hold of everything a reader lets through, whatever bytes it was given.
#pragma once

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <span>

#include "base/error.h"
#include "formats/contents.h"
#include "formats/gather.h"
#include "formats/layout.h"

/// Ends the program, so that the fuzzer keeps the input.
#define ATELIER_FUZZ_REQUIRE(condition) \
  ((condition)                          \
       ? void()                         \
       : (std::fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition), std::abort()))

namespace atelier::fuzz {

inline std::span<const std::byte> view(const uint8_t* data, size_t size) {
  return std::as_bytes(std::span(data, size));
}

/// Runs `read`; an Error that is no bug of ours is a right answer, any other exception is not.
template <class Read>
void attempt(Read read) {
  try {
    read();
  } catch (const Error& error) {
    ATELIER_FUZZ_REQUIRE(error.code() == ErrorCode::malformed ||
                         error.code() == ErrorCode::unsupported);
    ATELIER_FUZZ_REQUIRE(!error.facts().subject.empty() && !error.facts().expected.empty());
    ATELIER_FUZZ_REQUIRE(!error.facts().hint.empty());
  }
}

/// Every tensor lies in the file, with the size its shape and encoding ask for.
inline void check_tensors(const FileContents& contents, std::span<const std::byte> file) {
  constexpr uint64_t kGatherAtMost = 1 << 20;
  for (const auto& [name, info] : contents.tensors) {
    ATELIER_FUZZ_REQUIRE(info.offset <= file.size());
    ATELIER_FUZZ_REQUIRE(info.size == encoded_size(info.shape, info.encoding, name));
    ATELIER_FUZZ_REQUIRE(is_utf8(name));
    if (info.strided) {
      ATELIER_FUZZ_REQUIRE(info.size <= file.size());
      if (info.size <= kGatherAtMost) gather(file, info, contents.strides.at(name));
    } else {
      ATELIER_FUZZ_REQUIRE(info.size <= file.size() - info.offset);
    }
  }
  for (const auto& [key, value] : contents.metadata)
    ATELIER_FUZZ_REQUIRE(is_utf8(key) && is_utf8(value));
}

}  // namespace atelier::fuzz
