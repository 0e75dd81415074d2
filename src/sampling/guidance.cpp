// Scales the network's input, evaluates the branches it needs, and combines their answers.
#include "sampling/guidance.h"

#include <array>
#include <cmath>
#include <sstream>

#include "base/error.h"
#include "sampling/arithmetic.h"

namespace atelier {
namespace {

constexpr std::array<Branch, 2> kBoth{Branch::uncond, Branch::cond};

std::string shape_text(at::IntArrayRef shape) {
  std::ostringstream text;
  text << shape;
  return text.str();
}

void check_shape(const Tensor& output, const Tensor& x, size_t branches) {
  std::vector<int64_t> expected = x.sizes().vec();
  expected[0] *= static_cast<int64_t>(branches);
  if (output.sizes() != at::IntArrayRef(expected))
    throw Error(ErrorCode::mismatch,
                {"the model's output", shape_text(expected), shape_text(output.sizes())});
}

bool is_one(double cfg) { return std::abs(cfg - 1) <= 1e-9 * std::max(std::abs(cfg), 1.0); }

}  // namespace

Denoise guided(const ModelSampling& model, const ModelCall& call, double cfg, bool needs_uncond,
               std::stop_token stop) {
  const bool both = needs_uncond || !is_one(cfg);
  const std::span<const Branch> branches = std::span(kBoth).subspan(both ? 0 : 1);
  return [&model, &call, cfg, branches, stop = std::move(stop)](const Tensor& x, double sigma) {
    if (stop.stop_requested())
      throw Error(ErrorCode::cancelled, {.subject = "sampling", .expected = "stopped on request"});
    const Preconditioning p = model.preconditioning(sigma);
    const Tensor input = p.in == 1 ? x : combine({{p.in, x}});
    const Tensor output =
        call({input, model.timestep(sigma), sigma, branches}).to(at::kCPU, at::kFloat);
    check_shape(output, x, branches.size());
    if (branches.size() == 1) return Denoised{combine({{p.skip, x}, {p.out, output}}), {}};
    const Tensor uncond = combine({{p.skip, x}, {p.out, output.narrow(0, 0, x.size(0))}});
    const Tensor cond = combine({{p.skip, x}, {p.out, output.narrow(0, x.size(0), x.size(0))}});
    return Denoised{extrapolate(uncond, cond, cfg), uncond};
  };
}

}  // namespace atelier
