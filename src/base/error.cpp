// Messages of errors and the table of their codes.
#include "base/error.h"

#include <fmt/format.h>

#include <array>
#include <cstring>

#include "base/one_line.h"

namespace atelier {
namespace {

constexpr std::array kErrors = {
    ErrorInfo{ErrorCode::invalid_argument, "invalid_argument", 2, 400},
    ErrorInfo{ErrorCode::not_found, "not_found", 1, 404},
    ErrorInfo{ErrorCode::unreadable, "unreadable", 1, 403},
    ErrorInfo{ErrorCode::malformed, "malformed", 1, 422},
    ErrorInfo{ErrorCode::unsupported, "unsupported", 1, 422},
    ErrorInfo{ErrorCode::mismatch, "mismatch", 1, 422},
    ErrorInfo{ErrorCode::out_of_memory, "out_of_memory", 1, 507},
    ErrorInfo{ErrorCode::cancelled, "cancelled", 130, 499},
    ErrorInfo{ErrorCode::write_failed, "write_failed", 1, 500},
    ErrorInfo{ErrorCode::internal, "internal", 70, 500},
};

constexpr bool in_order() {
  for (size_t i = 0; i < kErrors.size(); ++i)
    if (static_cast<size_t>(kErrors[i].code) != i) return false;
  return true;
}
static_assert(in_order(), "error rows stand in the order of the enum");

std::string message_of(const ErrorFacts& facts) {
  const std::string subject = shorten_quotes(facts.subject),
                    expected = shorten_quotes(facts.expected), found = shorten_quotes(facts.found),
                    hint = shorten_quotes(facts.hint);
  std::string text;
  if (!subject.empty()) text += subject + ": ";
  text += found.empty() ? expected : fmt::format("expected {}, found {}", expected, found);
  if (!hint.empty()) text += ". " + hint;
  return one_line(text);
}

}  // namespace

const ErrorInfo& error_info(ErrorCode code) { return kErrors[static_cast<size_t>(code)]; }

Error::Error(ErrorCode code, ErrorFacts facts)
    : code_(code), facts_(std::move(facts)), message_(message_of(facts_)) {}

Error Error::within(std::string_view subject) const {
  ErrorFacts facts = facts_;
  facts.subject =
      facts.subject.empty() ? std::string(subject) : fmt::format("{}: {}", subject, facts.subject);
  return Error(code_, std::move(facts));
}

void throw_internal(const char* condition, const char* file, int line) {
  const char* slash = std::strrchr(file, '/');
  throw Error(ErrorCode::internal, {.subject = fmt::format("{}:{}", slash ? slash + 1 : file, line),
                                    .expected = condition,
                                    .found = "otherwise",
                                    .hint = "This is a bug in Atelier; please report it"});
}

}  // namespace atelier
