"""Decoders that the engine's are measured against: the gguf package's, and one of torch operations.

The second works as ComfyUI nodes for GGUF files do: bytes are split, shifted and masked as whole tensors, then scaled.
Both give fp32. The engine is checked against the first, and the second, too.
"""
import os
import tempfile
import time

import gguf
import numpy as np
import torch
from gguf import quants
from safetensors.numpy import load_file

from models import write_quantised

KINDS = list(quants._type_traits)  # what the package decodes
ROWS, COLUMNS = 512, 1024  # of each type's tensor that is checked
ELEMENTS = 3072 * 3072  # a matrix of FLUX.1; both peers go through several tensors of its size


def halves(blocks, at):
    return blocks[:, at:at + 2].contiguous().view(torch.float16).to(torch.float32)


def nibbles(codes):
    return torch.cat([codes & 15, codes >> 4], -1)


def fifth_bits(blocks, at):
    bits = blocks[:, at:at + 4, None] >> torch.arange(8, dtype=torch.uint8)
    return (bits.reshape(-1, 32) & 1) << 4


def two_bits(codes):
    """[n, 64] bytes as [n, 256] codes: four to a byte, 32 bytes at a time."""
    groups = codes.reshape(-1, 2, 1, 32)
    return torch.cat([groups >> shift & 3 for shift in (0, 2, 4, 6)], 2).reshape(-1, 256)


def four_bits(codes, bytes_at_a_time):
    """Bytes as [n, groups, 32] codes: the lower halves of some bytes, then the upper ones."""
    groups = codes.reshape(len(codes), -1, 1, bytes_at_a_time)
    return torch.cat([groups & 15, groups >> 4], 2).reshape(len(codes), -1, 32)


def k_scales(s):
    """[n, 12] bytes as scales and minimums of six bits, [n, 8] each."""
    low, middle, high = s[:, :4], s[:, 4:8], s[:, 8:]
    return (torch.cat([low & 63, (high & 15) | (low >> 6 << 4)], 1),
            torch.cat([middle & 63, (high >> 4) | (middle >> 6 << 4)], 1))


def with_minimums(blocks, at, scales, minimums, codes):
    """codes [n, groups, elements] under the scales of groups."""
    scale, minimum = halves(blocks, at) * scales, halves(blocks, at + 2) * minimums
    return (scale[..., None] * codes - minimum[..., None]).reshape(len(codes), 256)


def torch_q8_0(blocks):
    return halves(blocks, 0) * blocks[:, 2:].view(torch.int8)


def torch_q4_0(blocks):
    return halves(blocks, 0) * (nibbles(blocks[:, 2:]).to(torch.int8) - 8)


def torch_q4_1(blocks):
    return halves(blocks, 0) * nibbles(blocks[:, 4:]) + halves(blocks, 2)


def torch_q5_0(blocks):
    return halves(blocks, 0) * ((nibbles(blocks[:, 6:]) | fifth_bits(blocks, 2)).to(torch.int8) - 16)


def torch_q5_1(blocks):
    return halves(blocks, 0) * (nibbles(blocks[:, 8:]) | fifth_bits(blocks, 4)) + halves(blocks, 2)


def torch_q2_k(blocks):
    scales = blocks[:, :16]
    return with_minimums(blocks, 80, scales & 15, scales >> 4, two_bits(blocks[:, 16:80]).reshape(-1, 16, 16))


def torch_q3_k(blocks):
    upper = torch.cat([blocks[:, None, :32] >> bit & 1 for bit in range(8)], 1).reshape(-1, 256)
    codes = (two_bits(blocks[:, 32:96]) | upper << 2).to(torch.int8) - 4
    low, high = blocks[:, 96:104], blocks[:, 104:108]
    high = torch.cat([high >> shift & 3 for shift in (0, 2, 4, 6)], 1)
    scale = halves(blocks, 108) * ((nibbles(low) | high << 4).to(torch.int8) - 32)
    return (scale[..., None] * codes.reshape(-1, 16, 16)).reshape(-1, 256)


def torch_q4_k(blocks):
    return with_minimums(blocks, 0, *k_scales(blocks[:, 4:16]), four_bits(blocks[:, 16:], 32))


