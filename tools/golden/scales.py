"""A file with every kind of scale beside its weights, and the numbers they stand for: tests/golden/scales.

`scaled` has each layer under its own name: fp8 with one scale, per row or per tile, I8 per row or per tensor, I8 of
LLM.int8, NF4 and FP4 in blocks of 64, one of them with scales that are encoded themselves, one of an odd number of
elements; NVFP4 and MXFP8 as comfy-kitchen writes and reads them. `expected` has fp32 numbers
under the same names, computed here in numpy and torch as the formats' own programs do: code times scale in fp32
(ComfyUI, comfy/quant_ops.py), table[code] times absmax (bitsandbytes, functional.py: dequantize_4bit,
get_4bit_type), scales as table[code] times absmax plus offset (dequantize_blockwise), rows of LLM.int8 in 127ths.
"""
import json
import pathlib

import numpy as np
import torch
from comfy_kitchen.backends.eager import quantization
from safetensors.torch import save_file

FOLDER = pathlib.Path(__file__).resolve().parents[2] / "tests/golden/scales"
NF4 = [-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635,
       -0.18477343022823334, -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634,
       0.33791524171829224, 0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0]
FP4 = [x / 12 for x in (0, 0.0625, 8, 12, 4, 6, 2, 3, -0.0, -0.0625, -8, -12, -4, -6, -2, -3)]
TABLES = {"nf4": NF4, "fp4": FP4}


def text(value):
    return torch.tensor(list(json.dumps(value).encode()), dtype=torch.uint8)


def every_code(shape, dtype, rng):
    """Each of the 256 codes, NaN and infinity among them, then random ones."""
    count = int(np.prod(shape))
    codes = np.concatenate([np.arange(256), rng.integers(0, 256, count - 256)]).astype(np.uint8)
    return torch.from_numpy(codes).view(dtype).reshape(shape)


def add_factors(files, rng):
    stored, wanted = files
    def put(name, weight, suffix, scale, spread, extra=()):
        stored[f"{name}.weight"], stored[f"{name}{suffix}"] = weight, scale
        for key, value in extra:
            stored[f"{name}.{key}"] = value
        wanted[f"{name}.weight"] = weight.float() * spread.float()
    e4m3, e5m2 = torch.float8_e4m3fn, torch.float8_e5m2
    def scales(*shape):
        return torch.from_numpy(rng.uniform(0.001, 0.3, shape).astype(np.float32))
    one = torch.tensor(0.0123)
    put("one", every_code((9, 40), e4m3, rng), ".scale_weight", one, one, [("scale_input", torch.tensor(1.5))])
    half = torch.tensor([0.37], dtype=torch.bfloat16)
    put("half", every_code((7, 41), e5m2, rng), ".weight_scale", half, half.float(),
        [("comfy_quant", text({"format": "float8_e5m2"})), ("input_scale", torch.tensor(2.0))])
    rows = scales(11, 1)
    put("rows", every_code((11, 33), torch.int8, rng), ".weight_scale", rows, rows,
        [("comfy_quant", text({"format": "int8_tensorwise"}))])
    kernel = scales(4, 1, 1, 1)
    put("kernel", every_code((4, 8, 3, 3), e4m3, rng), ".scale_weight", kernel, kernel)
    tiles = scales(2, 3)
    put("tiles", every_code((29, 44), e4m3, rng), ".weight_scale", tiles,
        tiles.repeat_interleave(20, 0)[:29].repeat_interleave(20, 1)[:, :44],
        [("comfy_quant", text({"format": "float8_e4m3fn_blockwise", "group_size": 20}))])
    equal = scales(4, 3)
    put("equal", every_code((8, 60), e4m3, rng), ".weight_scale", equal,
        equal.repeat_interleave(2, 0).repeat_interleave(20, 1))
    absmax = scales(4) * 100
    put("llm", every_code((4, 70), torch.int8, rng), ".SCB", absmax,
        (absmax * np.float32(1 / 127)).reshape(4, 1), [("weight_format", torch.tensor(0, dtype=torch.uint8))])


