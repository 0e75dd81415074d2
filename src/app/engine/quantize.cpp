// From options to a plan, a written file and its errors.
#include "app/engine/quantize.h"

#include <ATen/Parallel.h>
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <optional>
#include <set>

#include "base/error.h"
#include "base/mapped_file.h"
#include "formats/model_folder.h"
#include "pipeline/quantization.h"

namespace atelier {
namespace {

Json describe(const QuantPlan& plan, const QuantizeOptions& options) {
  struct Share {
    uint64_t tensors = 0, from_bytes = 0, bytes = 0;
  };
  std::map<std::string, Share> by_encoding;
  size_t weighed = 0;
  for (const TensorPlan& tensor : plan.tensors) {
    weighed += !tensor.importance.empty();
    Share& share = by_encoding[std::string(encoding_info(tensor.to).name)];
    ++share.tensors;
    share.from_bytes += tensor.from_bytes;
    share.bytes += tensor.to_bytes;
  }
  Json encodings = Json::array();
  for (const auto& [name, share] : by_encoding)
    encodings.push_back({{"encoding", name},
                         {"tensors", share.tensors},
                         {"from_bytes", share.from_bytes},
                         {"bytes", share.bytes}});
  Json event = {{"event", "quant_plan"},
                {"file", options.in.string()},
                {"out", options.out.string()},
                {"type", plan.type->name},
                {"architecture", plan.architecture},
                {"tensors", plan.tensors.size()},
                {"from_bytes", plan.from_bytes()},
                {"to_bytes", plan.to_bytes()},
                {"encodings", encodings}};
  if (!options.imatrix.empty()) event["weighed"] = weighed;
  return event;
}

Json row(const TensorPlan& tensor, const TensorError& error) {
  return {{"name", tensor.name},
          {"shape", tensor.shape},
          {"from", encoding_info(tensor.from).name},
          {"to", encoding_info(tensor.to).name},
          {"from_bytes", tensor.from_bytes},
          {"bytes", tensor.to_bytes},
          {"rmse", error.rmse()},
          {"cosine", error.cosine()}};
}

/// What of a type's own encoding became others, as its rows suit no block of it.
std::string instead_of(const QuantPlan& plan) {
  std::set<std::string_view> others;
  for (const TensorPlan& tensor : plan.tensors) {
    if (tensor.wanted != plan.type->plain || tensor.from == tensor.to) continue;
    if (tensor.to == plan.type->plain) return {};
    others.insert(encoding_info(tensor.to).name);
  }
  return fmt::format("{}", fmt::join(others, ", "));
}

/// What is written otherwise than its options may have been meant.
std::vector<std::string> warnings(const QuantPlan& plan, const QuantizeOptions& options) {
  size_t blocks = 0, weighed = 0, could_be = 0;
  for (const TensorPlan& tensor : plan.tensors) {
    if (encoding_info(tensor.to).block_elements == 1 || tensor.to == tensor.from) continue;
    ++blocks;
    weighed += !tensor.importance.empty();
    could_be += takes_importance(tensor.to);
  }
  std::vector<std::string> lines;
  const std::string file = options.imatrix.string();
  const bool in_blocks = encoding_info(plan.type->plain).block_elements > 1;
  if (in_blocks && blocks == 0)
    lines.push_back(
        fmt::format("nothing is written in {}: there is no matrix it suits, or all are "
                    "kept as they are",
                    plan.type->name));
  else if (const std::string others = instead_of(plan); in_blocks && !others.empty())
    lines.push_back(fmt::format("no tensor's rows suit {}; {} take its place",
                                encoding_info(plan.type->plain).name, others));
  if (file.empty()) return lines;
  if (!in_blocks)
    lines.push_back(
        fmt::format("{} has no effect: {} rounds each number by itself", file, plan.type->name));
  else if (blocks > 0 && could_be == 0)
    lines.push_back(
        fmt::format("{} has no effect: Q8_0's scales are those of its largest numbers", file));
  else if (could_be > 0 && weighed == 0)
    lines.push_back(
        fmt::format("{} has no entry for any tensor that is quantised; it has no effect", file));
  else if (2 * weighed < could_be)
    lines.push_back(
        fmt::format("{} has entries for only {} of {} tensors that are quantised; it may "
                    "be of another model",
                    file, weighed, could_be));
  return lines;
}

/// Tensors of which little is left.
class Losses {
 public:
  void add(const TensorPlan& tensor, const TensorError& error) {
    constexpr double kLeastCosine = 0.9;
    if (error.cosine() < kLeastCosine)
      names_.push_back(fmt::format("{} ({}, {:.2f})", tensor.name, encoding_info(tensor.to).name,
                                   error.cosine()));
  }
  std::string warning() const {
    constexpr size_t kShown = 3;
    if (names_.empty()) return {};
    const auto shown = std::span(names_).first(std::min(kShown, names_.size()));
    const size_t more = names_.size() - shown.size();
    return fmt::format("{} far from what was read, cosine below 0.9: {}{}",
                       names_.size() == 1 ? "a tensor is" : "tensors are", fmt::join(shown, ", "),
                       more == 0 ? "" : fmt::format(" and {} more", more));
  }

