// What `atelier quantize` was asked for, as plain data.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>

namespace atelier {

/// Every option of `atelier quantize`; an empty path or text means "not given".
struct QuantizeOptions {
  std::filesystem::path in, out;
  std::string type;
  std::filesystem::path report;
  std::filesystem::path imatrix;
  int64_t threads = 0;  // 0: as many as there are
  bool overwrite = false;
};

}  // namespace atelier
