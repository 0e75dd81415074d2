// The refusals of vocabulary readers.
#pragma once

#include <string>
#include <string_view>

#include "base/error.h"

namespace atelier {

/// Refuses a vocabulary file whose bytes contradict themselves.
[[noreturn]] inline void refuse_vocabulary(std::string_view subject, std::string expected,
                                           std::string found,
                                           ErrorCode code = ErrorCode::malformed) {
  throw Error(code, {.subject = std::string(subject),
                     .expected = std::move(expected),
                     .found = std::move(found),
                     .hint = code == ErrorCode::malformed
                                 ? "The file may be cut short or damaged; fetch it again"
                                 : "T5's vocabulary is in spiece.model or tokenizer.json"});
}

/// Refuses a sound file that holds another kind of vocabulary.
[[noreturn]] inline void refuse_kind(std::string_view subject, std::string expected,
                                     std::string found) {
  refuse_vocabulary(subject, std::move(expected), std::move(found), ErrorCode::unsupported);
}

}  // namespace atelier
