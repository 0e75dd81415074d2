// Counts the bytes of a tensor on their way into a file.
#include "formats/pieces.h"

#include <fmt/format.h>

#include "base/error.h"
#include "formats/layout.h"

namespace atelier {

void write_pieces(AtomicFile& file, const TensorPieces& pieces, size_t i, const std::string& name,
                  uint64_t size) {
  uint64_t written = 0;
  const auto refuse = [&] {
    throw Error(ErrorCode::invalid_argument, {.subject = tensor_subject(name),
                                              .expected = fmt::format("{} bytes", size),
                                              .found = fmt::format("{}", written)});
  };
  pieces(i, [&](std::span<const std::byte> piece) {
    written += piece.size();
    if (written > size) refuse();
    file.write(piece);
  });
  if (written != size) refuse();
}

TensorPieces whole_tensors(const std::function<std::span<const std::byte>(size_t)>& bytes_of) {
  return [&bytes_of](size_t i, const ByteSink& sink) { sink(bytes_of(i)); };
}

}  // namespace atelier
