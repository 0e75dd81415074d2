// Joining branches into one batch.
#include "pipeline/model_call.h"

#include <ATen/ops/cat.h>
#include <ATen/ops/full.h>

#include <algorithm>
#include <map>
#include <numeric>

namespace atelier {
namespace {

/// Everything that stays the same from step to step for one order of branches.
struct Prepared {
  nn::Context context;
  at::Tensor vector, guidance, concat;
};

using Branches = std::vector<Branch>;

const Conditioning& pick(const Guidance& guidance, Branch branch) {
  return branch == Branch::cond ? guidance.positive : guidance.negative;
}

/// Prompts of different lengths are repeated to this one, the least common multiple, which changes
/// nothing: every key counts equally often.
int64_t common_length(const Guidance& guidance, const Branches& branches) {
  int64_t tokens = 1;
  for (const Branch branch : branches)
    tokens = std::lcm(tokens, pick(guidance, branch).context.size(1));
  return tokens;
}

/// Whether repeating makes no prompt more than four times as long; ComfyUI draws the line there.
/// Where prompts are more than attended to, they must be equally long.
bool fit_one_batch(const ModelTraits& traits, const Guidance& guidance, const Branches& branches) {
  const int64_t most_repeats = traits.prompt_repeats ? 4 : 1;
  const int64_t tokens = common_length(guidance, branches);
  return std::ranges::all_of(branches, [&](Branch branch) {
    return tokens / pick(guidance, branch).context.size(1) <= most_repeats;
  });
}

at::Tensor joined_contexts(const Guidance& guidance, const Branches& branches, int64_t batch) {
  const int64_t tokens = common_length(guidance, branches);
  std::vector<at::Tensor> rows;
  for (const Branch branch : branches) {
    const at::Tensor& context = pick(guidance, branch).context;
    // Not copied for each picture before it is joined.
    rows.push_back(context.repeat({1, tokens / context.size(1), 1}).expand({batch, -1, -1}));
  }
  return at::cat(rows).contiguous();
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
  std::vector<at::Tensor> scales;
  for (const Branch branch : branches)
    if (const auto scale = pick(guidance, branch).guidance)
      scales.push_back(at::full({batch}, *scale, at::kFloat));
  if (scales.size() == branches.size()) prepared.guidance = at::cat(scales);
  if (guidance.concat.defined())
    prepared.concat =
        guidance.concat.repeat({batch * static_cast<int64_t>(branches.size()), 1, 1, 1});
  return prepared;
}

/// Runs the model on some branches as one batch.
class BatchCall {
 public:
  BatchCall(const DiffusionModel& model, Guidance guidance)
      : model_(model), guidance_(std::move(guidance)) {}
  const Guidance& guidance() const { return guidance_; }
  const ModelTraits& traits() const { return model_.traits(); }

  at::Tensor operator()(const ModelInput& input, const Branches& branches) {
    auto found = known_.find(branches);
    if (found == known_.end())
      found = known_.emplace(branches, prepare(guidance_, branches, input.x)).first;
    const auto count = static_cast<int64_t>(branches.size());
    DiffusionInput call;
    call.x = count == 1 ? input.x : input.x.repeat({count, 1, 1, 1});
    call.timestep = at::full({call.x.size(0)}, input.timestep, at::kFloat);
    call.context = found->second.context;
    call.vector = found->second.vector;
    call.guidance = found->second.guidance;
    call.concat = found->second.concat;
    call.references = guidance_.references;
    return model_.forward(call);
  }

 private:
  const DiffusionModel& model_;
  Guidance guidance_;
  std::map<Branches, Prepared> known_;
};

}  // namespace

ModelCall model_call(const DiffusionModel& model, Guidance guidance) {
  // Shared by the copies that std::function may make.
  const auto call = std::make_shared<BatchCall>(model, std::move(guidance));
  return [call](const ModelInput& input) {
    const Branches branches(input.branches.begin(), input.branches.end());
    if (fit_one_batch(call->traits(), call->guidance(), branches)) return (*call)(input, branches);
    std::vector<at::Tensor> outputs;
    for (const Branch branch : branches) outputs.push_back((*call)(input, {branch}));
    return at::cat(outputs);
  };
}

}  // namespace atelier
