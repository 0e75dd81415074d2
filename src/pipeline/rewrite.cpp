// Decodes, encodes and compares a tensor in tasks of a fixed size, some tasks at a time.
#include "pipeline/rewrite.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <future>
#include <limits>
#include <vector>

#include "base/error.h"
#include "device/torch_parallel.h"
#include "quant/codec/codec.h"
#include "quant/codec/encode.h"

namespace atelier {
namespace {

using E = Encoding;

constexpr int64_t kTask = 1 << 16;  // elements; whole blocks of every encoding
constexpr int64_t kPiece = 128;  // tasks between two writes
constexpr size_t kCopied = 16 << 20;  // bytes between two writes of what stays as it is

/// The largest magnitude an encoding holds, or is rounded to it.
float limit_of(E encoding) {
  if (encoding == E::f8_e4m3) return 448.F;
  if (encoding == E::f8_e5m2) return 57344.F;
  if (encoding == E::bf16) return 0x1.fefffep127F;
  return encoding == E::f32 ? std::numeric_limits<float>::max() : 65504.F;
}

[[noreturn]] void refuse(double value, E encoding, const std::string& name) {
  const bool wide = encoding == E::bf16 || encoding == E::f32;
  throw Error(ErrorCode::malformed,
              {.subject = fmt::format("tensor '{}'", name),
               .expected = fmt::format("numbers of at most {:g} in magnitude, as {} holds",
                                       limit_of(encoding), encoding_info(encoding).name),
               .found = fmt::format("{:g}", value),
               .hint = encoding == E::f32 ? "No type holds it; it may be damaged"
                       : wide             ? "Write F32 instead"
                                          : "Write BF16 or F32 instead"});
}

/// Throws for a number that `encoding` cannot stand for. NaN and infinity are none of them in a
/// float of 16 bits or more.
void check(std::span<const float> values, E encoding, const std::string& name) {
  const float limit = limit_of(encoding);
  const bool wide = encoding == E::f16 || encoding == E::bf16 || encoding == E::f32;
  for (const float value : values)
    if (!(std::fabs(value) <= limit) && !(wide && !std::isfinite(value)))
      refuse(static_cast<double>(value), encoding, name);
}

/// The same for doubles, of which those too large for fp32 have been decoded to infinity.
void check_doubles(std::span<const std::byte> stored, E encoding, const std::string& name) {
  for (size_t i = 0; i < stored.size(); i += sizeof(double)) {
    double value = 0;
    std::memcpy(&value, stored.data() + i, sizeof value);
    if (std::isfinite(value) && !std::isfinite(static_cast<float>(value)))
      refuse(value, encoding, name);
  }
}

/// One number after another, in doubles, without those that are not finite.
TensorError compare_slowly(std::span<const float> from, std::span<const float> to) {
  TensorError error{.elements = from.size()};
  for (size_t i = 0; i < from.size(); ++i) {
    if (!std::isfinite(from[i]) || !std::isfinite(to[i])) continue;
    const double a = static_cast<double>(from[i]), b = static_cast<double>(to[i]);
    error.square_error += (a - b) * (a - b);
    error.square_norm += a * a;
    error.other_norm += b * b;
    error.product += a * b;
  }
  return error;
}

/// The same with fp32 sums over short runs, where these neither overflow nor vanish.
TensorError compare(std::span<const float> from, std::span<const float> to) {
  constexpr size_t kRun = 1024, kLanes = 16;
  constexpr float kLeast = 1e-30F, kMost = 1e30F;
  TensorError all;
  for (size_t begin = 0; begin < from.size(); begin += kRun) {
    const auto a = from.subspan(begin, std::min(kRun, from.size() - begin));
    const auto b = to.subspan(begin, a.size());
    std::array<float, kLanes> errors{}, norms{}, others{}, products{};
    for (size_t i = 0; i + kLanes <= a.size(); i += kLanes)
      for (size_t k = 0; k < kLanes; ++k) {
        const float x = a[i + k], y = b[i + k];
        errors[k] += (x - y) * (x - y);
        norms[k] += x * x;
        others[k] += y * y;
        products[k] += x * y;
      }
    TensorError run{.elements = a.size()};
    for (size_t k = 0; k < kLanes; ++k) {
      run.square_error += static_cast<double>(errors[k]);
      run.square_norm += static_cast<double>(norms[k]);
      run.other_norm += static_cast<double>(others[k]);
      run.product += static_cast<double>(products[k]);
    }
    const bool usual = a.size() % kLanes == 0 && run.square_norm > kLeast &&
                       run.square_norm < kMost && run.other_norm < kMost;
    all.add(usual ? run : compare_slowly(a, b));
  }
  return all;
}

class Rewriter {
 public:
  Rewriter(const TensorSource& source, const Rewriting& tensor)
      : source_(source),
        tensor_(tensor),
        info_(source.tensors().find(tensor.name)->second),
        from_(source.bytes(tensor.name)),
        elements_(info_.elements()),
        same_(info_.encoding == tensor.to && !info_.scaling) {
    for (const E encoding : {info_.encoding, tensor.to})
      ATELIER_CHECK(kTask % encoding_info(encoding).block_elements == 0);
  }

