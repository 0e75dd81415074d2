// Processor and memory facts, and the choice of kernels.
#include "device/cpu/features.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>

#include "base/error.h"
#include "device/cpu/allocation.h"
#include "device/cpu/kernels.h"
#include "device/cpu/scratch.h"
#include "device/memory_info.h"

namespace atelier {
namespace {

TEST(CpuFeatures, AreConsistent) {
  const CpuFeatures f = detect_cpu_features();
  EXPECT_GE(f.cpus, 1);
  EXPECT_GE(f.usable_threads(), 1);
  EXPECT_LE(f.usable_threads(), f.cpus);
  EXPECT_TRUE(!f.avx512bw || f.avx512f);
  EXPECT_TRUE(!f.avx512f || f.avx2);
  EXPECT_TRUE(!f.amx_bf16 || f.amx_tile);
#if defined(__x86_64__)
  EXPECT_FALSE(f.vendor.empty());
  EXPECT_EQ(f.avx2, __builtin_cpu_supports("avx2") != 0);
  EXPECT_EQ(f.avx512f, __builtin_cpu_supports("avx512f") != 0);
  EXPECT_EQ(f.avx512_bf16, __builtin_cpu_supports("avx512bf16") != 0);
#endif
}

TEST(CpuFeatures, AQuotaLimitsTheThreads) {
  CpuFeatures f;
  f.cpus = 8;
  EXPECT_EQ(f.usable_threads(), 8);
  f.cpu_quota = 2.5;
  EXPECT_EQ(f.usable_threads(), 3);
  f.cpu_quota = 0.1;
  EXPECT_EQ(f.usable_threads(), 1);
  f.cpu_quota = 100;
  EXPECT_EQ(f.usable_threads(), 8);
}

TEST(CpuFeatures, EveryFlagHasAName) {
  for (const CpuFlag& flag : cpu_flags()) {
    CpuFeatures f;
    f.*flag.value = true;
    EXPECT_FALSE(flag.name.empty());
    EXPECT_EQ(std::count_if(cpu_flags().begin(), cpu_flags().end(),
                            [&](const CpuFlag& other) { return f.*other.value; }),
              1);
  }
}

TEST(CpuKernels, APlainProcessorGetsThePortableTable) {
  EXPECT_EQ(cpu_isas(CpuFeatures()), std::vector<CpuIsa>{CpuIsa::portable});
  EXPECT_EQ(cpu_kernels(CpuFeatures(), CpuIsa::portable).isa, CpuIsa::portable);
}

TEST(CpuKernels, WhatTheProcessorLacksIsRefused) {
  try {
    cpu_kernels(CpuFeatures(), CpuIsa::amx);
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::unsupported);
    EXPECT_NE(std::string(error.what()).find("portable"), std::string::npos) << error.what();
  }
}

TEST(CpuKernels, TheEnvironmentChoosesUnlessAnArgumentDoes) {
  const CpuFeatures f = detect_cpu_features();
  ASSERT_EQ(setenv("ATELIER_CPU_ISA", "portable", 1), 0);
  EXPECT_EQ(cpu_kernels(f).isa, CpuIsa::portable);
  EXPECT_EQ(cpu_kernels(f, cpu_isas(f).back()).isa, cpu_isas(f).back());
  ASSERT_EQ(setenv("ATELIER_CPU_ISA", "sse9", 1), 0);
  EXPECT_THROW(cpu_kernels(f), Error);
  unsetenv("ATELIER_CPU_ISA");
  EXPECT_EQ(cpu_kernels(f).isa, cpu_isas(f).back());
}

TEST(CpuKernels, NamesReadBack) {
  for (const CpuIsa isa :
       {CpuIsa::portable, CpuIsa::avx2, CpuIsa::avx512, CpuIsa::avx512_bf16, CpuIsa::amx}) {
    EXPECT_EQ(parse_cpu_isa(cpu_isa_name(isa)), isa);
  }
}

TEST(MemoryInfo, IsOrdered) {
  const MemoryInfo memory = read_memory_info();
  EXPECT_GT(memory.total, 0_B);
  EXPECT_LE(memory.available, memory.total);
  EXPECT_LE(memory.usable_total(), memory.total);
  EXPECT_LE(memory.usable_available(), memory.available);
  const ProcessMemory process = read_process_memory();
  EXPECT_GT(process.resident, 0_B);
  EXPECT_GE(process.peak, process.resident);
}

TEST(MemoryInfo, ACgroupsLimitCounts) {
  const MemoryInfo memory{
      .total = 16_GiB, .available = 12_GiB, .cgroup_limit = 4_GiB, .cgroup_used = 3_GiB};
  EXPECT_EQ(memory.usable_total(), 4_GiB);
  EXPECT_EQ(memory.usable_available(), 1_GiB);
  const MemoryInfo over{
      .total = 16_GiB, .available = 12_GiB, .cgroup_limit = 4_GiB, .cgroup_used = 5_GiB};
  EXPECT_EQ(over.usable_available(), 0_B);
}

TEST(Allocation, LargeBlocksStayInTheHeap) {
#ifdef __SANITIZE_ADDRESS__
  GTEST_SKIP() << "the sanitizer has an allocator of its own";
#endif
#if defined(__GLIBC__)
  EXPECT_TRUE(tune_allocator());
#else
  EXPECT_FALSE(tune_allocator());
#endif
}

TEST(Allocation, FreedMemoryIsGivenBackWhenAsked) {
#ifdef __SANITIZE_ADDRESS__
  GTEST_SKIP() << "the sanitizer has an allocator of its own";
#endif
#if !defined(__GLIBC__)
  GTEST_SKIP() << "the allocator has no such call";
#endif
  tune_allocator();
  const auto resident = [] { return read_process_memory().resident; };
  {
    const Scratch used((256_MiB).count());
    std::memset(used.data(), 1, static_cast<size_t>((256_MiB).count()));
  }
  const Bytes kept = resident();
  trim_allocator();
  EXPECT_LT(resident(), kept - 200_MiB);
}

}  // namespace
}  // namespace atelier
