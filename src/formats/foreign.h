// Files that are no checkpoints this library reads, recognised so that the error can say what
// they are.
#pragma once

#include <cstddef>
#include <span>
#include <string_view>

namespace atelier {

/// A kind of file people hand in by mistake, and what to do about it.
struct ForeignKind {
  std::string_view name;
  size_t offset;  // of the magic bytes
  std::string_view magic;
  std::string_view hint;
};

/// The row that `file` matches, or null.
const ForeignKind* foreign_kind(std::span<const std::byte> file);

}  // namespace atelier
