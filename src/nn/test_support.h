// A model's tensors in memory, for the tests of what reads them by name.
#pragma once

#include <gtest/gtest.h>

#include "memory/memory_source.h"
#include "memory/test_patch.h"
#include "nn/scope.h"

namespace atelier::nn {

inline const KeyLayout kOwn{.name = "own", .signature = ""};

/// Tensors put under names, and scopes over them.
struct Names : ::testing::Test {
  std::shared_ptr<MemorySource> source = std::make_shared<MemorySource>("file");
  Residency residency;
  BindReport report;

  void put(const std::string& name, Shape shape) { source->put(name, at::randn(shape)); }
  Scope scope(const KeyLayout& layout = kOwn, const std::string& prefix = "",
              at::ScalarType dtype = at::kFloat) {
    return Scope(std::make_shared<const Binding>(Binding{
        KeyMap(source, prefix, layout), residency, report, {.device = {}, .dtype = dtype}}));
  }
};

}  // namespace atelier::nn
