// libjpeg's error handling for reader and writer; private to media.
#pragma once

#include <cstdio>
// jpeglib.h needs stdio's types before it
#include <jpeglib.h>

#include <array>
#include <csetjmp>

namespace atelier {

/// libjpeg's error manager first, so that its pointer is also ours.
struct JpegErrors {
  jpeg_error_mgr base;
  std::jmp_buf jump;
  std::array<char, JMSG_LENGTH_MAX> message;
};

/// Fills the manager: errors jump to `jump` with their text in `message`, and so do warnings that
/// mean damaged pixels; other warnings and traces are dropped.
void set_up(JpegErrors& errors);

/// Gives up with a text of our own.
[[noreturn]] void give_up(j_common_ptr jpeg, const char* message);

}  // namespace atelier
