"""LoRAs for a model's matrices, and whether the engine gives with them what it must, before anything is timed.

Values are checked on a FLUX.1 of two blocks at real widths: the engine with LoRAs beside Q4_K weights against the
engine without, on fp32 weights that torch merged from what `atelier quantize --type F32` reads from the same file.
"""
import json
import os
import struct
import tempfile
from typing import NamedTuple

import torch
from safetensors.torch import load_file, save_file

from bounds import ERROR, MERGED
from models import write_quantised, write_random
from workers import distance, engines, write_inputs

FLUX_INPUTS = {"sample": [1, 16, 64, 64], "context": [1, 256, 4096], "vector": [1, 768]}  # 1024 image tokens
RANK, ALPHA = 32, 16
STRENGTH = 0.8
# In fp32 the orders of sums differ, nothing else. In bf16 weights, LoRAs and activations are rounded, as are
# the merged weights and their activations: the LoRAs may not add a tenth to that.
FP32_LIMIT, BF16_LIMIT = 1e-5, 1.1


def matrices(path):
    """{name without ".weight", as the model has it: shape} of a safetensors file's matrices inside blocks."""
    with open(path, "rb") as file:
        header = json.loads(file.read(struct.unpack("<Q", file.read(8))[0]))
    inside = lambda name: "blocks." in name and name.endswith(".weight")
    return {name.removeprefix("model.diffusion_model.").removesuffix(".weight"): row["shape"]
            for name, row in header.items() if inside(name) and len(row["shape"]) == 2}


ORIGINAL, DIFFUSERS = "original", "diffusers"
# A module of FLUX.1's blocks in the original's names: those diffusers keeps instead, row by row.
SINGLE = ("attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp")
PARTS = {
    "img_attn.qkv": SINGLE[:3], "txt_attn.qkv": ("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"),
    "img_attn.proj": ("attn.to_out.0",), "txt_attn.proj": ("attn.to_add_out",), "img_mlp.0": ("ff.net.0.proj",),
    "img_mlp.2": ("ff.net.2",), "txt_mlp.0": ("ff_context.net.0.proj",), "txt_mlp.2": ("ff_context.net.2",),
    "img_mod.lin": ("norm1.linear",), "txt_mod.lin": ("norm1_context.linear",),
    "linear1": SINGLE, "linear2": ("proj_out",), "modulation.lin": ("norm.linear",)}


class Module(NamedTuple):
    lora: str  # what a LoRA calls it
    weight: str  # the model's matrix, and the rows of it
    first: int
    rows: int
    inputs: int


def modules(path, names):
    """Every matrix in a model's blocks, as `names` has them."""
    for weight, (outputs, inputs) in matrices(path).items():
        if names == ORIGINAL:
            yield Module(f"diffusion_model.{weight}", weight, 0, outputs, inputs)
            continue
        kind, index, module = weight.split(".", 2)
        stem = {"double_blocks": "transformer_blocks", "single_blocks": "single_transformer_blocks"}[kind]
        first = 0
        for place, part in enumerate(PARTS[module]):
            rows = outputs - first if place + 1 == len(PARTS[module]) else inputs
            yield Module(f"transformer.{stem}.{index}.{part}", weight, first, rows, inputs)
            first += rows


def write_loras(path, folder, count, names=ORIGINAL):
    """LoRAs for every matrix in a model's blocks."""
    generator, files = torch.Generator().manual_seed(1), []
    for i in range(count):
        tensors = {}
        for module in modules(path, names):
            down = torch.randn(RANK, module.inputs, generator=generator)
            up = torch.randn(module.rows, RANK, generator=generator)
            tensors[f"{module.lora}.lora_A.weight"] = down / module.inputs**0.5
            tensors[f"{module.lora}.lora_B.weight"] = up * 0.04
            tensors[f"{module.lora}.alpha"] = torch.tensor(float(ALPHA))
        files.append(os.path.join(folder, f"lora_{names}{i}.safetensors"))
        save_file({name: tensor.half() for name, tensor in tensors.items()}, files[-1])
    return files


def merge(weights, path, names, file, strength):
    """Adds a LoRA to a model's fp32 weights."""
    lora = load_file(file)
    for module in modules(path, names):
        up, down = (lora[f"{module.lora}.lora_{half}.weight"].float() for half in "BA")
        rows = weights[module.weight + ".weight"].narrow(0, module.first, module.rows)
        rows.addmm_(up, down, alpha=strength * lora[f"{module.lora}.alpha"].item() / RANK)


def check_values(rows, args, count):
    """Errors of a call with 1 and with `count` LoRAs, against fp32 on merged weights."""
    program = os.path.join(args.bin, "atelier")
    with tempfile.TemporaryDirectory(dir=os.path.dirname(args.cache)) as folder:
        floats, quantised, merged = (os.path.join(folder, name) for name in
                                     ("floats.safetensors", "q4_k.gguf", "merged.safetensors"))
        write_random(floats, "flux", "--dtype", "bf16", "--depth", "1,1", "--part", "transformer")
        write_quantised(program, floats, quantised, "Q4_K_S")
        inputs = write_inputs(folder, FLUX_INPUTS, timestep=torch.tensor([0.5]), guidance=torch.tensor([3.5]))
        for names in (ORIGINAL, DIFFUSERS):
            files = write_loras(floats, folder, count, names)
            write_quantised(program, quantised, merged, "F32")
            weights, done = load_file(merged), 0
            for some in (1, count):
                for file in files[done:some]:
                    merge(weights, floats, names, file, STRENGTH)
                done = some
                os.remove(merged)
                save_file(weights, merged)
                compare(rows, args, {"merged": merged, "LoRAs": quantised}, files[:some], names, inputs, folder)


def title_of(count, names):
    return f"{count} LoRA{'s' * (count > 1)}" + (", diffusers names" if names == DIFFUSERS else "")


def compare(rows, args, paths, files, names, inputs, folder):
    jobs = {f"{kind} {dtype}": {"folder": path, "dtype": dtype} for kind, path in paths.items()
            for dtype in ("fp32", "bf16")}
    with engines(args, jobs) as made:
        for dtype in ("fp32", "bf16"):
            made[f"LoRAs {dtype}"].ask(op="loras", files=files, strength=STRENGTH)
        found = {name: worker.result(inputs, folder) for name, worker in made.items()}
    errors = {name: distance(result, found["merged fp32"]) for name, result in found.items()}
    title = f"FLUX.1 Q4_K, {title_of(len(files), names)}"
    if not errors["LoRAs fp32"] < FP32_LIMIT:
        rows.error(f"{title}, fp32: off the merged weights by {errors['LoRAs fp32']:.2g}")
    if not errors["LoRAs bf16"] < BF16_LIMIT * errors["merged bf16"]:
        rows.error(f"{title}, bf16: off by {errors['LoRAs bf16']:.2g}, merged weights by {errors['merged bf16']:.2g}")
    rows.add(title + ERROR, "relative", "less", errors["LoRAs bf16"], errors["merged bf16"], MERGED, "bf16")
