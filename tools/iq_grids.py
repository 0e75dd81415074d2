#!/usr/bin/env python3
"""Writes src/quant/codec/grids.inc from the grids of the `gguf` package (run with .venv-golden)."""
import pathlib

import numpy as np
from gguf import quants

TABLES = {"kIq2Xxs": quants.IQ2_XXS, "kIq2Xs": quants.IQ2_XS, "kIq2S": quants.IQ2_S, "kIq3Xxs": quants.IQ3_XXS,
          "kIq3S": quants.IQ3_S, "kIq1": quants.IQ1_S}
HEAD = """// Made by tools/iq_grids.py: the points of each grid as digits, lowest bits first.
#ifdef ATELIER_GRID_ON_DEVICE
#define ATELIER_GRID_TABLE static __device__ const uint16_t
#else
#define ATELIER_GRID_TABLE static constexpr uint16_t
#endif
"""


def digits(kind):
    """One 16-bit number per point of the grid."""
    kind.init_grid()
    numbers = kind.grid.reshape(kind.grid_shape)
    places = np.searchsorted(np.array(kind.grid_map, np.float32), numbers).astype(np.uint32)
    bits = 16 // numbers.shape[1]
    return (places << (bits * np.arange(numbers.shape[1], dtype=np.uint32))).sum(1)


def main():
    out = HEAD
    for name, kind in TABLES.items():
        points = digits(kind)
        out += f"\nATELIER_GRID_TABLE {name}[{len(points)}] = {{\n"
        for i in range(0, len(points), 14):
            out += "    " + " ".join(f"{p}," for p in points[i:i + 14]) + "\n"
        out += "};\n"
    out += "\n#undef ATELIER_GRID_TABLE\n"
    path = pathlib.Path(__file__).resolve().parent.parent / "src/quant/codec/grids.inc"
    path.write_text(out)


if __name__ == "__main__":
    main()
