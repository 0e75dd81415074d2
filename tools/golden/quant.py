"""Blocks of every encoding that the `gguf` package decodes, with the numbers it gives: tests/golden/quant/TYPE.safetensors.

`blocks` (N, bytes) are random ones with ordinary scales, random bytes throughout, and scales that are infinite, NaN,
zero and subnormal, all bits clear and all set, and then sweeps: every value of each byte that is a code, some codes or a
scale; `values` (N, elements) fp32 is what gguf.quants.dequantize makes of them.
"""
import pathlib

import gguf
import numpy as np
from gguf import quants
from safetensors.numpy import save_file

FOLDER = pathlib.Path(__file__).resolve().parents[2] / "tests/golden/quant"
# Where a block keeps its fp16 scales; the types left out have none.
SCALES = {"Q4_0": [0], "Q4_1": [0, 2], "Q5_0": [0], "Q5_1": [0, 2], "Q8_0": [0], "Q2_K": [80, 82], "Q3_K": [108],
          "Q4_K": [0, 2], "Q5_K": [0, 2], "Q6_K": [208], "IQ1_S": [0], "IQ2_XXS": [0], "IQ2_XS": [0], "IQ2_S": [0],
          "IQ3_XXS": [0], "IQ3_S": [0], "IQ4_NL": [0], "IQ4_XS": [0], "TQ1_0": [52], "TQ2_0": [64]}
ODD_SCALES = (np.inf, -np.inf, np.nan, 0.0, -0.0, 2.0**-24, 65504.0)
# Bytes that take all 256 values: (first, count, by how much each grows from block to block, and from byte to byte).
SWEPT = {"Q8_0": [(2, 32, 32, 1)], "Q2_K": [(0, 16, 16, 1)], "Q6_K": [(192, 16, 16, 1)],
         "TQ1_0": [(0, 32, 32, 1), (32, 16, 16, 1), (48, 4, 4, 1)], "MXFP4": [(0, 1, 1, 0)], "NVFP4": [(0, 4, 1, 64)]}


def make_blocks(name, size, rng):
    """Rows of `size` bytes."""
    ordinary = rng.integers(0, 256, (6, size), np.uint8)
    odd = rng.integers(0, 256, (len(ODD_SCALES), size), np.uint8)
    for at in SCALES.get(name, []):
        ordinary[:, at:at + 2] = rng.normal(0, 0.02, (6, 1)).astype(np.float16).view(np.uint8)
        odd[:, at:at + 2] = np.array(ODD_SCALES, np.float16)[:, None].view(np.uint8)
    wild = rng.integers(0, 256, (3, size), np.uint8)
    return np.concatenate([ordinary, odd, wild, np.full((1, size), 0, np.uint8), np.full((1, size), 255, np.uint8)])


def make_sweep(name, size, rng):
    """Rows of `size` bytes, none for most types."""
    fields = SWEPT.get(name, [])
    blocks = rng.integers(0, 256, (max((256 // growth for _, _, growth, _ in fields), default=0), size), np.uint8)
    for at in SCALES.get(name, []):
        blocks[:, at:at + 2] = np.array([0.37], np.float16).view(np.uint8)
    for at, count, growth, step in fields:
        values = np.arange(len(blocks))[:, None] * growth + np.arange(count) * step
        blocks[:, at:at + count] = values & 255
    return blocks


def make_packed_scales(size, rng):
    """Rows of IQ1_M, whose fp16 scale is the upper four bits of its last four words: odd ones, and each bit alone."""
    odd, bits = np.array(ODD_SCALES, np.float16).view(np.uint16), np.uint16(1) << np.arange(16, dtype=np.uint16)
    scales = np.concatenate([odd, bits])
    blocks = rng.integers(0, 256, (len(scales), size), np.uint8)
    upper = (scales[:, None] >> np.array([0, 4, 8, 12], np.uint16)) << 12
    blocks[:, 48:56] = (blocks[:, 48:56].copy().view(np.uint16) & 0xfff | upper).view(np.uint8)
    return blocks


def main():
    FOLDER.mkdir(parents=True, exist_ok=True)
    for kind in quants._type_traits:
        if kind == gguf.GGMLQuantizationType.BF16:
            continue
        elements, size = gguf.GGML_QUANT_SIZES[kind]
        rng = np.random.default_rng([7, kind.value])
        made = make_blocks(kind.name, size, rng)
        more = make_packed_scales(size, rng) if kind.name == "IQ1_M" else make_sweep(kind.name, size, rng)
        blocks = np.concatenate([made, more])
        with np.errstate(all="ignore"):
            values = quants.dequantize(blocks, kind).reshape(len(blocks), elements).astype(np.float32)
        save_file({"blocks": blocks, "values": values}, FOLDER / f"{kind.name}.safetensors",
                  {"about": "tools/golden/quant.py", "gguf": "0.19.0", "numpy": np.__version__})


if __name__ == "__main__":
    main()
