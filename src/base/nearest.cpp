// Damerau-Levenshtein distance (restricted form) over three rows.
#include "base/nearest.h"

#include <algorithm>
#include <cctype>

namespace atelier {
namespace {

std::string lower(std::string_view text) {
  std::string low(text);
  for (char& c : low) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  return low;
}

// The distance if it is less than `enough`, else any number that is not.
size_t distance_below(std::string_view a, std::string_view b, size_t enough) {
  std::vector<size_t> before(b.size() + 1), last(b.size() + 1), row(b.size() + 1);
  for (size_t j = 0; j <= b.size(); ++j) last[j] = j;
  size_t least_of_last = 0;
  for (size_t i = 1; i <= a.size(); ++i) {
    row[0] = i;
    size_t least = i;
    for (size_t j = 1; j <= b.size(); ++j) {
      row[j] = std::min({last[j] + 1, row[j - 1] + 1, last[j - 1] + (a[i - 1] != b[j - 1])});
      if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1])
        row[j] = std::min(row[j], before[j - 2] + 1);
      least = std::min(least, row[j]);
    }
    if (std::min(least, least_of_last) >= enough) return enough;
    least_of_last = least;
    std::swap(before, last);
    std::swap(last, row);
  }
  return last[b.size()];
}

}  // namespace

size_t edit_distance(std::string_view a, std::string_view b) {
  return distance_below(lower(a), lower(b), a.size() + b.size() + 1);
}

std::string_view nearest(std::string_view name, std::span<const std::string_view> known) {
  constexpr size_t kLongest = 256;
  if (name.size() > kLongest) return {};
  const std::string low = lower(name);
  std::string_view best;
  size_t least = std::max<size_t>(2, name.size() / 3) + 1;
  for (std::string_view candidate : known) {
    if (candidate.size() > kLongest) continue;
    const size_t apart =
        std::max(candidate.size(), low.size()) - std::min(candidate.size(), low.size());
    if (apart >= least) continue;
    if (const size_t distance = distance_below(low, lower(candidate), least); distance < least) {
      least = distance;
      best = candidate;
    }
  }
  return best;
}

}  // namespace atelier