  TensorError run(const std::function<void(std::span<const std::byte>)>& sink) const {
    TensorError all;
    std::vector<std::byte> made, leaving;
    std::future<void> sent;  // the piece before, while this one is made
    for (int64_t begin = 0; begin < elements_; begin += kPiece * kTask) {
      const int64_t end = std::min(elements_, begin + kPiece * kTask);
      made.resize(size_of(tensor_.to, end - begin));
      all.add(rewrite_piece(begin, end, made));
      source_.wont_need(tensor_.name);
      if (sent.valid()) sent.get();
      std::swap(made, leaving);
      if (end == elements_)
        sink(leaving);
      else
        sent = std::async(std::launch::async, [&] { sink(leaving); });
    }
    return all;
  }

 private:
  static size_t size_of(E encoding, int64_t elements) {
    const EncodingInfo& info = encoding_info(encoding);
    return static_cast<size_t>(elements / info.block_elements * info.block_bytes);
  }

  TensorError rewrite_piece(int64_t begin, int64_t end, std::span<std::byte> out) const {
    const int64_t tasks = (end - begin + kTask - 1) / kTask;
    std::vector<TensorError> errors(static_cast<size_t>(tasks));
    parallel_for(TorchParallel(), tasks, [&](int64_t first, int64_t last) {
      std::vector<float> values, again;
      for (int64_t i = first; i < last; ++i) {
        const int64_t from = begin + i * kTask, to = std::min(end, from + kTask);
        values.resize(static_cast<size_t>(to - from));
        again.resize(values.size());
        const auto part =
            out.subspan(size_of(tensor_.to, i * kTask), size_of(tensor_.to, to - from));
        errors[static_cast<size_t>(i)] = rewrite_task(from, values, again, part);
      }
    });
    TensorError all;
    for (const TensorError& error : errors) all.add(error);
    return all;
  }

  TensorError rewrite_task(int64_t begin, std::span<float> values, std::span<float> again,
                           std::span<std::byte> out) const {
    const SerialParallel serial;
    decode_range(from_, info_, begin, Number::f32, std::as_writable_bytes(values), serial,
                 tensor_.name);
    if (same_) {
      const auto as_is = from_.subspan(size_of(tensor_.to, begin), out.size());
      std::ranges::copy(as_is, out.begin());
      return compare(values, values);
    }
    if (info_.encoding == E::f64)
      check_doubles(from_.subspan(size_of(E::f64, begin), 8 * values.size()), tensor_.to,
                    tensor_.name);
    check(values, tensor_.to, tensor_.name);
    encode_rows(begin, values, out);
    decode(out, tensor_.to, Number::f32, std::as_writable_bytes(again), serial, tensor_.name);
    return compare(values, again);
  }

  // Blocks do not care where rows end; their weights do.
  void encode_rows(int64_t begin, std::span<const float> values, std::span<std::byte> out) const {
    const SerialParallel serial;
    const auto count = static_cast<int64_t>(values.size());
    if (tensor_.importance.empty()) return encode(values, count, tensor_.to, {}, out, serial);
    const auto row = static_cast<int64_t>(tensor_.importance.size());
    for (int64_t at = 0; at < count;) {
      const int64_t column = (begin + at) % row, some = std::min(row - column, count - at);
      const auto first = static_cast<size_t>(at), width = static_cast<size_t>(some);
      encode(values.subspan(first, width), some, tensor_.to,
             tensor_.importance.subspan(static_cast<size_t>(column), width),
             out.subspan(size_of(tensor_.to, at), size_of(tensor_.to, some)), serial);
      at += some;
    }
  }

  const TensorSource& source_;
  const Rewriting& tensor_;
  const TensorInfo& info_;
  std::span<const std::byte> from_;
  int64_t elements_ = 0;
  bool same_ = false;  // the bytes are copied
};

/// What is no number, or none that anything here decodes.
void copy(const TensorSource& source, const Rewriting& tensor,
          const std::function<void(std::span<const std::byte>)>& sink) {
  const auto bytes = source.bytes(tensor.name);
  for (size_t begin = 0; begin < bytes.size(); begin += kCopied) {
    sink(bytes.subspan(begin, std::min(kCopied, bytes.size() - begin)));
    source.wont_need(tensor.name);
  }
}

}  // namespace

double TensorError::rmse() const {
  return elements == 0 ? 0 : std::sqrt(square_error / static_cast<double>(elements));
}

double TensorError::cosine() const {
  if (square_norm == 0 || other_norm == 0) return square_norm == other_norm ? 1 : 0;
  return product / std::sqrt(square_norm * other_norm);
}

void TensorError::add(const TensorError& other) {
  square_error += other.square_error;
  square_norm += other.square_norm;
  other_norm += other.other_norm;
  product += other.product;
  elements += other.elements;
}

TensorError rewrite(const TensorSource& source, const Rewriting& tensor,
                    const std::function<void(std::span<const std::byte>)>& sink) {
  source.will_need(tensor.name);
  const TensorInfo& info = source.tensors().find(tensor.name)->second;
  const bool same = info.encoding == tensor.to && !info.scaling;
  if (!same || (decodable(info.encoding) && !is_integer(info.encoding)))
    return Rewriter(source, tensor).run(sink);
  copy(source, tensor, sink);
  return {};
}

}  // namespace atelier
