// How much each input channel of matrices and convolutions matters: collected while drawing, used
// for encoding.
#pragma once

#include <filesystem>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "nn/input_observer.h"

namespace atelier {

/// Sums of squares of the inputs of linear layers and convolutions, by the names of their weights.
/// One thread at a time; const member functions from any.
class ImportanceMatrix {
 public:
  /// Reads a file as `save` and llama.cpp's imatrix write it. Throws as `open_checkpoint`, and
  /// `malformed` for a file that holds none, or one with sums that are negative or not finite.
  static ImportanceMatrix load(const std::filesystem::path& path);
  /// Writes GGUF, which appears under its name only when whole: `general.type` "imatrix" and for
  /// each weight `<name>.in_sum2` and `<name>.counts`. Format: ggml-org/llama.cpp, tools/imatrix.
  void save(const std::filesystem::path& path) const;

  /// Adds rows x [..., channels] that `name` was multiplied with. Rows that are not finite do not
  /// count. Throws `mismatch` if the name has another number of channels already.
  void add(const std::string& name, const at::Tensor& x);

  size_t size() const { return entries_.size(); }
  /// The channels of a weight; 0 if nothing is known of it.
  int64_t columns(std::string_view name) const;
  /// Weights for encoding, one per channel: mean squares relative to their mean, but at least a
  /// thousandth, since what was never seen may yet be used.
  std::vector<float> weights(std::string_view name) const;

 private:
  struct Entry {
    std::vector<double> sums;
    double rows = 0;
  };
  std::map<std::string, Entry, std::less<>> entries_;
  std::vector<std::string> data_sets_;  // named by a file that was read
  std::string label_;  // the file it was read from
  uint32_t runs_ = 0;
};

/// Adds what the linear layers and convolutions of one part are given, under `prefix` and their own
/// names.
class ImportanceCollector final : public nn::InputObserver {
 public:
  ImportanceCollector(ImportanceMatrix& matrix, std::string prefix)
      : matrix_(matrix), prefix_(std::move(prefix)) {}
  void input(std::span<const std::string> weights, const at::Tensor& x) override;

 private:
  ImportanceMatrix& matrix_;
  std::string prefix_;
};

}  // namespace atelier