def add_four_bits(files, name, kind, shape, nested, rng):
    stored, wanted = files
    count, block = int(np.prod(shape)), 64
    blocks = -(-count // block)
    codes = rng.integers(0, 16, count).astype(np.uint8)
    packed = np.append(codes, np.zeros(count % 2, np.uint8))
    state = {"quant_type": kind, "blocksize": block, "dtype": "bfloat16", "shape": list(shape)}
    key = f"{name}.weight"
    if nested:
        table = np.sort(rng.uniform(-1, 1, 256)).astype(np.float32)
        outer = rng.uniform(0.01, 0.5, -(-blocks // 256)).astype(np.float32)
        absmax, offset = rng.integers(0, 256, blocks).astype(np.uint8), np.float32(0.0625314)
        state |= {"nested_blocksize": 256, "nested_dtype": "float32", "nested_offset": float(offset)}
        stored[f"{key}.nested_quant_map"] = torch.from_numpy(table)
        stored[f"{key}.nested_absmax"] = torch.from_numpy(outer)
        scale = table[absmax] * np.repeat(outer, 256)[:blocks] + offset
    else:
        absmax = scale = rng.uniform(0.001, 2, blocks).astype(np.float32)
    stored[key] = torch.from_numpy(packed[0::2] << 4 | packed[1::2]).reshape(-1, 1)
    stored[f"{key}.absmax"] = torch.from_numpy(absmax)
    stored[f"{key}.quant_map"] = torch.tensor(TABLES[kind])
    stored[f"{key}.quant_state.bitsandbytes__{kind}"] = text(state)
    values = np.array(TABLES[kind], np.float32)[codes] * np.repeat(scale, block)[:count]
    assert values.dtype == np.float32
    wanted[key] = torch.from_numpy(values.reshape(shape))


def add_swizzled(files, rng):
    """More rows and groups than one tile of scales has; every code of four bits and of the scales' 8."""
    stored, wanted = files
    values = torch.from_numpy((rng.normal(0, 1, (144, 336)) * np.exp2(rng.integers(-12, 6, (144, 1)))).astype(np.float32))
    factor = values.abs().max() / (448 * 6)
    codes, scales = quantization.quantize_nvfp4(values, factor)
    codes[:2, :128] = torch.arange(256, dtype=torch.uint8).reshape(2, 128)
    stored |= {"nvfp4.weight": codes, "nvfp4.weight_scale": scales, "nvfp4.weight_scale_2": factor,
               "nvfp4.comfy_quant": text({"format": "nvfp4"})}
    wanted["nvfp4.weight"] = quantization.dequantize_nvfp4(codes, factor, scales, torch.float32)
    codes, scales = quantization.quantize_mxfp8(values[:, :320])
    stored |= {"mxfp8.weight": codes, "mxfp8.weight_scale": scales.view(torch.uint8),
               "mxfp8.comfy_quant": text({"format": "mxfp8"})}
    wanted["mxfp8.weight"] = quantization.dequantize_mxfp8(codes, scales, torch.float32)


def main():
    rng = np.random.default_rng(4)
    files = ({}, {})
    add_factors(files, rng)
    add_four_bits(files, "nf4", "nf4", (6, 101), False, rng)
    add_four_bits(files, "fp4", "fp4", (2, 10, 3, 3), False, rng)
    add_four_bits(files, "nested", "nf4", (40, 420), True, rng)
    add_four_bits(files, "odd", "fp4", (3, 67), False, rng)
    add_swizzled(files, rng)
    files[0]["scaled_fp8"] = torch.zeros(2, dtype=torch.float8_e4m3fn)
    files[0]["norm.weight"] = torch.ones(3, dtype=torch.bfloat16)
    FOLDER.mkdir(parents=True, exist_ok=True)
    about = {"about": "tools/golden/scales.py", "torch": torch.__version__, "numpy": np.__version__}
    for name, tensors in zip(("scaled", "expected"), files):
        save_file({k: v.contiguous() for k, v in tensors.items()}, FOLDER / f"{name}.safetensors", about)


if __name__ == "__main__":
    main()
