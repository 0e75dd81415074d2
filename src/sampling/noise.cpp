// Start noise and ancestral noise from torch's CPU generator.
#include "sampling/noise.h"

#include <ATen/CPUGeneratorImpl.h>

#include <algorithm>
#include <string>

#include "base/error.h"

namespace atelier {
namespace {

constexpr int64_t kMaxBatchIndex = 65535;

at::Generator generator_of(uint64_t seed) {
  return at::make_generator<at::CPUGeneratorImpl>(seed & 0xffffffffu);
}

}  // namespace

Tensor initial_noise(at::IntArrayRef shape, uint64_t seed) {
  return at::randn(shape, generator_of(seed), at::kFloat);
}

void redraw_noise(Tensor& noise, uint64_t seed) { noise.normal_(0, 1, generator_of(seed)); }

Tensor initial_noise(at::IntArrayRef shape, uint64_t seed, std::span<const int64_t> batch_index) {
  const auto bad = std::find_if(batch_index.begin(), batch_index.end(),
                                [](int64_t i) { return i < 0 || i > kMaxBatchIndex; });
  if (bad != batch_index.end())
    throw Error(ErrorCode::invalid_argument,
                {"batch index", "0 to " + std::to_string(kMaxBatchIndex), std::to_string(*bad)});
  if (shape.empty() || shape[0] != static_cast<int64_t>(batch_index.size()))
    throw Error(ErrorCode::invalid_argument,
                {"batch index", "one index per latent", std::to_string(batch_index.size())});
  std::vector<int64_t> one(shape.begin(), shape.end());
  one[0] = 1;
  Tensor noise = at::empty(shape, at::kFloat);
  at::Generator generator = generator_of(seed);
  const int64_t last =
      batch_index.empty() ? -1 : *std::max_element(batch_index.begin(), batch_index.end());
  for (int64_t drawn = 0; drawn <= last; ++drawn) {
    const Tensor element = at::randn(one, generator, at::kFloat);
    for (size_t k = 0; k < batch_index.size(); ++k)
      if (batch_index[k] == drawn) noise.narrow(0, static_cast<int64_t>(k), 1).copy_(element);
  }
  return noise;
}

AncestralNoise::AncestralNoise(at::IntArrayRef shape, uint64_t seed)
    : shape_(shape.begin(), shape.end()), generator_(generator_of(seed)) {}

Tensor AncestralNoise::next(double, double) { return at::randn(shape_, generator_, at::kFloat); }

}  // namespace atelier
