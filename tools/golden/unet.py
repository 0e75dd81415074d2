"""Goldens of the UNet of Stable Diffusion 1.x, inpainting, 2.x, XL and the refiner, in tiny.

Reference: diffusers' UNet2DConditionModel. The weights are stored under the names of the original release;
names.json says where each diffusers name comes from. Every numbered block's output is kept, every fourth
channel of the first batch element. The two batch elements have different time steps, prompts and vectors.
"""

import re

import torch
from diffusers import UNet2DConditionModel

from common import Recorder, metadata, randomize, stored, write
from vae import write_names

SINUSOIDS = 256  # per number in the vector of XL
CASES = {
    "unet_sd1": dict(seed=51, widths=(32, 32), depths=(1, 0), layers=2, context=16, size=(7, 6)),
    "unet_inpaint": dict(seed=52, widths=(32,), depths=(1,), layers=1, context=16, size=(6, 4), channels=9),
    "unet_sd2": dict(seed=53, widths=(32,), depths=(1,), layers=1, context=24, size=(4, 6), linear=True),
    "unet_sdxl": dict(seed=54, widths=(32, 32), depths=(0, 2), layers=1, context=48, size=(8, 4), linear=True,
                      pooled=32, numbers=6),
    "unet_refiner": dict(seed=55, widths=(32, 32), depths=(0, 1), layers=1, context=32, size=(4, 4), linear=True,
                         pooled=32, numbers=5),
}
INSIDE_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}


def model_of(case):
    kinds = ["CrossAttn" if depth else "" for depth in case["depths"]]
    vector = {}
    if "pooled" in case:
        vector = dict(addition_embed_type="text_time", addition_time_embed_dim=SINUSOIDS,
                      projection_class_embeddings_input_dim=case["pooled"] + case["numbers"] * SINUSOIDS)
    return UNet2DConditionModel(
        in_channels=case.get("channels", 4),
        block_out_channels=case["widths"],
        down_block_types=tuple(f"{kind}DownBlock2D" for kind in kinds),
        up_block_types=tuple(f"{kind}UpBlock2D" for kind in reversed(kinds)),
        layers_per_block=case["layers"],
        transformer_layers_per_block=tuple(max(1, depth) for depth in case["depths"]),
        cross_attention_dim=case["context"],
        attention_head_dim=1 if case.get("linear") else 8,  # diffusers calls the number of heads so
        use_linear_projection=case.get("linear", False),
        time_embedding_dim=32,
        norm_num_groups=32,
        **vector,
    )


def stems(case):
    """Modules of diffusers and where the original keeps them."""
    n, depths = case["layers"], case["depths"]
    result = {"conv_in": "input_blocks.0.0", "conv_norm_out": "out.0", "conv_out": "out.2",
              "time_embedding.linear_1": "time_embed.0", "time_embedding.linear_2": "time_embed.2",
              "add_embedding.linear_1": "label_emb.0.0", "add_embedding.linear_2": "label_emb.0.2",
              "mid_block.resnets.0": "middle_block.0", "mid_block.attentions.0": "middle_block.1",
              "mid_block.resnets.1": "middle_block.2"}
    for i in range(len(depths)):
        for j in range(n):
            result[f"down_blocks.{i}.resnets.{j}"] = f"input_blocks.{1 + i * (n + 1) + j}.0"
            result[f"down_blocks.{i}.attentions.{j}"] = f"input_blocks.{1 + i * (n + 1) + j}.1"
        result[f"down_blocks.{i}.downsamplers.0.conv"] = f"input_blocks.{(i + 1) * (n + 1)}.0.op"
        for j in range(n + 1):
            result[f"up_blocks.{i}.resnets.{j}"] = f"output_blocks.{i * (n + 1) + j}.0"
            result[f"up_blocks.{i}.attentions.{j}"] = f"output_blocks.{i * (n + 1) + j}.1"
        place = 2 if depths[len(depths) - 1 - i] else 1
        result[f"up_blocks.{i}.upsamplers.0.conv"] = f"output_blocks.{i * (n + 1) + n}.{place}.conv"
    return result


def original_name(name, places):
    stem = max((s for s in places if name.startswith(s + ".")), key=len)
    rest = name.removeprefix(stem + ".")
    if ".resnets." in stem:
        rest = re.sub(r"^\w+", lambda m: INSIDE_RESNET[m[0]], rest)
    return f"{places[stem]}.{rest}"


def blocks(model, places):
    """The module whose output is that of each numbered block: the last of its parts."""
    modules, result, last = dict(model.named_modules()), {}, {}
    for stem, place in places.items():
        block = re.match(r"(input_blocks|output_blocks)\.\d+|middle_block", place)
        if block and stem in modules and place >= last.get(block[0], ""):
            last[block[0]], result[block[0]] = place, modules[stem]
    return result


def main():
    for name, case in CASES.items():
        model, places = randomize(model_of(case), case["seed"], torch.float8_e4m3fn), stems(case)
        names = {k: {"from": original_name(k, places), "shape": list(v.shape)} for k, v in model.state_dict().items()}
        weights = {original_name(k, places): v for k, v in model.state_dict().items()}
        about = metadata(case["seed"], "float8_e4m3fn", f"weights of a tiny UNet ({name})")
        write(name, "model", stored(weights, torch.float8_e4m3fn), about)
        write_names(name, names)

        generator = torch.Generator().manual_seed(case["seed"])
        draw = lambda *shape: torch.randn(shape, generator=generator)
        expected = {"x": draw(2, case.get("channels", 4), *case["size"]), "context": draw(2, 5, case["context"]),
                    "timestep": torch.tensor([981.0, 7.0])}
        added = None
        if "pooled" in case:
            ids = torch.randint(0, 1024, (2, case["numbers"]), generator=generator).float()
            added = {"text_embeds": draw(2, case["pooled"]), "time_ids": ids}
            model.add_embedding.register_forward_pre_hook(lambda _, inputs: expected.update(vector=inputs[0].clone()))
        recorder = Recorder(blocks(model, places))
        with torch.no_grad():
            expected["output"] = model(expected["x"], expected["timestep"], expected["context"],
                                       added_cond_kwargs=added).sample
        expected |= {k: v[:1, ::4] for k, v in recorder.outputs.items()}
        write(name, "expected", expected, metadata(case["seed"], "float32", f"outputs of a tiny UNet ({name})"))


if __name__ == "__main__":
    main()
