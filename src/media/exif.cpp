// The one thing of EXIF that changes a picture: its orientation.
#include "media/codecs.h"

namespace atelier {
namespace {

constexpr uint32_t kOrientation = 0x0112, kShort = 3, kLong = 4;

/// Numbers of a TIFF block in its own byte order; reads past the end give 0.
class Tiff {
 public:
  explicit Tiff(FileBytes bytes) : bytes_(bytes) {}
  bool valid() {
    const auto byte = [&](size_t i) {
      return i < bytes_.size() ? static_cast<char>(bytes_[i]) : 0;
    };
    big_ = byte(0) == 'M' && byte(1) == 'M';
    return (big_ || (byte(0) == 'I' && byte(1) == 'I')) && number(2, 2) == 42;
  }
  uint32_t number(size_t at, size_t size) const {
    if (at > bytes_.size() || size > bytes_.size() - at) return 0;
    uint32_t value = 0;
    for (size_t i = 0; i < size; ++i)
      value = value << 8 | static_cast<uint32_t>(bytes_[at + (big_ ? i : size - 1 - i)]);
    return value;
  }

 private:
  FileBytes bytes_;
  bool big_ = false;
};

}  // namespace

int exif_orientation(FileBytes exif) {
  Tiff tiff(exif);
  if (!tiff.valid()) return 1;
  const size_t directory = tiff.number(4, 4);
  const size_t entries = tiff.number(directory, 2);
  for (size_t i = 0; i < entries; ++i) {
    const size_t entry = directory + 2 + 12 * i;
    if (tiff.number(entry, 2) != kOrientation) continue;
    const uint32_t type = tiff.number(entry + 2, 2);
    const uint32_t value = type == kShort  ? tiff.number(entry + 8, 2)
                           : type == kLong ? tiff.number(entry + 8, 4)
                                           : 1;
    return value >= 1 && value <= 8 ? static_cast<int>(value) : 1;
  }
  return 1;
}

}  // namespace atelier
