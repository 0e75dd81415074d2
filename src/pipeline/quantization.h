// Files in other encodings: what becomes of each tensor, and the writing.
#pragma once

#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <stop_token>
#include <string>
#include <vector>

#include "formats/tensor_source.h"
#include "models/quant_rules.h"
#include "pipeline/importance.h"
#include "pipeline/quant_types.h"
#include "pipeline/rewrite.h"

namespace atelier {

/// What becomes of one tensor.
struct TensorPlan {
  std::string name;
  Shape shape;
  Encoding from = Encoding::f32, to = Encoding::f32;
  Encoding wanted = Encoding::f32;  // what `to` would be if every block suited its rows
  uint64_t from_bytes = 0, to_bytes = 0;
  bool scaled = false;  // by other tensors of the source
  std::string importance;  // the entry of the importance matrix that weighs its columns
};

/// What becomes of a file.
struct QuantPlan {
  const QuantType* type = nullptr;
  std::string architecture;  // "flux_dev", "t5xxl", "unknown"
  std::string gguf_architecture;  // what GGUF readers call it: "flux"; empty if they know no name
  bool gguf = true;  // else safetensors
  std::vector<TensorPlan> tensors;
  uint64_t from_bytes() const;
  uint64_t to_bytes() const;
};

/// Whether importance changes what is written: of blocks whose scales are chosen, so not of Q8_0.
bool takes_importance(Encoding encoding);

/// Plans the file at `out`, whose ending says the format: .gguf or .safetensors. Tensors that are
/// kept, are vectors, small, or have rows of no whole blocks in any encoding near the wanted one
/// stay floats; of scaled ones fp16 of the scaled numbers. Where a type of 16 bits decodes what is
/// in blocks or scaled, vectors stay as precise as they are. Matrices that `importance` (may be
/// null) has an entry for, under the name in the file or the model's own, are weighed by it. Throws
/// `invalid_argument` for another ending or a type the format cannot hold, `unsupported` naming a
/// tensor that nothing here decodes, and `mismatch` for coarse types of what is no model: a LoRA, a
/// textual inversion, an importance matrix, a VAE.
QuantPlan plan_quantization(const std::shared_ptr<const TensorSource>& source,
                            const QuantType& type, const std::filesystem::path& out,
                            const ImportanceMatrix* importance = nullptr);

struct QuantJob {
  std::shared_ptr<const TensorSource> source;
  QuantPlan plan;
  std::filesystem::path out;
  std::shared_ptr<const ImportanceMatrix> importance = {};  // the plan's
  /// Called after each tensor, with how many bytes have been read.
  std::function<void(const TensorPlan& tensor, const TensorError& error, uint64_t read)> progress;
  /// Called between pieces of a large tensor, with how many bytes have been read, about.
  std::function<void(uint64_t read)> piece = {};
  /// Called when all is written, before the file has its name; what it throws leaves no file.
  std::function<void()> finished = {};
  std::stop_token stop;
};

/// Throws what `run_quantization` would before it writes anything: `unsupported` for tensors that
/// GGUF cannot hold, `write_failed` if the disk says that it has too little room.
void check_quantization(const QuantJob& job);

/// Writes the file, which appears under its name only when whole. Memory is a few pieces of a
/// tensor, however large file and tensors are. A tensor with a number that its encoding cannot
/// stand for (too large, or not finite) is an error that names it. Throws `malformed`,
/// `write_failed` or `cancelled`.
void run_quantization(const QuantJob& job);

}  // namespace atelier
