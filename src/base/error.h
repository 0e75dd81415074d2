// The one exception class of the engine and the table of its codes. Read this header first.
#pragma once

#include <exception>
#include <string>
#include <string_view>

namespace atelier {

/// What went wrong, as a caller would branch on it; one row each in `error_info`.
enum class ErrorCode {
  invalid_argument,  // an option, a prompt, a size: the caller's words are off
  not_found,  // a file, a name, a tensor that is not there
  unreadable,  // the operating system refused
  malformed,  // the bytes contradict themselves or end too soon
  unsupported,  // understood, but nothing here can do it
  mismatch,  // well formed, but not what was needed (shape, dtype, model kind)
  out_of_memory,
  cancelled,
  write_failed,
  internal,  // a bug of ours
};

/// What the outside sees of a code.
struct ErrorInfo {
  ErrorCode code;
  std::string_view name;
  int exit_code;  // of the command
  int http_status;
};

/// The row of `code`. Never fails.
const ErrorInfo& error_info(ErrorCode code);

/// The facts of one failure; empty fields are left out of the message.
struct ErrorFacts {
  std::string subject = {};  // what it is about: a file, a tensor, an option
  std::string expected =
      {};  // what should have been there, or the whole statement if `found` is empty
  std::string found = {};
  std::string hint = {};  // likely cause or what to do
};

/// A failure with its facts; `what()` is one line, "subject: expected E, found F. Hint", in which
/// what could disturb a terminal is escaped and what is quoted at length is shortened.
class Error : public std::exception {
 public:
  Error(ErrorCode code, ErrorFacts facts);
  const char* what() const noexcept override { return message_.c_str(); }
  ErrorCode code() const { return code_; }
  const ErrorFacts& facts() const { return facts_; }
  /// The same error with `subject` put before its own subject, as a reader adds its file's name.
  Error within(std::string_view subject) const;

 private:
  ErrorCode code_;
  ErrorFacts facts_;
  std::string message_;
};

/// Throws `internal` with the place; for our own invariants only, never for input.
[[noreturn]] void throw_internal(const char* condition, const char* file, int line);

}  // namespace atelier

#define ATELIER_CHECK(condition) \
  ((condition) ? void() : ::atelier::throw_internal(#condition, __FILE__, __LINE__))
