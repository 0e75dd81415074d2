// The error of a read past the end.
#include "formats/byte_reader.h"

#include <fmt/format.h>

#include "base/error.h"
#include "formats/layout.h"

namespace atelier {

void ByteReader::fail(uint64_t count, std::string_view field) const {
  throw Error(ErrorCode::malformed,
              {.subject = std::string(subject_),
               .expected = fmt::format("{} bytes of {} at byte {}", count, field, position_),
               .found = fmt::format("{} left", remaining()),
               .hint = std::string(kCutShort)});
}

}  // namespace atelier
