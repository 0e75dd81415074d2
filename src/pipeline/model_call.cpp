// Joining branches into one batch.
#include "pipeline/model_call.h"

#include <ATen/ops/cat.h>
#include <ATen/ops/full.h>

#include <map>
#include <numeric>

namespace atelier {
namespace {

/// Everything that stays the same from step to step for one order of branches.
struct Prepared {
  nn::Context context;
  at::Tensor vector, concat;
};

using Branches = std::vector<Branch>;

const Conditioning& pick(const Guidance& guidance, Branch branch) {
  return branch == Branch::cond ? guidance.positive : guidance.negative;
}

/// Prompts of different lengths are repeated to the least common multiple, which changes nothing:
/// every key counts equally often.
at::Tensor joined_contexts(const Guidance& guidance, const Branches& branches, int64_t batch) {
  int64_t tokens = 1;
  for (const Branch branch : branches)
    tokens = std::lcm(tokens, pick(guidance, branch).context.size(1));
  std::vector<at::Tensor> rows;
  for (const Branch branch : branches) {
    const at::Tensor& context = pick(guidance, branch).context;
    rows.push_back(context.repeat({batch, tokens / context.size(1), 1}));
  }
  return at::cat(rows);
}

Prepared prepare(const Guidance& guidance, const Branches& branches, const at::Tensor& x) {
  const int64_t batch = x.size(0);
  Prepared prepared;
  prepared.context = nn::Context(joined_contexts(guidance, branches, batch));
  std::vector<at::Tensor> vectors;
  for (const Branch branch : branches)
    if (const at::Tensor& vector = pick(guidance, branch).vector; vector.defined())
      vectors.push_back(vector.repeat({batch, 1}));
  if (!vectors.empty()) prepared.vector = at::cat(vectors);
  if (guidance.concat.defined())
    prepared.concat =
        guidance.concat.repeat({batch * static_cast<int64_t>(branches.size()), 1, 1, 1});
  return prepared;
}

}  // namespace

ModelCall model_call(const DiffusionModel& model, Guidance guidance) {
  // Shared by the copies that std::function may make.
  const auto known = std::make_shared<std::map<Branches, Prepared>>();
  return [&model, guidance = std::move(guidance), known](const ModelInput& input) {
    const Branches branches(input.branches.begin(), input.branches.end());
    auto found = known->find(branches);
    if (found == known->end())
      found = known->emplace(branches, prepare(guidance, branches, input.x)).first;
    const Prepared& prepared = found->second;
    const auto count = static_cast<int64_t>(branches.size());
    DiffusionInput call;
    call.x = count == 1 ? input.x : input.x.repeat({count, 1, 1, 1});
    call.timestep = at::full({call.x.size(0)}, input.timestep, at::kFloat);
    call.context = prepared.context;
    call.vector = prepared.vector;
    call.concat = prepared.concat;
    return model.forward(call);
  };
}

}  // namespace atelier
