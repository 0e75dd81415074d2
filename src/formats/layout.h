// Checked sizes of tensors, the places they take in a file, and names as messages quote them.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "formats/tensor_source.h"

namespace atelier {

/// The most dimensions a tensor of any format may have.
inline constexpr size_t kMaxRank = 32;
inline constexpr std::string_view kCutShort = "The file is cut short; download or copy it again";
inline constexpr std::string_view kDamaged =
    "The file is damaged or was written by a faulty program; download it again";

/// `a * b` and `a + b`, or nothing if they do not fit.
std::optional<uint64_t> checked_product(uint64_t a, uint64_t b);
std::optional<uint64_t> checked_sum(uint64_t a, uint64_t b);

/// Bytes that a tensor of `shape` takes in `encoding`. Throws `malformed` naming `subject` for a
/// negative extent, more than `kMaxRank` of them, a product that overflows, or elements that do
/// not fill whole blocks.
uint64_t encoded_size(const Shape& shape, Encoding encoding, std::string_view subject);

/// Enum instead of bool: whether bytes between tensors may belong to none.
enum class Gaps : uint8_t { forbidden, allowed };

/// Throws `malformed` unless the tensors lie in [begin, end) of the file without overlapping and,
/// where gaps are forbidden, without leaving a byte out.
void check_places(const TensorTable& tensors, uint64_t begin, uint64_t end, Gaps gaps);

/// "tensor 'a.weight'": a name from outside, shortened to what a message can carry.
std::string tensor_subject(std::string_view name);
/// 'name', shortened likewise and with invalid UTF-8 replaced.
std::string in_quotes(std::string_view name);
/// Whether `text` is valid UTF-8.
bool is_utf8(std::string_view text);

}  // namespace atelier
