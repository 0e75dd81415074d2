// Counting.
#include "formats/summary.h"

#include <algorithm>
#include <array>
#include <map>

namespace atelier {
namespace {

/// Metadata keys that name an architecture: GGUF's own, then Stability's modelspec.
constexpr std::array<std::string_view, 2> kArchitectureKeys = {"general.architecture",
                                                               "modelspec.architecture"};

}  // namespace

Summary summarise(const TensorSource& source) {
  Summary summary;
  summary.label = source.label();
  summary.format = source.format();
  for (const std::string_view key : kArchitectureKeys)
    if (const auto found = source.metadata().find(key);
        summary.architecture.empty() && found != source.metadata().end())
      summary.architecture = found->second;
  std::map<std::pair<Encoding, bool>, EncodingShare> shares;
  for (const auto& [name, info] : source.tensors()) {
    const bool scaled = info.scaling != nullptr;
    EncodingShare& share = shares[{info.encoding, scaled}];
    const auto elements = static_cast<uint64_t>(info.elements());
    share.encoding = info.encoding;
    share.scaled = scaled;
    share.tensors += 1;
    share.elements += elements;
    share.bytes += info.size;
    summary.tensors += 1;
    summary.parameters += elements;
    summary.bytes += info.size;
  }
  for (const auto& [encoding, share] : shares) summary.encodings.push_back(share);
  std::sort(summary.encodings.begin(), summary.encodings.end(),
            [](const auto& a, const auto& b) { return a.bytes > b.bytes; });
  return summary;
}

}  // namespace atelier
