// From options to a plan, a written file and its errors.
#include "app/engine/quantize.h"

#include <ATen/Parallel.h>
#include <fmt/format.h>

#include <chrono>
#include <set>

#include "base/error.h"
#include "base/mapped_file.h"
#include "formats/model_folder.h"
#include "pipeline/quantization.h"

namespace atelier {
namespace {

Json describe(const QuantPlan& plan, const QuantizeOptions& options) {
  std::map<std::string, std::pair<uint64_t, uint64_t>> by_encoding;  // tensors, bytes
  size_t weighed = 0;
  for (const TensorPlan& tensor : plan.tensors) {
    weighed += !tensor.importance.empty();
    auto& [count, bytes] = by_encoding[std::string(encoding_info(tensor.to).name)];
    ++count;
    bytes += tensor.to_bytes;
  }
  Json encodings = Json::array();
  for (const auto& [name, share] : by_encoding)
    encodings.push_back({{"encoding", name}, {"tensors", share.first}, {"bytes", share.second}});
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
          {"bytes", tensor.to_bytes},
          {"rmse", error.rmse()},
          {"cosine", error.cosine()}};
}

void write_report(const std::filesystem::path& path, const Json& report) {
  AtomicFile file(path);
  file.write(report.dump(1) + "\n");
  file.commit();
}

/// What is written otherwise than its options may have been meant.
std::vector<std::string> warnings(const QuantPlan& plan, const QuantizeOptions& options) {
  size_t blocks = 0, weighed = 0, wanted = 0;
  std::set<std::string_view> others;
  for (const TensorPlan& tensor : plan.tensors) {
    const EncodingInfo& to = encoding_info(tensor.to);
    if (to.block_elements == 1 || tensor.to == tensor.from) continue;
    ++blocks;
    weighed += !tensor.importance.empty();
    wanted += tensor.to == plan.type->plain;
    others.insert(to.name);
  }
  std::vector<std::string> lines;
  const std::string file = options.imatrix.string();
  const bool in_blocks = encoding_info(plan.type->plain).block_elements > 1;
  if (in_blocks && blocks == 0)
    lines.push_back(
        fmt::format("nothing is written in {}: there is no matrix it suits, or all are "
                    "kept as they are",
                    plan.type->name));
  else if (in_blocks && wanted == 0)
    lines.push_back(fmt::format("no tensor's rows suit {}; {} take its place",
                                encoding_info(plan.type->plain).name, fmt::join(others, ", ")));
  if (file.empty()) return lines;
  if (!in_blocks)
    lines.push_back(
        fmt::format("{} has no effect: {} rounds each number by itself", file, plan.type->name));
  else if (blocks > 0 && weighed == 0)
    lines.push_back(
        fmt::format("{} has no entry for any tensor that is quantised; it has no effect", file));
  else if (2 * weighed < blocks)
    lines.push_back(
        fmt::format("{} has entries for only {} of {} tensors that are quantised; it may "
                    "be of another model",
                    file, weighed, blocks));
  return lines;
}

}  // namespace

void quantize_file(const QuantizeOptions& options, EngineHost& host) {
  const auto started = std::chrono::steady_clock::now();
  if (options.threads > 0) at::set_num_threads(static_cast<int>(options.threads));
  const auto source = open_source(options.in);
  std::shared_ptr<const ImportanceMatrix> importance;
  if (!options.imatrix.empty())
    importance = std::make_shared<ImportanceMatrix>(ImportanceMatrix::load(options.imatrix));
  QuantJob job{
      .source = source,
      .plan = plan_quantization(source, quant_type(options.type), options.out, importance.get()),
      .out = options.out,
      .importance = importance,
      .progress = {},
      .stop = host.stop()};
  Json report = describe(job.plan, options);
  host.event(report);
  for (const std::string& line : warnings(job.plan, options))
    host.event({{"event", "warning"}, {"message", line}});
  Json rows = Json::array();
  TensorError total;
  const auto all = static_cast<double>(job.plan.from_bytes());
  job.progress = [&](const TensorPlan& tensor, const TensorError& error, uint64_t read) {
    Json event = row(tensor, error);
    rows.push_back(event);
    total.add(error);
    event["event"] = "tensor";
    event["share"] = all > 0 ? static_cast<double>(read) / all : 1;
    host.event(event);
  };
  run_quantization(job);
  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - started;
  report.update({{"event", "quantized"},
                 {"rmse", total.rmse()},
                 {"cosine", total.cosine()},
                 {"seconds", seconds.count()}});
  if (!options.report.empty()) {
    Json file = report;
    file.erase("event");
    file["tensor_list"] = rows;
    write_report(options.report, file);
  }
  host.event(report);
}

void list_quant_types(EngineHost& host) {
  Json rows = Json::array();
  for (const QuantType& type : quant_types())
    rows.push_back({{"name", type.name}, {"about", type.about}});
  host.event({{"event", "quant_types"}, {"types", rows}});
}

}  // namespace atelier
