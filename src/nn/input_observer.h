// Watching what linear layers and convolutions are given, for collecting statistics; nothing where
// nobody watches.
#pragma once

#include <ATen/core/Tensor.h>

#include <memory>
#include <span>
#include <string>
#include <vector>

namespace atelier::nn {

/// Told the inputs of linear layers and convolutions as they are computed, by the thread that
/// computes.
class InputObserver {
 public:
  virtual ~InputObserver() = default;
  /// x [..., in] is about to be multiplied with the weights of these names in the model; the pixels
  /// of a picture are rows of their channels.
  virtual void input(std::span<const std::string> weights, const at::Tensor& x) = 0;
};

/// What a layer keeps to tell an observer.
class Watched {
 public:
  Watched() = default;
  /// `observer` may be null and must outlive the layer.
  Watched(InputObserver* observer, std::vector<std::string> weights) {
    if (observer) about_ = std::make_shared<const About>(About{observer, std::move(weights)});
  }
  void operator()(const at::Tensor& x) const {
    if (about_) about_->observer->input(about_->weights, x);
  }
  /// The same for a picture [B, in, H, W].
  void picture(const at::Tensor& x) const {
    if (about_) about_->observer->input(about_->weights, x.permute({0, 2, 3, 1}));
  }

 private:
  struct About {
    InputObserver* observer;
    std::vector<std::string> weights;
  };
  std::shared_ptr<const About> about_;
};

}  // namespace atelier::nn
