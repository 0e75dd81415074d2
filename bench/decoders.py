"""Decoders that the engine's are measured against: the gguf package's, and one of torch operations.

The second works as ComfyUI nodes for GGUF files do: bytes are split, shifted and masked as whole tensors, then scaled.
Both give fp32, are checked against each other, and return seconds per million elements.
"""
import time

import gguf
import numpy as np
import torch
from gguf import quants

ELEMENTS = 3072 * 3072  # a matrix of FLUX.1; both peers go through several tensors of its size


def halves(blocks, at):
    return blocks[:, at:at + 2].contiguous().view(torch.float16).to(torch.float32)


def nibbles(codes):
    return torch.cat([codes & 15, codes >> 4], -1)


def torch_q8_0(blocks):
    return halves(blocks, 0) * blocks[:, 2:].view(torch.int8)


def torch_q4_0(blocks):
    return halves(blocks, 0) * (nibbles(blocks[:, 2:]).to(torch.int8) - 8)


def torch_q4_k(blocks):
    s, count = blocks[:, 4:16].to(torch.uint8), len(blocks)
    low, middle, high = s[:, :4], s[:, 4:8], s[:, 8:]
    scales = torch.cat([low & 63, (high & 15) | (low >> 6 << 4)], 1)
    minimums = torch.cat([middle & 63, (high >> 4) | (middle >> 6 << 4)], 1)
    codes = blocks[:, 16:].reshape(count, 4, 1, 32)
    codes = torch.cat([codes & 15, codes >> 4], 2).reshape(count, 8, 32)
    scale, minimum = halves(blocks, 0) * scales, halves(blocks, 2) * minimums
    return (scale[..., None] * codes - minimum[..., None]).reshape(count, 256)


def torch_q6_k(blocks):
    count = len(blocks)
    low = blocks[:, :128].reshape(count, 2, 1, 64)
    low = torch.cat([low & 15, low >> 4], 2).reshape(count, 8, 32)
    high = blocks[:, 128:192].reshape(count, 2, 1, 32)
    high = torch.cat([high >> shift & 3 for shift in (0, 2, 4, 6)], 2).reshape(count, 8, 32)
    codes = (low | high << 4).to(torch.int8) - 32
    scale = halves(blocks, 208) * blocks[:, 192:208].view(torch.int8)
    return (scale[..., None] * codes.reshape(count, 16, 16)).reshape(count, 256)


TORCH = {"Q8_0": torch_q8_0, "Q4_0": torch_q4_0, "Q4_K": torch_q4_k, "Q6_K": torch_q6_k}


def random_blocks(kind):
    """Rows of bytes whose fp16 scales are finite and below 2."""
    elements, size = gguf.GGML_QUANT_SIZES[kind]
    words = np.random.default_rng(1).integers(0, 1 << 16, (ELEMENTS // elements, (size + 1) // 2), np.uint16)
    return (words & 0x3fff).view(np.uint8)[:, :size].copy()


def best_of(call, times=3):
    seconds = []
    for _ in range(times):
        start = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - start)
    return sorted(seconds)[len(seconds) // 2]


def rates():
    """(type, peer, elements per second) of every peer; raises ValueError if two peers differ."""
    for kind in quants._type_traits:
        if kind == gguf.GGMLQuantizationType.BF16:
            continue
        blocks = random_blocks(kind)
        wanted = quants.dequantize(blocks, kind)
        if kind.name in TORCH:
            tensor, decode = torch.from_numpy(blocks), TORCH[kind.name]
            if not np.array_equal(decode(tensor).numpy().reshape(wanted.shape), wanted):
                raise ValueError(f"the peers decode {kind.name} differently")
            yield kind.name, "torch operations", ELEMENTS / best_of(lambda: decode(tensor).to(torch.bfloat16))
        yield kind.name, "gguf package", ELEMENTS / best_of(lambda: quants.dequantize(blocks, kind), 1)
