// Where large blocks lie, and which pages they leave behind.
#include "device/cpu/arena.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <cstring>
#include <fstream>
#include <random>
#include <vector>

namespace atelier {
namespace {

constexpr size_t kMiB = size_t{1} << 20;

size_t resident() {
  size_t pages = 0, in_memory = 0;
  std::ifstream("/proc/self/statm") >> pages >> in_memory;
  return in_memory * static_cast<size_t>(::sysconf(_SC_PAGESIZE));
}

using Sizes = std::map<size_t, size_t>;

TEST(Intervals, NeighboursBecomeOne) {
  Intervals set;
  set.add(10, 5);
  set.add(20, 5);
  EXPECT_EQ(set.all(), (Sizes{{10, 5}, {20, 5}}));
  set.add(15, 5);
  EXPECT_EQ(set.all(), (Sizes{{10, 15}}));
  set.add(0, 9);
  EXPECT_EQ(set.all(), (Sizes{{0, 9}, {10, 15}}));
}

TEST(Intervals, KnowHowMuchOfARangeTheyHold) {
  Intervals some;
  some.add(10, 10);
  some.add(30, 10);
  EXPECT_EQ(some.within(0, 10), 0U);
  EXPECT_EQ(some.within(12, 3), 3U);
  EXPECT_EQ(some.within(15, 20), 10U);
  EXPECT_EQ(some.within(0, 100), 20U);
  EXPECT_EQ(some.within(40, 5), 0U);
}

TEST(Intervals, AnyPartIsTakenOut) {
  Intervals set;
  set.add(10, 10);
  set.add(30, 10);
  EXPECT_EQ(set.remove(0, 10), 0U);
  EXPECT_EQ(set.remove(12, 3), 3U);
  EXPECT_EQ(set.all(), (Sizes{{10, 2}, {15, 5}, {30, 10}}));
  EXPECT_EQ(set.remove(11, 22), 1U + 5 + 3);
  EXPECT_EQ(set.all(), (Sizes{{10, 1}, {33, 7}}));
  EXPECT_EQ(set.remove(0, 100), 8U);
  EXPECT_TRUE(set.all().empty());
}

TEST(Arena, BlocksAreApartAndGoWhereTheyFitBest) {
  Arena arena(256 * kMiB);
  void* const a = arena.allocate(3 * kMiB);
  void* const b = arena.allocate(kMiB);
  void* const c = arena.allocate(2 * kMiB);
  void* const d = arena.allocate(kMiB);
  EXPECT_TRUE(arena.owns(a) && arena.owns(d));
  EXPECT_FALSE(arena.owns(&arena));
  EXPECT_EQ(arena.used(), 7 * kMiB);
  arena.free(a);
  arena.free(c);
  EXPECT_EQ(arena.allocate(kMiB + 1), c);  // the smaller of two places
  EXPECT_EQ(arena.allocate(3 * kMiB), a);
  arena.free(a);
  arena.free(b);
  EXPECT_EQ(arena.allocate(4 * kMiB), a);  // two places next to one another
}

TEST(Arena, SaysWhenThereIsNoRoom) {
  Arena arena(64 * kMiB);
  EXPECT_EQ(arena.allocate(65 * kMiB), nullptr);
  void* const most = arena.allocate(40 * kMiB);
  EXPECT_NE(most, nullptr);
  EXPECT_EQ(arena.allocate(40 * kMiB), nullptr);
  arena.free(most);
  EXPECT_EQ(arena.allocate(64 * kMiB), most);
}

TEST(Arena, GivesNoMoreThanItMay) {
  Arena arena(256 * kMiB, 10 * kMiB);
  EXPECT_EQ(arena.allocate(11 * kMiB), nullptr);
  void* const block = arena.allocate(6 * kMiB);
  EXPECT_NE(block, nullptr);
  EXPECT_EQ(arena.allocate(5 * kMiB), nullptr);
  arena.free(block);
  EXPECT_EQ(arena.allocate(10 * kMiB), block);
}

TEST(Arena, KeepsPagesForTheNextBlockUntilTrimmed) {
  Arena arena(256 * kMiB);
  void* const block = arena.allocate(64 * kMiB);
  std::memset(block, 1, 64 * kMiB);
  const size_t full = resident();
  arena.free(block);
  EXPECT_EQ(arena.kept(), 64 * kMiB);
  EXPECT_GT(resident() + 4 * kMiB, full);
  EXPECT_EQ(arena.allocate(64 * kMiB), block);
  EXPECT_EQ(static_cast<char*>(block)[5 * kMiB], 1);
  arena.free(block);
  arena.trim();
  EXPECT_EQ(arena.kept(), 0U);
  EXPECT_LT(resident(), full - 60 * kMiB);
}

TEST(Arena, TakesPagesThatAreThereRatherThanAPlaceThatFitsBetter) {
  Arena arena(256 * kMiB);
  void* const wide = arena.allocate(10 * kMiB);
  void* const between = arena.allocate(kMiB);
  void* const narrow = arena.allocate(6 * kMiB);
  void* const after = arena.allocate(kMiB);
  arena.free(narrow);
  arena.free(wide);
  arena.trim();
  EXPECT_EQ(arena.allocate(10 * kMiB), wide);
  arena.free(wide);
  EXPECT_EQ(arena.kept(), 10 * kMiB);
  void* const block = arena.allocate(6 * kMiB);
  EXPECT_EQ(block, wide);
  EXPECT_EQ(arena.kept(), 4 * kMiB);
  for (void* const each : {block, between, after}) arena.free(each);
}

// Blocks of growing size, one always in use beside the next, break a heap into pieces.
TEST(Arena, TakesNoMoreMemoryThanWasInUseAtOnce) {
  Arena arena(4096 * kMiB);
  const size_t before = resident();
  void* last = arena.allocate(kMiB);
  size_t most = 0;
  for (size_t size = 2; size <= 96; size += 2) {
    void* const next = arena.allocate(size * kMiB);
    std::memset(next, 1, size * kMiB);
    most = std::max(most, arena.used());
    EXPECT_LE(arena.used() + arena.kept(), most);
    arena.free(last);
    last = next;
  }
  EXPECT_LT(resident() - before, most + 8 * kMiB);
  arena.free(last);
}

TEST(Arena, EveryBlockKeepsItsBytesWhateverComesAndGoes) {
  Arena arena(1024 * kMiB);
  std::mt19937 random(7);
  struct Block {
    unsigned char* data;
    size_t size;
    unsigned char value;
  };
  std::vector<Block> blocks;
  size_t most = 0;
  for (int turn = 0; turn < 3000; ++turn) {
    if (blocks.size() < 20 && random() % 2 == 0) {
      const size_t size = 1 + random() % (4 * kMiB);
      auto* const data = static_cast<unsigned char*>(arena.allocate(size));
      ASSERT_NE(data, nullptr);
      const auto value = static_cast<unsigned char>(random());
      data[0] = data[size / 2] = data[size - 1] = value;
      blocks.push_back({data, size, value});
    } else if (!blocks.empty()) {
      std::swap(blocks[random() % blocks.size()], blocks.back());
      const Block& block = blocks.back();
      ASSERT_EQ(block.data[0], block.value);
      ASSERT_EQ(block.data[block.size / 2], block.value);
      ASSERT_EQ(block.data[block.size - 1], block.value);
      arena.free(block.data);
      blocks.pop_back();
    }
    if (turn % 500 == 499) arena.trim();
    most = std::max(most, arena.used());
    ASSERT_LE(arena.used() + arena.kept(), most);
  }
}

}  // namespace
}  // namespace atelier
