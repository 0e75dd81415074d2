// Which table of kernels a processor gets.
#include "device/cpu/kernels.h"

#include <cstdlib>
#include <string>

#include "base/error.h"
#include "device/cpu/tables.h"

namespace atelier {
namespace {

constexpr std::string_view kNames[] = {"portable", "avx2", "avx512", "avx512_bf16", "amx"};

const CpuTable* find_table(CpuIsa isa) {
  for (const CpuTable& table : cpu_tables()) {
    if (table.kernels->isa == isa) return &table;
  }
  return nullptr;
}

std::string joined_names() {
  std::string names;
  for (const std::string_view name : kNames)
    names += (names.empty() ? "" : ", ") + std::string(name);
  return names;
}

}  // namespace

std::string_view cpu_isa_name(CpuIsa isa) { return kNames[static_cast<size_t>(isa)]; }

CpuIsa parse_cpu_isa(std::string_view name) {
  for (size_t i = 0; i < std::size(kNames); ++i) {
    if (kNames[i] == name) return static_cast<CpuIsa>(i);
  }
  throw Error(ErrorCode::invalid_argument, {.subject = "instruction set",
                                            .expected = "one of " + joined_names(),
                                            .found = "'" + std::string(name) + "'"});
}

bool runs_on(CpuIsa isa, const CpuFeatures& features) {
  const CpuTable* table = find_table(isa);
  return table != nullptr && table->runs_on(features);
}

std::vector<CpuIsa> cpu_isas(const CpuFeatures& features) {
  std::vector<CpuIsa> isas;
  for (const CpuTable& table : cpu_tables()) {
    if (table.runs_on(features)) isas.push_back(table.kernels->isa);
  }
  return isas;
}

const CpuKernels& cpu_kernels(const CpuFeatures& features, std::optional<CpuIsa> wanted) {
  const char* variable = std::getenv("ATELIER_CPU_ISA");
  if (!wanted && variable != nullptr && *variable != '\0') wanted = parse_cpu_isa(variable);
  const CpuIsa isa = wanted.value_or(cpu_isas(features).back());
  if (!runs_on(isa, features)) {
    throw Error(ErrorCode::unsupported,
                {.subject = "instruction set",
                 .expected = "one this processor and build can run",
                 .found = std::string(cpu_isa_name(isa)),
                 .hint = "The fastest possible here is " +
                         std::string(cpu_isa_name(cpu_isas(features).back())) + "."});
  }
  return *find_table(isa)->kernels;
}

const CpuInt8Kernels* cpu_int8_kernels(const CpuFeatures& features, std::optional<CpuIsa> wanted) {
  const CpuIsa isa = cpu_kernels(features, wanted).isa;
  const CpuInt8Kernels* best = nullptr;
  for (const CpuInt8Table& table : cpu_int8_tables()) {
    if (table.least <= isa && features.*table.flag) best = table.kernels;
  }
  return best;
}

std::string cpu_int8_needs() {
  std::string names;
  for (const CpuInt8Table& table : cpu_int8_tables())
    names += (names.empty() ? "" : ", ") + std::string(table.kernels->name);
  return names;
}

}  // namespace atelier
