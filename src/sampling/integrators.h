// The sampler functions that the table in sampler.cpp names, and what they have in common.
#pragma once

#include <cmath>
#include <vector>

#include "sampling/arithmetic.h"
#include "sampling/sampler.h"

namespace atelier {

// euler.cpp
Tensor sample_euler(const SamplerContext&, Tensor x, Sigmas);
Tensor sample_euler_cfg_pp(const SamplerContext&, Tensor x, Sigmas);
Tensor sample_euler_ancestral(const SamplerContext&, Tensor x, Sigmas);
Tensor sample_euler_ancestral_cfg_pp(const SamplerContext&, Tensor x, Sigmas);
Tensor sample_ddpm(const SamplerContext&, Tensor x, Sigmas);
Tensor sample_lcm(const SamplerContext&, Tensor x, Sigmas);
Tensor sample_gradient_estimation(const SamplerContext&, Tensor x, Sigmas);
Tensor sample_gradient_estimation_cfg_pp(const SamplerContext&, Tensor x, Sigmas);
// heun.cpp
Tensor sample_heun(const SamplerContext&, Tensor x, Sigmas);
Tensor sample_heunpp2(const SamplerContext&, Tensor x, Sigmas);
Tensor sample_dpm_2(const SamplerContext&, Tensor x, Sigmas);
Tensor sample_dpm_2_ancestral(const SamplerContext&, Tensor x, Sigmas);
// linear_multistep.cpp
Tensor sample_lms(const SamplerContext&, Tensor x, Sigmas);
Tensor sample_ipndm(const SamplerContext&, Tensor x, Sigmas);
Tensor sample_ipndm_v(const SamplerContext&, Tensor x, Sigmas);
Tensor sample_deis(const SamplerContext&, Tensor x, Sigmas);
// dpm_solver.cpp
Tensor sample_dpm_fast(const SamplerContext&, Tensor x, Sigmas);
Tensor sample_dpm_adaptive(const SamplerContext&, Tensor x, Sigmas);
// dpmpp.cpp
Tensor sample_dpmpp_2s_ancestral(const SamplerContext&, Tensor x, Sigmas);
Tensor sample_dpmpp_2s_ancestral_cfg_pp(const SamplerContext&, Tensor x, Sigmas);
Tensor sample_dpmpp_2m(const SamplerContext&, Tensor x, Sigmas);
Tensor sample_dpmpp_2m_cfg_pp(const SamplerContext&, Tensor x, Sigmas);
// dpmpp_sde.cpp
Tensor sample_dpmpp_sde(const SamplerContext&, Tensor x, Sigmas);
Tensor sample_dpmpp_2m_sde(const SamplerContext&, Tensor x, Sigmas);
Tensor sample_dpmpp_2m_sde_heun(const SamplerContext&, Tensor x, Sigmas);
Tensor sample_dpmpp_3m_sde(const SamplerContext&, Tensor x, Sigmas);
// res_multistep.cpp
Tensor sample_res_multistep(const SamplerContext&, Tensor x, Sigmas);
Tensor sample_res_multistep_cfg_pp(const SamplerContext&, Tensor x, Sigmas);
Tensor sample_res_multistep_ancestral(const SamplerContext&, Tensor x, Sigmas);
Tensor sample_res_multistep_ancestral_cfg_pp(const SamplerContext&, Tensor x, Sigmas);
// exponential_sde.cpp
Tensor sample_er_sde(const SamplerContext&, Tensor x, Sigmas);
Tensor sample_seeds_2(const SamplerContext&, Tensor x, Sigmas);
Tensor sample_seeds_3(const SamplerContext&, Tensor x, Sigmas);
// sa_solver.cpp
Tensor sample_sa_solver(const SamplerContext&, Tensor x, Sigmas);
Tensor sample_sa_solver_pece(const SamplerContext&, Tensor x, Sigmas);
// uni_pc.cpp
Tensor sample_uni_pc(const SamplerContext&, Tensor x, Sigmas);
Tensor sample_uni_pc_bh2(const SamplerContext&, Tensor x, Sigmas);

/// A step of sigma that may take noise on: down to `down` first, then up again by `up`.
struct AncestralStep {
  double down, up;
  double rescale = 1;  // of x before the noise: flow models only
};

/// The split that ends at the marginal of `to` in a variance exploding process; eta 0 gives none.
AncestralStep ancestral_step(double from, double to, double eta);

/// The split for flow models, whose x is (1 - sigma) * picture + sigma * noise; eta 1.
AncestralStep flow_ancestral_step(double from, double to);

/// Moves x along the line through `denoised`: exact if the model's answer is the same all along.
/// That is the Euler step in sigma and the exponential one in -ln sigma alike.
Tensor move(const Tensor& x, const Tensor& denoised, double from, double to);

/// Adds the noise of an ancestral step to x moved `down`; draws none for a last sigma of 0.
Tensor renoise(const SamplerContext& context, Tensor x, const AncestralStep& step, double from,
               double to);

/// The middle of two sigmas in log sigma.
inline double geometric_mean(double a, double b) { return std::sqrt(a) * std::sqrt(b); }

/// dx/dsigma.
inline Tensor slope(const Tensor& x, const Tensor& denoised, double sigma) {
  return difference(x, denoised, 1 / sigma);
}

/// Tells the callback, if there is one, that step `index` of the schedule begins.
void report(const SamplerContext& context, size_t index, Sigmas sigmas, const Tensor& x,
            const Tensor& denoised);

/// Solvers in the log signal to noise ratio cannot start at a flow model's sigma of 1, where it is
/// minus infinity: their first sigma is then the one at 0.01 % of the way.
std::vector<float> finite_snr(const ModelSampling& model, Sigmas sigmas);

}  // namespace atelier
