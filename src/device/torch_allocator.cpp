// libtorch's CPU allocator for small blocks, the arena for large ones.
#include "device/torch_allocator.h"

#include <c10/core/CPUAllocator.h>
#include <c10/core/impl/alloc_cpu.h>

#include "device/cpu/arena.h"

namespace atelier {
namespace {

void free_block(void* block) {
  Arena* const arena = large_blocks();
  if (arena->owns(block))
    arena->free(block);
  else
    c10::free_cpu(block);
}

class ArenaAllocator final : public c10::Allocator {
 public:
  c10::DataPtr allocate(size_t bytes) override {
    void* block = bytes >= kLargeBlock ? large_blocks()->allocate(bytes) : nullptr;
    if (block == nullptr) block = c10::alloc_cpu(bytes);
    return {block, block, &free_block, c10::Device(c10::DeviceType::CPU)};
  }
  c10::DeleterFnPtr raw_deleter() const override { return &free_block; }
  void copy_data(void* to, const void* from, size_t bytes) const override {
    default_copy_data(to, from, bytes);
  }
};

}  // namespace

void use_arena_for_tensors() {
  if (large_blocks() == nullptr) return;
  // libtorch keeps the pointer for as long as the process lives.
  static ArenaAllocator* const allocator = new ArenaAllocator;
  c10::SetCPUAllocator(allocator);
}

}  // namespace atelier
