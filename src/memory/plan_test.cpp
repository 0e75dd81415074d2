// What stays prepared at which limit.
#include "memory/plan.h"

#include <gtest/gtest.h>

namespace atelier {
namespace {

constexpr Residency::Needs kQuantised{.prepared = 4_GiB, .stored = 1_GiB, .largest = 100_MiB};

TEST(PlanPhase, EverythingStaysWhereItFits) {
  const PhaseMemory plan = plan_phase(kQuantised, 1_GiB, 5_GiB);
  EXPECT_EQ(plan.stay.prepared, 4_GiB);
  EXPECT_EQ(plan.needed, 5_GiB);
  EXPECT_FALSE(plan.from_disk());
}

TEST(PlanPhase, ALimitIsUsedUpAndKept) {
  for (const Bytes limit : {2500_MiB, 3_GiB, 4_GiB, 5119_MiB}) {
    const PhaseMemory plan = plan_phase(kQuantised, 1_GiB, limit);
    EXPECT_LE(plan.needed, limit);
    EXPECT_GE(plan.needed, limit - 1_MiB);
    EXPECT_GT(plan.stay.prepared, 0_B);
    EXPECT_LT(plan.stay.prepared, 4_GiB);
    EXPECT_FALSE(plan.from_disk());
  }
}

TEST(PlanPhase, NothingStaysWhereOnlyTheStoredFormFits) {
  const PhaseMemory plan = plan_phase(kQuantised, 1_GiB, 2248_MiB);
  EXPECT_EQ(plan.stay.prepared, 0_B);
  EXPECT_FALSE(plan.from_disk());
  EXPECT_EQ(plan.needed, 2248_MiB);
}

TEST(PlanPhase, BelowThatWeightsComeFromDiskApartFromThoseThatStayPrepared) {
  const PhaseMemory plan = plan_phase(kQuantised, 1_GiB, 1500_MiB);
  EXPECT_EQ(plan.stay.prepared, 276_MiB);
  EXPECT_TRUE(plan.from_disk());
  EXPECT_EQ(plan.needed, 1500_MiB);
}

TEST(PlanPhase, SaysWhatIsNeededAtLeast) {
  for (const Bytes limit : {1_GiB, 2_GiB, 8_GiB})
    EXPECT_EQ(plan_phase(kQuantised, 1_GiB, limit).least, 1_GiB + 200_MiB);
  EXPECT_EQ(plan_phase(kQuantised, 1_GiB, 1_GiB).needed, 1_GiB + 200_MiB);
  const Residency::Needs one{.prepared = 100_MiB, .stored = 30_MiB, .largest = 90_MiB};
  EXPECT_EQ(plan_phase(one, 1_GiB, 1_GiB).needed, 1_GiB + 100_MiB);
}

TEST(PlanPhase, WeightsThatAreStoredAsLargeStayAsFarAsTheyFit) {
  const Residency::Needs halves{.prepared = 2060_MiB, .stored = 2048_MiB, .largest = 100_MiB};
  const PhaseMemory plan = plan_phase(halves, 1_GiB, 3_GiB);
  EXPECT_EQ(plan.stay.prepared, 2048_MiB - 200_MiB);
  EXPECT_FALSE(plan.stay.stored);
  EXPECT_EQ(plan.needed, 3_GiB);
}

TEST(PlanPhase, WeightsThatShrinkWhenPreparedStayAsFarAsTheyFit) {
  const Residency::Needs wide{.prepared = 2_GiB, .stored = 4_GiB, .largest = 100_MiB};
  const PhaseMemory plan = plan_phase(wide, 0_B, 1224_MiB);
  EXPECT_EQ(plan.stay.prepared, 1_GiB);
  EXPECT_TRUE(plan.from_disk());
  EXPECT_EQ(plan.needed, 1224_MiB);
}

TEST(PlanPhase, WhatIsReadAsStoredStaysBesideTheRestWhereItFits) {
  Residency::Needs needs = kQuantised;
  needs.as_stored = 1_GiB;
  EXPECT_EQ(plan_phase(needs, 1_GiB, 6_GiB).needed, 6_GiB);
  EXPECT_EQ(plan_phase(needs, 1_GiB, 6_GiB).stay.prepared, 4_GiB);
  EXPECT_EQ(plan_phase(needs, 1_GiB, 3_GiB + 200_MiB).stay.prepared, 0_B);
  const PhaseMemory beside = plan_phase(needs, 1_GiB, 2_GiB + 600_MiB);
  EXPECT_TRUE(beside.stay.as_stored);
  EXPECT_FALSE(beside.stay.stored);
  EXPECT_EQ(beside.stay.prepared, 400_MiB);
  const PhaseMemory least = plan_phase(needs, 1_GiB, 2_GiB);
  EXPECT_FALSE(least.stay.as_stored);
  EXPECT_FALSE(least.stay.stored);
  EXPECT_EQ(least.stay.prepared, 1_GiB - 200_MiB);
  EXPECT_EQ(least.needed, 2_GiB);
  EXPECT_EQ(least.least, 1_GiB + 200_MiB);
  EXPECT_EQ(plan_phase(needs, 1_GiB, 1_GiB).needed, 1_GiB + 200_MiB);
}

}  // namespace
}  // namespace atelier
