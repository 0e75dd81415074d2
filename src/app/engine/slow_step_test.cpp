// Slow steps: what counts as one, and which cause injected readings are put down to.
#include "app/engine/slow_step.h"

#include <gtest/gtest.h>

#include <fstream>
#include <vector>

#include "app/progress.h"
#include "formats/encoding.h"

namespace atelier {
namespace {

/// A machine of four processors of which this program uses all.
Vitals quiet(double at) {
  return {.resident = 6_GiB,
          .swapped = {},
          .allowed = 8_GiB,
          .available = 2_GiB,
          .read = 300_MiB,
          .major_faults = 10,
          .memory_stall = 1,
          .own = 4 * at,
          .busy = 4 * at,
          .stolen = 0,
          .processors = 4,
          .held_back = 5,
          .throttled = 7,
          .megahertz = 3000};
}

Diagnosis after_two_seconds(Vitals later, bool first = false) {
  return diagnose({quiet(0), later, 2, 3000, first});
}

TEST(SlowStep, TellsItsCause) {
  const Vitals same = quiet(2);
  EXPECT_EQ(after_two_seconds(same).cause, SlowCause::unknown);

  Vitals faults = same, stalled = same, swapped = same, read = same;
  faults.major_faults += 5000;
  stalled.memory_stall += 0.5;
  swapped.swapped = 300_MiB;
  read.read += 150_MiB;  // 0.3 s at 500 MB/s, with read-ahead in few faults
  read.major_faults += 20;
  for (const Vitals& vitals : {faults, stalled, swapped, read})
    EXPECT_EQ(after_two_seconds(vitals).cause, SlowCause::memory);
  EXPECT_EQ(after_two_seconds(swapped).evidence,
            "6.00 GiB resident of 8.00 GiB allowed, 300 MiB swapped out, 0 B read back from disk");
  EXPECT_EQ(after_two_seconds(read).evidence,
            "6.00 GiB resident of 8.00 GiB allowed, 0 B swapped out, 150 MiB read back from disk");

  Vitals busy = same, stolen = same;
  busy.own = 4;  // of eight seconds of four processors, half for others
  stolen.own = stolen.busy = 5;
  stolen.stolen = 3;
  EXPECT_EQ(after_two_seconds(busy).cause, SlowCause::others);
  EXPECT_EQ(after_two_seconds(busy).evidence, "50 % of the processors");
  EXPECT_EQ(after_two_seconds(stolen).cause, SlowCause::others);
  EXPECT_NE(after_two_seconds(stolen).evidence.find("38 %"), std::string::npos);

  Vitals hot = same, slow = same;
  hot.throttled += 3;
  slow.megahertz = 1800;
  EXPECT_EQ(after_two_seconds(hot).cause, SlowCause::heat);
  EXPECT_EQ(after_two_seconds(slow).evidence, "1800 MHz instead of 3000");

  Vitals both = busy;
  both.swapped = 1_GiB;  // swapping keeps the kernel busy, too
  EXPECT_EQ(after_two_seconds(both).cause, SlowCause::memory);
}

TEST(SlowStep, ReadingThatExplainsLittleIsNotBlamed) {
  Vitals few = quiet(2), little = quiet(2);
  few.major_faults += 50;
  little.read += 50_MiB;
  for (const Vitals& vitals : {few, little})
    for (const bool first : {false, true})
      EXPECT_EQ(after_two_seconds(vitals, first).cause, SlowCause::unknown);
}

TEST(SlowStep, AFirstStepMayReadItsWeights) {
  Vitals read = quiet(2);
  read.read += 2_GiB;
  const Diagnosis cold = after_two_seconds(read, true);
  EXPECT_EQ(cold.cause, SlowCause::first_reading);
  EXPECT_EQ(cold.evidence, "2.00 GiB");
  EXPECT_EQ(advice(cold.cause, {.width = 64, .height = 64, .encoding = "F16"}, read), "");
  read.memory_stall += 1;
  EXPECT_EQ(after_two_seconds(read, true).cause, SlowCause::memory);
}

TEST(SlowStep, AContainersLimitIsACause) {
  Vitals held = quiet(2);
  held.held_back += 3;
  held.busy += 4;  // by those who share the machine
  EXPECT_EQ(after_two_seconds(held).cause, SlowCause::limit);
  EXPECT_EQ(after_two_seconds(held).evidence, "3.0 s of processors held back");
  held.held_back = quiet(2).held_back + 0.1;
  EXPECT_EQ(after_two_seconds(held).cause, SlowCause::others);
}

TEST(SlowStep, WhereNothingCanBeReadNothingIsBlamed) {
  EXPECT_EQ(diagnose({.before = {}, .after = {}, .seconds = 5}).cause, SlowCause::unknown);
}

TEST(SlowStep, AdviceLeadsToLessMemory) {
  const Vitals now = quiet(2);
  const RunSize size{
      .width = 1024, .height = 1000, .batch = 3, .encoding = "F16", .could_tile = true};
  EXPECT_EQ(
      advice(SlowCause::memory, size, now),
      "Draw 1008x992, --batch 2, use a smaller encoding ('atelier quantize --type Q8_0'), use "
      "--tiled-vae, or end other programs");
  const RunSize least{.width = 16, .height = 24, .batch = 1, .encoding = "Q2_K"};
  EXPECT_EQ(advice(SlowCause::memory, least, now), "Draw 16x16, or end other programs");
  EXPECT_EQ(advice(SlowCause::unknown, size, now), "");
}

TEST(SlowStep, OnlyABudgetThatIsTheLimitIsToBeRaised) {
  RunSize size{.width = 64, .height = 64, .batch = 1, .encoding = "Q2_K", .ram = 7_GiB};
  Vitals now = quiet(2);  // 6 GiB resident and 2 available of 8 allowed
  EXPECT_EQ(advice(SlowCause::memory, size, now), "Raise --ram, draw 48x48, or end other programs");
  now.available = 512_MiB;  // others have the rest
  EXPECT_EQ(advice(SlowCause::memory, size, now), "Lower --ram, draw 48x48, or end other programs");
  now.available = 20_GiB;
  size.ram = 9_GiB;
  EXPECT_EQ(advice(SlowCause::memory, size, now), "Lower --ram, draw 48x48, or end other programs");
}

TEST(SlowStep, EveryEncodingOfMoreBitsThanTheSmallestTypeHasASmallerOne) {
  const auto bits = [](const EncodingInfo& info) {
    return 8.0 * info.block_bytes / info.block_elements;
  };
  const double least = bits(encoding_info(Encoding::q2_k));
  for (size_t i = 0; i <= static_cast<size_t>(Encoding::e2m1); ++i) {
    const EncodingInfo& info = encoding_info(static_cast<Encoding>(i));
    const bool whole = is_integer(info.encoding) && info.encoding != Encoding::i8;
    if (whole || info.encoding == Encoding::c64 || info.encoding == Encoding::f8_e8m0) continue;
    const RunSize size{.width = 64, .height = 64, .encoding = std::string(info.name)};
    const std::string text = advice(SlowCause::memory, size, quiet(2));
    EXPECT_EQ(text.find("--type") != text.npos, bits(info) > least) << info.name;
  }
}

class Steps : public ::testing::Test {
 protected:
  std::optional<Json> step(double seconds, int64_t calls = 1, Bytes read = {}) {
    time_ += seconds;
    read_ += read;
    Vitals now = quiet(time_);
    now.read += read_;
    return steps_.step(seconds, calls, now);
  }
  double time_ = 0;
  Bytes read_;
  SlowSteps steps_{{.width = 64, .height = 64, .batch = 1, .encoding = "Q8_0"}, 0};
};

TEST_F(Steps, OneFarAboveTheMedianIsTold) {
  steps_.begin(quiet(0));
  for (const double seconds : {9.0, 1.0, 1.1, 1.0}) EXPECT_FALSE(step(seconds));
  EXPECT_FALSE(step(1.4));
  const auto told = step(2.5, 1, 1_GiB);
  ASSERT_TRUE(told);
  EXPECT_EQ((*told)["event"], "slow_step");
  EXPECT_EQ((*told)["cause"], "memory");
  EXPECT_EQ((*told)["against"], "median");
  EXPECT_EQ((*told)["usual"], 1.1);
  EXPECT_EQ((*told)["first"], true);
  const std::string message = (*told)["message"];
  EXPECT_TRUE(
      message.starts_with("this step took 2.5 s instead of 1.1 s: memory ran short (6.00 "));
  EXPECT_NE(message.find("Draw 48x48"), message.npos);
  EXPECT_EQ((*step(2.5, 1, 1_GiB))["first"], false);
  EXPECT_EQ((*step(2.5))["cause"], "unknown");
}

TEST_F(Steps, ABudgetIsWhatIsAllowed) {
  steps_ = SlowSteps({.width = 64, .height = 64, .encoding = "Q8_0", .ram = 7_GiB}, 1.0);
  steps_.begin(quiet(0));
  EXPECT_FALSE(step(1));
  const auto told = step(3, 1, 1_GiB);
  ASSERT_TRUE(told);
  const std::string message = (*told)["message"];
  EXPECT_NE(message.find("6.00 GiB resident of 7.00 GiB allowed"), message.npos) << message;
  EXPECT_NE(message.find("Raise --ram"), message.npos) << message;
  EXPECT_TRUE(message.starts_with("this step took 3.0 s instead of an estimated 1.0 s: "));
}

TEST_F(Steps, WhatTakesNoTimeIsNotTold) {
  for (const double seconds : {0.1, 0.1, 0.1, 0.25}) EXPECT_FALSE(step(seconds));
  EXPECT_TRUE(step(0.35));
}

TEST_F(Steps, OneOfSeveralCallsMayTakeLonger) {
  for (int i = 0; i < 3; ++i) EXPECT_FALSE(step(2, 2));
  EXPECT_FALSE(step(1, 1));
  EXPECT_FALSE(step(4, 4));
  EXPECT_TRUE(step(4, 2));
}

TEST_F(Steps, FarFromThePlanIsToldOnlyWithACause) {
  steps_ = SlowSteps({.width = 64, .height = 64, .batch = 1, .encoding = "Q8_0"}, 1.0);
  steps_.begin(quiet(0));
  EXPECT_FALSE(step(3));
  const auto told = step(3, 1, 1_GiB);
  ASSERT_TRUE(told);
  EXPECT_EQ((*told)["against"], "plan");
  EXPECT_EQ((*told)["usual"], 1.0);
}

TEST_F(Steps, VeryFarFromThePlanIsToldWithoutAMedian) {
  steps_ = SlowSteps({.width = 64, .height = 64, .batch = 1, .encoding = "Q8_0"}, 1.0);
  steps_.begin(quiet(0));
  for (int i = 0; i < 2; ++i) {
    const auto told = step(5);
    ASSERT_TRUE(told);
    EXPECT_EQ((*told)["cause"], "unknown");
    EXPECT_EQ((*told)["against"], "plan");
    EXPECT_EQ((*told)["first"], i == 0);
  }
  EXPECT_FALSE(step(5)) << "that is how long they take";
}

TEST_F(Steps, TheFirstMayReadItsWeights) {
  steps_ = SlowSteps({.width = 64, .height = 64, .batch = 1, .encoding = "Q8_0"}, 1.0);
  steps_.begin(quiet(0));
  const auto told = step(3, 1, 1_GiB);
  ASSERT_TRUE(told);
  EXPECT_EQ((*told)["cause"], "first reading");
  EXPECT_EQ((*told)["message"],
            "this step took 3.0 s instead of an estimated 1.0 s: weights were read from disk for "
            "the first time (1.00 GiB)");
  EXPECT_EQ((*step(3, 1, 1_GiB))["cause"], "memory");
}

TEST_F(Steps, PlansOfNearlyNothingAreNotComparedWith) {
  steps_ = SlowSteps({.width = 64, .height = 64, .batch = 1, .encoding = "Q8_0"}, 0.04);
  steps_.begin(quiet(0));
  EXPECT_FALSE(step(1, 2));
  EXPECT_TRUE(step(1, 3)) << "three calls of 0.04 s";
}

TEST_F(Steps, OneLineForEachCauseIsPrinted) {
  std::FILE* const log = std::tmpfile();
  {
    const auto printer = make_printer(Display::plain, log, log);
    for (const double seconds : {1.0, 1.0, 5.0, 5.0, 1.0, 5.0})
      if (const auto told = step(seconds)) printer->event(*told);
    printer->event({{"event", "done"}, {"images", Json::array()}});
  }
  std::rewind(log);
  std::string text(4096, '\0');
  text.resize(std::fread(text.data(), 1, text.size(), log));
  std::fclose(log);
  EXPECT_EQ(text,
            "warning: this step took 5.0 s instead of 1.0 s: neither memory, other programs nor "
            "heat are to blame\n"
            "warning: 2 more steps were slow for a cause told before\n"
            "0 pictures in 0.00 s, 0.00 s/step, 0 B at most\n");
}

TEST(Vitals, OfThisMachineAreThere) {
  const Vitals before = read_vitals();
  EXPECT_GT(before.resident, 0_B);
  EXPECT_GT(before.allowed, before.resident);
  EXPECT_GE(before.processors, 1);
  EXPECT_GT(before.busy, 0);
  double work = 1;
  for (int i = 0; i < 50'000'000; ++i) work = work * 1.0000001 + 1e-9;
  const Vitals after = read_vitals();
  EXPECT_GT(work, 1);
  EXPECT_GT(after.own, before.own);
  EXPECT_GE(after.busy, before.busy);
  EXPECT_GE(after.major_faults, before.major_faults);
  EXPECT_GE(after.read, before.read);
  EXPECT_GE(after.held_back, before.held_back);
}

}  // namespace
}  // namespace atelier