def torch_q5_k(blocks):
    upper = torch.cat([blocks[:, None, 16:48] >> bit & 1 for bit in range(8)], 1)
    return with_minimums(blocks, 0, *k_scales(blocks[:, 4:16]), four_bits(blocks[:, 48:], 32) | upper << 4)


def torch_q6_k(blocks):
    low = four_bits(blocks[:, :128], 64)
    codes = (low | two_bits(blocks[:, 128:192]).reshape(low.shape) << 4).to(torch.int8) - 32
    scale = halves(blocks, 208) * blocks[:, 192:208].view(torch.int8)
    return (scale[..., None] * codes.reshape(-1, 16, 16)).reshape(-1, 256)


FOUR_BITS = torch.tensor(quants.IQ4_NL.kvalues, dtype=torch.float32)


def torch_iq4_nl(blocks):
    return halves(blocks, 0) * FOUR_BITS[nibbles(blocks[:, 2:]).to(torch.int32)]


def torch_iq4_xs(blocks):
    high = blocks[:, 2:4, None] >> torch.tensor([0, 2, 4, 6], dtype=torch.uint8)
    low = torch.stack([blocks[:, 4:8] & 15, blocks[:, 4:8] >> 4], 2)
    scale = halves(blocks, 0) * ((low.reshape(-1, 8) | (high.reshape(-1, 8) & 3) << 4).to(torch.int8) - 32)
    return (scale[..., None] * FOUR_BITS[four_bits(blocks[:, 8:], 16).to(torch.int32)]).reshape(-1, 256)


TORCH = {"Q4_0": torch_q4_0, "Q4_1": torch_q4_1, "Q5_0": torch_q5_0, "Q5_1": torch_q5_1, "Q8_0": torch_q8_0,
         "Q2_K": torch_q2_k, "Q3_K": torch_q3_k, "Q4_K": torch_q4_k, "Q5_K": torch_q5_k, "Q6_K": torch_q6_k,
         "IQ4_NL": torch_iq4_nl, "IQ4_XS": torch_iq4_xs}


def random_blocks(kind):
    """Rows of bytes whose fp16 scales are finite and below 2."""
    elements, size = gguf.GGML_QUANT_SIZES[kind]
    words = np.random.default_rng(1).integers(0, 1 << 16, (ELEMENTS // elements, (size + 1) // 2), np.uint16)
    return (words & 0x3fff).view(np.uint8)[:, :size].copy()


def check(program):
    """Raises ValueError unless a file of any bytes in each type is to `atelier quantize` what it is to the package."""
    random = np.random.default_rng(2)
    with tempfile.TemporaryDirectory() as folder:
        stored, floats = os.path.join(folder, "blocks.gguf"), os.path.join(folder, "floats.safetensors")
        writer, tensors = gguf.GGUFWriter(stored, "unknown"), {}
        for kind in KINDS:
            elements, size = gguf.GGML_QUANT_SIZES[kind]
            tensors[kind] = random.integers(0, 256, (ROWS, COLUMNS // elements * size), np.uint8)
            writer.add_tensor(kind.name, tensors[kind], raw_dtype=kind)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        write_quantised(program, stored, floats, "F32")
        found = load_file(floats)
    for kind, blocks in tensors.items():
        with np.errstate(all="ignore"):  # some scales are infinite or no numbers
            wanted = quants.dequantize(blocks, kind)
        if not same(found[kind.name], wanted):
            raise ValueError(f"the engine and the gguf package decode {kind.name} differently")


def same(a, b):
    """Whether two fp32 arrays have the same bits; those of what is no number do not matter."""
    numbers = ~np.isnan(b)
    return (a.shape == b.shape and a.dtype == b.dtype == np.float32 and np.array_equal(numbers, ~np.isnan(a))
            and np.array_equal(a.view(np.uint32)[numbers], b.view(np.uint32)[numbers]))


def best_of(call, times=3):
    seconds = []
    for _ in range(times):
        start = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - start)
    return sorted(seconds)[len(seconds) // 2]


def rates():
    """(type, peer, elements per second) of every peer; raises ValueError if two peers differ."""
    for kind in KINDS:
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
