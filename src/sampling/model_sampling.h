// How a model was trained to denoise: its sigmas, its timesteps, and what its output means.
#pragma once

#include <ATen/core/Tensor.h>

#include <vector>

namespace atelier {

using at::Tensor;

/// What the network's output is.
enum class Prediction {
  eps,  // the noise
  v,  // the velocity of a variance preserving process
  edm,  // Karras et al.'s preconditioned residual
  flow,  // noise minus picture
};

/// Which noise levels the network knows, and how it is told them.
enum class SigmaTable {
  discrete,  // 1000 steps of "scaled linear" betas; timestep = index
  zero_terminal,  // the same, rescaled so that the last step is (almost) pure noise
  continuous_edm,  // log-spaced between sigma_min and sigma_max; timestep = ln(sigma) / 4
  flow,  // shift u / (1 + (shift - 1) u); timestep = sigma * multiplier
  flux,  // e^shift / (e^shift + 1/u - 1); timestep = sigma
};

/// What a model's definition states about its sampling.
struct ModelSamplingParams {
  Prediction prediction = Prediction::eps;
  SigmaTable table = SigmaTable::discrete;
  double shift = 1;  // flow, flux
  double multiplier = 1000;  // flow
  double sigma_data = 1;  // all but flow: 0.5 for Karras-style models
  double sigma_min = 0.002;  // continuous_edm
  double sigma_max = 80;  // continuous_edm
};

/// The shift of a picture of `tokens` squares of 16x16 pixels, for SigmaTable::flux: on the line
/// through `base` at 256 of them and `max` at 4096. Source: facts of ComfyUI's ModelSamplingFlux.
double shift_by_size(double base, double max, double tokens);

/// Denoised = skip * x + out * output, where output = network(in * x).
struct Preconditioning {
  double in, skip, out;
};

/// The rules of one model; immutable, so any thread may use it.
/// Source: facts of ComfyUI's model sampling objects; Karras et al. 2022 table 1 for the weights.
class ModelSampling {
 public:
  /// Throws `invalid_argument` on a shift, multiplier or range that is not positive and finite.
  explicit ModelSampling(const ModelSamplingParams& params);

  const ModelSamplingParams& params() const { return params_; }
  bool is_flow() const { return params_.prediction == Prediction::flow; }

  /// The table, ascending.
  const std::vector<float>& sigmas() const { return sigmas_; }
  double sigma_min() const { return sigmas_.front(); }
  double sigma_max() const { return sigmas_.back(); }

  /// The sigma of a possibly fractional timestep, rounded to float.
  double sigma(double timestep) const;
  /// What the network is told at `sigma`. For flow tables with shift != 1 not the inverse of
  /// `sigma()`: that is the reference's rule.
  double timestep(double sigma) const;
  /// The sigma at a share of the way, 0 = all noise, 1 = done. Diffusion models give 999999999.9
  /// at 0, so that a range which starts there includes every sigma.
  double percent_to_sigma(double percent) const;

  Preconditioning preconditioning(double sigma) const;

  /// Half the logarithm of the signal to noise ratio: -ln(sigma), or -logit(sigma) for flow.
  double half_log_snr(double sigma) const;
  double sigma_of_half_log_snr(double half_log_snr) const;

  /// `latent` with `noise` added up to `sigma`; both float32 on the CPU, of one shape.
  Tensor add_noise(double sigma, const Tensor& noise, const Tensor& latent) const;
  /// The same as the first x of a job: from the largest sigma on, diffusion models take x as
  /// variance preserving noise.
  Tensor start(double sigma, const Tensor& noise, const Tensor& latent) const;
  /// What is left to do to x after the last step: flow models undo the picture's weight.
  Tensor finish(double last_sigma, const Tensor& x) const;

 private:
  ModelSamplingParams params_;
  std::vector<float> sigmas_;
  std::vector<float> log_sigmas_;
};

}  // namespace atelier
