// Bytes of the phases of a run for each type, size and memory.
#include "app/engine/fit_table.h"

#include <algorithm>
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

/// Bytes of the denoiser in each type.
std::vector<Bytes> denoiser_bytes(const FoundPart& part) {
  std::vector<Bytes> sizes;
  for (const std::string_view type : kFinestFirst) {
    uint64_t bytes = 0;
    for (const TensorPlan& tensor :
         plan_quantization(part.source, quant_type(type), "a.gguf").tensors)
      if (belongs(tensor.name, part)) bytes += tensor.to_bytes;
    sizes.emplace_back(static_cast<int64_t>(bytes));
  }
  return sizes;
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
  const std::vector<Bytes> weights = denoiser_bytes(parts.denoiser);
  Needs needs(parts);
  Json memories = Json::array(), rows = Json::array();
  for (const Bytes memory : kMemories) memories.push_back(memory.count());
  for (const int64_t side : kSides) {
    Json types = Json::array(), tiles = Json::array();
    for (const Bytes memory : kMemories) {
      std::string_view fits;
      bool tiled = false;
      for (size_t i = 0; i < weights.size() && fits.empty(); ++i)
        for (const bool by_tiles : {false, true})
          if (fits.empty() && needs.of(weights[i], side, by_tiles) <= memory)
            fits = kFinestFirst[i], tiled = by_tiles;
      types.push_back(fits);
      tiles.push_back(tiled);
    }
    rows.push_back({{"width", side}, {"height", side}, {"types", types}, {"tiled", tiles}});
  }
  return {{"memory", memories}, {"rows", rows}, {"missing", needs.missing}};
} catch (const Error&) {
  return nullptr;
}

}  // namespace atelier
