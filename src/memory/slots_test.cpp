// Buffers that are handed out again.
#include "memory/slots.h"

#include <ATen/ops/empty.h>
#include <gtest/gtest.h>

#include <cstdint>

namespace atelier {
namespace {

TEST(SlotsTest, TheLastBufferGivenBackIsHandedOutFirst) {
  const auto slots = std::make_shared<Slots>();
  slots->expect(1 << 20);
  at::Tensor a = slots->take(1000), b = slots->take(1 << 20);
  void *const first = a.mutable_data_ptr(), *const second = b.mutable_data_ptr();
  EXPECT_NE(first, second);
  EXPECT_EQ(reinterpret_cast<uintptr_t>(first) % 64, 0U);
  b.reset();
  a.reset();
  EXPECT_EQ(slots->take(1 << 20).mutable_data_ptr(), first);
  const at::Tensor again = slots->take(1);
  EXPECT_EQ(again.mutable_data_ptr(), first);
  EXPECT_EQ(slots->take(1).mutable_data_ptr(), second);
}

TEST(SlotsTest, WhatIsTooSmallIsPassedOver) {
  const auto slots = std::make_shared<Slots>();
  slots->take(100);
  at::Tensor large = slots->take(1 << 24);
  large.fill_(7);  // all of it is there
  EXPECT_EQ(large.numel(), 1 << 24);
}

TEST(SlotsTest, BuffersMayOutliveTheirSlots) {
  auto slots = std::make_shared<Slots>();
  at::Tensor kept = slots->take(4096);
  slots.reset();
  kept.fill_(3);
  EXPECT_EQ(kept[4095].item<int>(), 3);
}

}  // namespace
}  // namespace atelier
