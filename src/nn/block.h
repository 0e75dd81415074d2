// The two shapes every model is built of: a block of layers, and equal blocks in a row.
#pragma once

#include <vector>

#include "nn/scope.h"

namespace atelier::nn {

/// Base of every composite layer: its place in the state dict and the model's config. Members
/// declared with default initialisers read `w` and `c`, so a declaration is also the binding of its
/// weights. The config must outlive the block; blocks are not assigned.
template <class Config>
struct Block {
  Scope w;
  const Config& c;
  Block(Scope scope, const Config& config) : w(std::move(scope)), c(config) {}
};

/// Equal blocks in a row, numbered from 0 below one name.
template <class B>
class Stack {
 public:
  template <class Config, class... More>
  Stack(const Scope& w, int64_t depth, const Config& config, More&&... more) {
    blocks_.reserve(static_cast<size_t>(depth));
    for (int64_t i = 0; i < depth; ++i) blocks_.emplace_back(w / i, config, more...);
  }
  auto begin() const { return blocks_.begin(); }
  auto end() const { return blocks_.end(); }
  size_t size() const { return blocks_.size(); }
  const B& operator[](size_t i) const { return blocks_[i]; }

 private:
  std::vector<B> blocks_;
};

}  // namespace atelier::nn
