// The second-order exponential multistep method RES (Zhang et al. 2023), and its ancestral and
// CFG++ forms. Times are t = -ln sigma.
#include <cmath>

#include "sampling/integrators.h"

namespace atelier {
namespace {

enum class Guidance { plain, cfg_pp };

/// Weights of the answer now and of the one before, for a step h and a step before of -c h.
struct Weights {
  double now, before;
};

Weights weights_of(double h, double c) {
  const double phi_1 = -std::expm1(-h) / h;
  const double phi_2 = (1 - phi_1) / h;
  const double before = h * phi_2 / c;
  return {h * phi_1 - before, before};
}

Tensor res_multistep(const SamplerContext& context, Tensor x, Sigmas sigmas, double eta,
                     Guidance guidance) {
  Tensor answer_before;
  double down_before = 0;
  for (size_t i = 0; i + 1 < sigmas.size(); ++i) {
    const double from = sigmas[i], to = sigmas[i + 1];
    const Denoised d = context.denoise(x, from);
    report(context, i, sigmas, x, d.guided);
    const bool cfg_pp = guidance == Guidance::cfg_pp;
    const Tensor answer = cfg_pp ? d.uncond : d.guided;
    const AncestralStep step = ancestral_step(from, to, eta);
    const double ratio = step.down / from;
    Weights w{1 - ratio, 0};
    if (step.down > 0 && answer_before.defined())
      w = weights_of(std::log(from / step.down),
                     std::log(down_before / sigmas[i - 1]) / std::log(from / step.down));
    // CFG++ steps from x shifted by what guidance added; a first step ends at the guided answer.
    if (!cfg_pp)
      x = step.down == 0 ? answer : combine({{ratio, x}, {w.now, answer}});
    else if (w.before == 0)
      x = combine({{1, d.guided}, {ratio, x}, {-ratio, d.uncond}});
    else
      x = combine({{ratio, x}, {ratio, d.guided}, {w.now - ratio, d.uncond}});
    if (w.before != 0) x = combine({{1, x}, {w.before, answer_before}});
    if (eta > 0) x = renoise(context, x, step, from, to);
    answer_before = answer;
    down_before = step.down;
  }
  return x;
}

}  // namespace

Tensor sample_res_multistep(const SamplerContext& context, Tensor x, Sigmas sigmas) {
  return res_multistep(context, x, sigmas, 0, Guidance::plain);
}

Tensor sample_res_multistep_cfg_pp(const SamplerContext& context, Tensor x, Sigmas sigmas) {
  return res_multistep(context, x, sigmas, 0, Guidance::cfg_pp);
}

Tensor sample_res_multistep_ancestral(const SamplerContext& context, Tensor x, Sigmas sigmas) {
  return res_multistep(context, x, sigmas, 1, Guidance::plain);
}

Tensor sample_res_multistep_ancestral_cfg_pp(const SamplerContext& context, Tensor x,
                                             Sigmas sigmas) {
  return res_multistep(context, x, sigmas, 1, Guidance::cfg_pp);
}

}  // namespace atelier