 private:
  std::vector<std::string> names_;
};

}  // namespace

void quantize_file(const QuantizeOptions& options, EngineHost& host) {
  const auto started = std::chrono::steady_clock::now();
  if (options.threads > 0) at::set_num_threads(static_cast<int>(options.threads));
  const auto source = open_source(options.in);
  std::shared_ptr<const ImportanceMatrix> importance;
  if (!options.imatrix.empty())
    importance = std::make_shared<ImportanceMatrix>(ImportanceMatrix::load(options.imatrix));
  const std::filesystem::path out = link_target(options.out);
  QuantJob job{
      .source = source,
      .plan = plan_quantization(source, quant_type(options.type), options.out, importance.get()),
      .out = out,
      .importance = importance,
      .progress = {},
      .stop = host.stop()};
  check_quantization(job);
  Json report = describe(job.plan, options);
  host.event(report);
  for (const std::string& line : warnings(job.plan, options))
    host.event({{"event", "warning"}, {"message", line}});
  std::optional<AtomicFile> report_file;
  if (!options.report.empty()) report_file.emplace(link_target(options.report));
  Json rows = Json::array();
  TensorError total;
  Losses losses;
  const auto all = static_cast<double>(job.plan.from_bytes());
  const auto share = [&](uint64_t read) { return all > 0 ? static_cast<double>(read) / all : 1; };
  job.progress = [&](const TensorPlan& tensor, const TensorError& error, uint64_t read) {
    Json event = row(tensor, error);
    rows.push_back(event);
    total.add(error);
    losses.add(tensor, error);
    event["event"] = "tensor";
    event["share"] = share(read);
    host.event(event);
  };
  job.piece = [&](uint64_t read) { host.event({{"event", "piece"}, {"share", share(read)}}); };
  job.finished = [&] {
    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - started;
    report.update({{"event", "quantized"},
                   {"rmse", total.rmse()},
                   {"cosine", total.cosine()},
                   {"seconds", seconds.count()}});
    if (!report_file) return;
    Json file = report;
    file.erase("event");
    file["tensor_list"] = rows;
    report_file->write(file.dump(1) + "\n");
    report_file->commit();
  };
  run_quantization(job);
  if (const std::string line = losses.warning(); !line.empty())
    host.event({{"event", "warning"}, {"message", line}});
  host.event(report);
}

void list_quant_types(EngineHost& host) {
  Json rows = Json::array();
  for (const QuantType& type : quant_types())
    rows.push_back({{"name", type.name}, {"about", type.about}});
  host.event({{"event", "quant_types"}, {"types", rows}});
}

}  // namespace atelier
