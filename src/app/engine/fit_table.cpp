// Bytes of the phases of a run for each type, size and memory.
#include "app/engine/fit_table.h"

#include <algorithm>
#include <iterator>
#include <map>
#include <optional>
#include <vector>

#include "app/engine/plan.h"
#include "base/error.h"
#include "models/vae.h"
#include "pipeline/component.h"
#include "pipeline/quantization.h"

namespace atelier {
namespace {

constexpr std::string_view kFinestFirst[] = {"F16",    "Q8_0",   "Q6_K", "Q5_K_M",
                                             "Q4_K_M", "Q3_K_M", "Q2_K"};
constexpr Bytes kSystem = 1_GiB;  // of each memory, for the system and other programs
constexpr double kAlike = 0.01;  // sizes that differ by less are those of the same type
constexpr Bytes kMemories[] = {8_GiB, 12_GiB, 16_GiB, 24_GiB};
constexpr int64_t kSides[] = {512, 768, 1024, 1536, 2048};
constexpr Compute kCompute{.device = {}, .dtype = at::kBFloat16};

bool belongs(const std::string& tensor, const FoundPart& part) {
  return tensor.starts_with(part.place.prefix);
}

/// What weights take that are prepared when used, two at a time, or all of them if that is less.
Bytes least_bytes(const Residency::Needs& needs, Bytes stored) {
  const Bytes all = needs.prepared + std::min(needs.as_stored, stored);
  return std::min(all, stored + needs.largest + needs.largest);
}

/// A type of `atelier quantize`, or what the file is in, and what the denoiser then takes.
struct Choice {
  std::string_view name;
  Bytes bytes;
};

/// The denoiser as it is, by the encoding of most of its bytes.
Choice own_choice(const FoundPart& part) {
  std::map<std::string_view, int64_t> sizes;
  int64_t all = 0;
  for (const auto& [name, info] : part.source->tensors()) {
    if (!belongs(name, part)) continue;
    sizes[encoding_info(info.encoding).name] += static_cast<int64_t>(info.size);
    all += static_cast<int64_t>(info.size);
  }
  const auto most = std::ranges::max_element(sizes, {}, [](const auto& row) { return row.second; });
  return {most == sizes.end() ? "" : most->first, Bytes(all)};
}

/// The choices, finest first.
std::vector<Choice> choices(const FoundPart& part) {
  std::vector<Choice> found;
  for (const std::string_view type : kFinestFirst) {
    uint64_t bytes = 0;
    for (const TensorPlan& tensor :
         plan_quantization(part.source, quant_type(type), "a.gguf").tensors)
      if (belongs(tensor.name, part)) bytes += tensor.to_bytes;
    found.push_back({type, Bytes(static_cast<int64_t>(bytes))});
  }
  const Choice own = own_choice(part);
  const auto size = static_cast<double>(own.bytes.count());
  const auto smaller = [&](const Choice& choice) {
    return static_cast<double>(choice.bytes.count()) < (1 - kAlike) * size;
  };
  const auto floats = static_cast<double>(found.front().bytes.count());
  if (floats <= (1 + kAlike) * size) return found;  // the file is in floats
  // Of a type that the file may have been written as, the name.
  const auto same = std::ranges::find_if(found, [&](const Choice& choice) {
    return encoding_info(quant_type(choice.name).plain).name == own.name && !smaller(choice) &&
           static_cast<double>(choice.bytes.count()) <= (1 + kAlike) * size;
  });
  std::vector<Choice> left = {same == found.end() ? own : *same};
  std::ranges::copy_if(found, std::back_inserter(left), smaller);
  return left;
}

/// The parts of a model, bound, and what they need.
struct Needs {
  explicit Needs(const ModelParts& parts)
      : denoiser(parts.def->denoiser, parts.denoiser, kCompute),
        weights(denoiser.needs()),
        factor(parts.def->latent.factor) {
    for (size_t i = 0; i < parts.text.size(); ++i) {
      if (!parts.text[i]) {
        missing.push_back(parts.def->text[i].encoder->name);
        continue;
      }
      Component<TextEncoder> encoder(*parts.def->text[i].encoder, *parts.text[i], kCompute);
      text += least_bytes(encoder.needs(), encoder.needs().stored);
    }
    if (parts.vae) {
      decoder.emplace(kl_vae, *parts.vae, kCompute);
      vae = least_bytes(decoder->needs(), decoder->needs().stored);
    } else {
      missing.push_back("vae");
    }
    // Models that are told their guidance run without a negative prompt.
    if (denoiser.get().traits().guidance != 0) calls_at_once = 1;
  }

  /// The most of any phase, with a denoiser of `stored` bytes.
  Bytes of(Bytes stored, int64_t side, bool tiled) {
    const int64_t cells = side / factor;
    const Bytes step =
        least_bytes(weights, stored) + denoiser.get().activation_bytes(calls_at_once, cells, cells);
    const Tiling tiling;
    Bytes decoding = vae;
    if (decoder)
      decoding += decoder->get().decode_bytes(tiled ? std::min(side, tiling.tile) : side,
                                              tiled ? std::min(side, 2 * tiling.tile) : side);
    return std::max({text, step, decoding}) + kProgram;
  }

  Component<DiffusionModel> denoiser;
  std::optional<Component<Vae>> decoder;
  Residency::Needs weights;
  Bytes text, vae;
  Json missing = Json::array();
  int64_t calls_at_once = 2, factor = 8;
};

}  // namespace

Json fit_table(const ModelParts& parts) try {
  const std::vector<Choice> finest_first = choices(parts.denoiser);
  Needs needs(parts);
  Json memories = Json::array(), rows = Json::array();
  for (const Bytes memory : kMemories) memories.push_back(memory.count());
  for (const int64_t side : kSides) {
    Json types = Json::array(), tiles = Json::array();
    for (const Bytes memory : kMemories) {
      std::string_view fits;
      bool tiled = false;
      for (const Choice& choice : finest_first)
        for (const bool by_tiles : {false, true})
          if (fits.empty() && needs.of(choice.bytes, side, by_tiles) + kSystem <= memory)
            fits = choice.name, tiled = by_tiles;
      types.push_back(fits);
      tiles.push_back(tiled);
    }
    rows.push_back({{"width", side}, {"height", side}, {"types", types}, {"tiled", tiles}});
  }
  return {{"memory", memories},
          {"reserved", kSystem.count()},
          {"rows", rows},
          {"missing", needs.missing}};
} catch (const Error&) {
  return nullptr;
}

}  // namespace atelier
