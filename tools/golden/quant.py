"""Blocks of every encoding that the `gguf` package decodes, with the numbers it gives: tests/golden/quant/TYPE.safetensors.

`blocks` (N, bytes) are random ones with ordinary scales, random bytes throughout, and scales that are infinite, NaN,
zero and subnormal, all bits clear and all set; `values` (N, elements) fp32 is what gguf.quants.dequantize makes of them.
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


def make_blocks(name, size, rng):
    """Rows of `size` bytes."""
    ordinary = rng.integers(0, 256, (6, size), np.uint8)
    odd = rng.integers(0, 256, (len(ODD_SCALES), size), np.uint8)
    for at in SCALES.get(name, []):
        ordinary[:, at:at + 2] = rng.normal(0, 0.02, (6, 1)).astype(np.float16).view(np.uint8)
        odd[:, at:at + 2] = np.array(ODD_SCALES, np.float16)[:, None].view(np.uint8)
    wild = rng.integers(0, 256, (3, size), np.uint8)
    return np.concatenate([ordinary, odd, wild, np.full((1, size), 0, np.uint8), np.full((1, size), 255, np.uint8)])


def main():
    FOLDER.mkdir(parents=True, exist_ok=True)
    for kind in quants._type_traits:
        if kind == gguf.GGMLQuantizationType.BF16:
            continue
        elements, size = gguf.GGML_QUANT_SIZES[kind]
        blocks = make_blocks(kind.name, size, np.random.default_rng([7, kind.value]))
        with np.errstate(all="ignore"):
            values = quants.dequantize(blocks, kind).reshape(len(blocks), elements).astype(np.float32)
        save_file({"blocks": blocks, "values": values}, FOLDER / f"{kind.name}.safetensors",
                  {"about": "tools/golden/quant.py", "gguf": "0.19.0", "numpy": np.__version__})


if __name__ == "__main__":
    main()
