// What tests of denoisers share: loading a golden, its inputs, and what errors say.
#pragma once

#include <functional>

#include "base/error.h"
#include "models/golden_files.h"
#include "models/model.h"

namespace atelier::golden {

/// A denoiser and what it lives on.
struct Net {
  Residency residency;
  std::unique_ptr<DiffusionModel> model;
};

/// The denoiser that `source` is found to hold.
inline std::unique_ptr<Net> load(const std::shared_ptr<const TensorSource>& source,
                                 at::ScalarType dtype = at::kFloat, bool int8 = false) {
  auto net = std::make_unique<Net>();
  const Detected found = detect_model(source);
  BindReport report;
  net->model = load_part(found.def->denoiser, source, found.denoiser, net->residency, report,
                         {.device = {}, .dtype = dtype, .rounded = {}, .int8 = int8});
  report.throw_if_bad(source->label());
  return net;
}

/// The inputs an expected file states.
inline DiffusionInput input(const TensorSource& expected) {
  DiffusionInput in;
  in.x = tensor(expected, "x");
  in.timestep = tensor(expected, "timestep");
  in.context = nn::Context(tensor(expected, "context"));
  if (expected.tensors().contains("vector")) in.vector = tensor(expected, "vector");
  if (expected.tensors().contains("guidance")) in.guidance = tensor(expected, "guidance");
  return in;
}

/// The same tensors under a prefix.
inline std::shared_ptr<MemorySource> prefixed(const TensorSource& from, const std::string& prefix) {
  auto checkpoint = std::make_shared<MemorySource>("model.safetensors");
  for (const auto& [name, info] : from.tensors())
    checkpoint->put(prefix + name, tensor(from, name));
  return checkpoint;
}

/// What `run` complains of.
inline std::string message(const std::function<void()>& run, ErrorCode code) {
  try {
    run();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), code);
    return error.what();
  }
  ADD_FAILURE() << "nothing thrown";
  return {};
}

}  // namespace atelier::golden
