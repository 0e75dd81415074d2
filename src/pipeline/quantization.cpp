// Planning and writing files in other encodings.
#include "pipeline/quantization.h"

#include <fmt/format.h>

#include <algorithm>
#include <cctype>
#include <system_error>

#include "base/bytes.h"
#include "base/error.h"
#include "formats/checkpoint.h"
#include "formats/gguf.h"
#include "formats/safetensors.h"
#include "models/model.h"
#include "quant/codec/codec.h"

namespace atelier {
namespace {

using E = Encoding;

/// What takes the place of an encoding whose blocks do not fill the rows.
struct Fallback {
  E from, to;
};
constexpr Fallback kFallbacks[] = {
    {E::q2_k, E::iq4_nl}, {E::q3_k, E::iq4_nl}, {E::iq4_xs, E::iq4_nl}, {E::q4_k, E::q5_0},
    {E::q5_k, E::q5_1},   {E::q6_k, E::q8_0},   {E::iq4_nl, E::f16},    {E::q4_0, E::f16},
    {E::q4_1, E::f16},    {E::q5_0, E::f16},    {E::q5_1, E::f16},      {E::q8_0, E::f16},
};

constexpr int64_t kSmall = 1024;  // elements of a matrix that is not worth it

bool is_fp8(E encoding) { return encoding == E::f8_e4m3 || encoding == E::f8_e5m2; }

bool is_float(E encoding) {
  return encoding == E::f32 || encoding == E::f16 || encoding == E::bf16 || encoding == E::f64 ||
         is_fp8(encoding);
}

bool is_number(const TensorInfo& info) {
  return is_float(info.encoding) || info.scaling || encoding_info(info.encoding).block_elements > 1;
}

/// Whether rows of `shape`, folded as the file format allows, are whole blocks that stay apart.
bool suits(const Shape& shape, E encoding) {
  if (encoding_info(encoding).block_elements == 1) return true;
  const auto folded = gguf_shape(shape, encoding);
  return folded && folded->size() > 1;
}

E suited(const Shape& shape, E wanted) {
  while (!suits(shape, wanted)) {
    const auto next = std::ranges::find(kFallbacks, wanted, &Fallback::from);
    ATELIER_CHECK(next != std::end(kFallbacks));
    wanted = next->to;
  }
  return wanted;
}

E of_role(const QuantType& type, QuantRole role) {
  switch (role) {
    case QuantRole::value:
      return type.value;
    case QuantRole::fused:
      return type.fused;
    case QuantRole::down:
      return type.down;
    default:
      return type.plain;
  }
}

/// What a tensor stays in that is not quantised. Scales are not written beside it, and safetensors
/// has no blocks.
E kept(const TensorInfo& info, bool gguf) {
  const E from = info.encoding;
  if (info.scaling) return E::f16;
  if (encoding_info(from).block_elements > 1) return gguf ? from : E::f16;
  if (is_fp8(from)) return gguf ? E::f16 : from;
  return from == E::f64 ? E::f32 : from;
}

/// Whether the numbers are codes that must be decoded.
bool is_coded(const TensorInfo& info) {
  return info.scaling || is_fp8(info.encoding) || encoding_info(info.encoding).block_elements > 1;
}

/// Whether every number of `from` is one of `to`.
bool holds(E to, E from) { return to == E::f32 || from == to || is_fp8(from); }

/// What a tensor is written in, and would be if every block suited its rows.
struct Target {
  E to, wanted;
};

/// `decoding`: some tensors of the file are codes.
Target target(const QuantPart& part, const QuantType& type, const std::string& name,
              const TensorInfo& info, bool gguf, bool decoding) {
  const auto as_is = [](E encoding) { return Target{encoding, encoding}; };
  if (!is_number(info)) return as_is(info.encoding);
  const bool vector = info.shape.size() < 2;
  if (type.everything) {
    // Biases and the scales of norms are computed with as they are: rounding them would change the
    // picture that the codes give.
    const bool exact = decoding && vector && !is_coded(info) && !holds(type.plain, info.encoding);
    return as_is(exact ? kept(info, gguf) : type.plain);
  }
  const QuantRole role = quant_role(part, name);
  if (role == QuantRole::keep || vector || info.elements() <= kSmall)
    return as_is(kept(info, gguf));
  const E wanted = of_role(type, role);
  return {suited(info.shape, wanted), wanted};
}

/// What GGUF calls bytes as they are: it knows no U8, which is how T5 files keep their tokenizer.
E in_gguf(std::string_view name, E encoding) {
  return encoding == E::u8 && name.ends_with("spiece_model") ? E::i8 : encoding;
}

/// How many neighbouring columns of a tensor's rows are one input channel, if a channel is one of
/// `channels`: 1 of a matrix, 9 of a folded convolution of 3x3; 0 if the rows are not these.
int64_t columns_per_channel(const TensorPlan& tensor, int64_t channels) {
  const auto folded = gguf_shape(tensor.shape, tensor.to);
  if (!folded || channels == 0) return 0;
  int64_t each = 1;
  if (tensor.shape.size() > 2 && tensor.shape[1] == channels)
    for (size_t i = 2; i < tensor.shape.size(); ++i) each *= tensor.shape[i];
  return folded->back() == channels * each ? each : 0;
}

/// The matrix's entry for a tensor: by its name in the file, or by the model's, which entries of
/// text encoders have behind the encoder's. Empty if there is none for rows of this length.
std::string entry_for(const ImportanceMatrix& importance, const QuantPlan& plan,
                      const TensorPlan& tensor, const QuantPart& part) {
  std::vector<std::string> candidates{tensor.name};
  if (tensor.name.starts_with(part.prefix)) {
    const auto [begin, end] = part.tensors.equal_range(tensor.name.substr(part.prefix.size()));
    for (auto of = begin; of != end; ++of) {
      if (of->second.transposed) continue;
      candidates.push_back(of->second.name);
      candidates.push_back(plan.architecture + "." + of->second.name);
    }
  }
  for (const std::string& name : candidates)
    if (columns_per_channel(tensor, importance.columns(name)) > 0) return name;
  return {};
}

/// The weight of each column of a row; none without an entry.
std::vector<float> importance_of(const QuantJob& job, const TensorPlan& tensor) {
  std::vector<float> columns;
  if (tensor.importance.empty()) return columns;
  const std::vector<float> channels = job.importance->weights(tensor.importance);
  const int64_t each = columns_per_channel(tensor, std::ssize(channels));
  for (const float channel : channels)
    columns.insert(columns.end(), static_cast<size_t>(each), channel);
  return columns;
}

/// The tensors of the file to be written. Throws `unsupported` for what GGUF cannot hold.
std::vector<TensorSpec> specs_of(const QuantJob& job) {
  std::vector<TensorSpec> specs;
  for (const TensorPlan& tensor : job.plan.tensors) {
    const E to = job.plan.gguf ? in_gguf(tensor.name, tensor.to) : tensor.to;
    if (job.plan.gguf && encoding_info(to).ggml_type < 0)
      throw Error(ErrorCode::unsupported,
                  {.subject = job.source->label(),
                   .expected = fmt::format("tensor '{}' is {}, which GGUF cannot hold", tensor.name,
                                           encoding_info(to).name),
                   .hint = "If its scales are missing the file is damaged; otherwise write "
                           ".safetensors"});
    specs.push_back({tensor.name, tensor.shape, to});
  }
  return specs;
}

/// Rewrites one tensor; what is wrong with its numbers is told with the file's name.
TensorError rewrite_tensor(const QuantJob& job, const TensorPlan& tensor,
                           const std::function<void(std::span<const std::byte>)>& sink) {
  const auto weights = importance_of(job, tensor);
  try {
    return rewrite(*job.source, {tensor.name, tensor.to, weights}, sink);
  } catch (const Error& error) {
    if (error.code() != ErrorCode::malformed) throw;
    throw error.within(job.source->label());
  }
}

/// What readers that go by it are told: the model's, or what the source said of an unknown one.
std::string gguf_architecture(const QuantJob& job) {
  if (!job.plan.gguf_architecture.empty()) return job.plan.gguf_architecture;
  const auto& metadata = job.source->metadata();
  const auto said = metadata.find("general.architecture");
  return said == metadata.end() ? "" : said->second;
}

/// What is said of the source's encodings and layout, not of the model.
bool is_of_the_file(std::string_view key) {
  constexpr std::string_view kKeys[] = {"general.file_type", "general.quantization_version",
                                        "general.alignment", "quantize.imatrix."};
  return key.starts_with("comfy.gguf.") || key.starts_with(kGgufScalarKey) ||
         std::ranges::any_of(kKeys, [&](auto name) { return key.starts_with(name); });
}

/// The source's metadata, typed where it is GGUF itself (a tokenizer, for instance), and ours.
GgufEntries gguf_metadata(const QuantJob& job) {
  GgufEntries entries;
  const auto keep = [&](const std::string& key, GgufEntry value) {
    if (!is_of_the_file(key)) entries.emplace(key, std::move(value));
  };
  if (const auto* file = dynamic_cast<const Checkpoint*>(job.source.get()))
    for (const auto& [key, value] : file->gguf()) keep(key, value);
  for (const auto& [key, value] : job.source->metadata()) keep(key, value);
  entries.erase("general.architecture");
  if (const std::string name = gguf_architecture(job); !name.empty())
    entries["general.architecture"] = name;
  entries["general.quantization_version"] = uint32_t{2};
  entries["general.file_type"] = job.plan.type->gguf_file_type;
  return entries;
}

/// The same for safetensors, which has texts only.
Metadata plain_metadata(const QuantJob& job) {
  Metadata metadata = job.source->metadata();
  std::erase_if(metadata, [](const auto& pair) { return is_of_the_file(pair.first); });
  return metadata;
}

/// `total` times `done` over `all`.
uint64_t share_of(uint64_t total, uint64_t done, uint64_t all) {
  return static_cast<uint64_t>(static_cast<double>(total) * static_cast<double>(done) /
                               static_cast<double>(all));
}

/// Throws `mismatch` for what belongs to a model but is none: coarse encodings would ruin it.
void refuse_accessory(const TensorSource& source, const QuantType& type) {
  const std::optional<Accessory> accessory = accessory_in(source);
  if (!accessory || type.everything) return;
  throw Error(ErrorCode::mismatch, {.subject = source.label(),
                                    .expected = "a model",
                                    .found = std::string(accessory->what),
                                    .hint = "It can be written in F16, BF16 or F32"});
}

}  // namespace

uint64_t QuantPlan::from_bytes() const {
  uint64_t sum = 0;
  for (const TensorPlan& tensor : tensors) sum += tensor.from_bytes;
  return sum;
}

uint64_t QuantPlan::to_bytes() const {
  uint64_t sum = 0;
  for (const TensorPlan& tensor : tensors) sum += tensor.to_bytes;
  return sum;
}

QuantPlan plan_quantization(const std::shared_ptr<const TensorSource>& source,
                            const QuantType& type, const std::filesystem::path& out,
                            const ImportanceMatrix* importance) {
  std::string ending = out.extension().string();
  std::ranges::transform(ending, ending.begin(),
                         [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  if (ending != ".gguf" && ending != ".safetensors")
    throw Error(ErrorCode::invalid_argument, {.subject = out.string(),
                                              .expected = "a name ending in .gguf or .safetensors",
                                              .found = fmt::format("'{}'", ending)});
  const bool gguf = ending == ".gguf";
  const EncodingInfo& main = encoding_info(type.plain);
  if (gguf ? main.ggml_type < 0 : main.safetensors.empty())
    throw Error(ErrorCode::invalid_argument,
                {.subject = out.string(),
                 .expected = fmt::format("{} cannot be stored in {}", type.name,
                                         gguf ? "GGUF" : "safetensors"),
                 .hint = fmt::format("End the name in {}", gguf ? ".safetensors" : ".gguf")});
  const QuantPart part = quantisable_part(source);
  if (!part.layout) refuse_accessory(*source, type);
  QuantPlan plan{.type = &type,
                 .architecture = std::string(part.name),
                 .gguf_architecture = std::string(part.gguf_architecture),
                 .gguf = gguf,
                 .tensors = {}};
  const bool decoding = std::ranges::any_of(
      source->tensors(), [](const auto& tensor) { return is_coded(tensor.second); });
  for (const auto& [name, info] : source->tensors()) {
    if (is_number(info) && !decodable(info.encoding))
      throw Error(ErrorCode::unsupported,
                  {.subject = source->label(),
                   .expected = fmt::format("tensor '{}' is {}, which nothing here decodes", name,
                                           encoding_info(info.encoding).name)});
    const auto [to, wanted] = target(part, type, name, info, gguf, decoding);
    const EncodingInfo& as = encoding_info(to);
    const auto blocks = static_cast<uint64_t>(info.elements() / as.block_elements);
    plan.tensors.push_back({.name = name,
                            .shape = info.shape,
                            .from = info.encoding,
                            .to = to,
                            .wanted = wanted,
                            .from_bytes = info.size,
                            .to_bytes = blocks * static_cast<uint64_t>(as.block_bytes),
                            .scaled = info.scaling != nullptr,
                            .importance = {}});
    if (importance && takes_importance(to) && to != info.encoding)
      plan.tensors.back().importance = entry_for(*importance, plan, plan.tensors.back(), part);
  }
  return plan;
}

bool takes_importance(Encoding encoding) {
  return encoding != E::q8_0 && encoding_info(encoding).block_elements > 1;
}

void check_quantization(const QuantJob& job) {
  specs_of(job);
  const std::filesystem::path folder = job.out.has_parent_path() ? job.out.parent_path() : ".";
  std::error_code untold;
  const std::filesystem::space_info disk = std::filesystem::space(folder, untold);
  const bool told = !untold && disk.capacity > 0 && disk.available != static_cast<uintmax_t>(-1);
  const uint64_t needed = job.plan.to_bytes();
  if (!told || disk.available >= needed) return;
  const auto text = [](uint64_t bytes) { return to_string(Bytes(static_cast<int64_t>(bytes))); };
  throw Error(ErrorCode::write_failed,
              {.subject = job.out.string(),
               .expected = fmt::format("{} of room on its disk", text(needed)),
               .found = fmt::format("{}, {} bytes too little", text(disk.available),
                                    needed - disk.available),
               .hint = "Free some or choose another folder"});
}

void run_quantization(const QuantJob& job) {
  const std::vector<TensorSpec> specs = specs_of(job);
  uint64_t read = 0;
  const auto check_stop = [&] {
    if (job.stop.stop_requested())
      throw Error(ErrorCode::cancelled, {.expected = "stopped; nothing was written"});
  };
  const TensorPieces pieces = [&](size_t i, const ByteSink& sink) {
    const TensorPlan& tensor = job.plan.tensors[i];
    check_stop();
    uint64_t sent = 0;
    const TensorError error = rewrite_tensor(job, tensor, [&](std::span<const std::byte> piece) {
      check_stop();
      sink(piece);
      sent += piece.size();
      if (job.piece && sent < tensor.to_bytes)
        job.piece(read + share_of(tensor.from_bytes, sent, tensor.to_bytes));
    });
    read += tensor.from_bytes;
    if (job.progress) job.progress(tensor, error, read);
  };
  if (job.plan.gguf)
    write_gguf_in_pieces(job.out, specs, pieces, gguf_metadata(job), job.finished);
  else
    write_safetensors_in_pieces(job.out, specs, pieces, plain_metadata(job), job.finished);
}

}  // namespace atelier
