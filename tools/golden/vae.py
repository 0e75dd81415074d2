"""Goldens of the picture autoencoder (AutoencoderKL): vae_kl has the four levels and the quantisation
convolutions of SD; vae_kl_plain none of the latter, 16 channels, and levels of different widths.

Reference: diffusers' AutoencoderKL. The weights are stored under the names of the original release;
names.json says where each diffusers name comes from. Of the blocks, every fourth channel of the first
batch element is kept.
"""

import json
import re

import torch
from diffusers import AutoencoderKL

from common import ROOT, Recorder, metadata, randomize, stored, write

CASES = {
    "vae_kl": dict(seed=21, widths=(32, 32, 32, 32), layers=1, channels=4, quant=True),
    "vae_kl_plain": dict(seed=22, widths=(64, 32), layers=1, channels=16, quant=False),
}
RULES = [  # diffusers' pattern, the original's, both below encoder. or decoder.
    (r"mid_block\.resnets\.0\.(.+)", r"mid.block_1.\1"),
    (r"mid_block\.resnets\.1\.(.+)", r"mid.block_2.\1"),
    (r"mid_block\.attentions\.0\.group_norm\.(.+)", r"mid.attn_1.norm.\1"),
    (r"mid_block\.attentions\.0\.to_([qkv])\.(.+)", r"mid.attn_1.\1.\2"),
    (r"mid_block\.attentions\.0\.to_out\.0\.(.+)", r"mid.attn_1.proj_out.\1"),
    (r"down_blocks\.(\d+)\.resnets\.(\d+)\.(.+)", r"down.\1.block.\2.\3"),
    (r"down_blocks\.(\d+)\.downsamplers\.0\.(.+)", r"down.\1.downsample.\2"),
    (r"up_blocks\.(\d+)\.resnets\.(\d+)\.(.+)", r"up.\1.block.\2.\3"),
    (r"up_blocks\.(\d+)\.upsamplers\.0\.(.+)", r"up.\1.upsample.\2"),
    (r"conv_norm_out\.(.+)", r"norm_out.\1"),
]


def original_name(name, levels):
    """The original release's name of a diffusers autoencoder tensor; its up levels count the other way."""
    side, _, rest = name.partition(".")
    if side not in ("encoder", "decoder"):
        return name
    rest = re.sub(r"^up_blocks\.(\d+)", lambda m: f"up_blocks.{levels - 1 - int(m[1])}", rest)
    for pattern, replacement in RULES:
        rest, count = re.subn(f"^{pattern}$", replacement, rest)
        if count:
            break
    return f"{side}.{rest}".replace("conv_shortcut", "nin_shortcut")


def to_original(weights, levels):
    """The tensors under the original names, and the table that leads back."""
    tensors, names = {}, {}
    for name, tensor in weights.items():
        target = original_name(name, levels)
        names[name] = {"from": target, "shape": list(tensor.shape)}
        attention = ".attn_1." in target and tensor.dim() == 2
        tensors[target] = tensor[:, :, None, None] if attention else tensor
    return tensors, names


def write_names(folder, names):
    rows = ",\n".join(f" {json.dumps(k)}: {json.dumps(v)}" for k, v in names.items())
    (ROOT / folder / "names.json").write_text("{\n" + rows + "\n}\n")


def model_of(case):
    levels = len(case["widths"])
    return AutoencoderKL(
        block_out_channels=case["widths"],
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        layers_per_block=case["layers"],
        latent_channels=case["channels"],
        norm_num_groups=32,
        use_quant_conv=case["quant"],
        use_post_quant_conv=case["quant"],
    )


def blocks(model):
    result = {}
    for side, half in (("encoder", model.encoder), ("decoder", model.decoder)):
        result[f"{side}.conv_in"] = half.conv_in
        result[f"{side}.mid.block_1"] = half.mid_block.resnets[0]
        result[f"{side}.mid.attn_1"] = half.mid_block.attentions[0]
        result[f"{side}.mid.block_2"] = half.mid_block.resnets[1]
        result[f"{side}.norm_out"] = half.conv_norm_out
    for i, level in enumerate(model.encoder.down_blocks):
        result[f"encoder.down.{i}"] = level
    for i, level in enumerate(model.decoder.up_blocks):
        result[f"decoder.up.{len(model.decoder.up_blocks) - 1 - i}"] = level
    return result


def main():
    for name, case in CASES.items():
        model = randomize(model_of(case), case["seed"], torch.float8_e4m3fn)
        tensors, names = to_original(model.state_dict(), len(case["widths"]))
        about = f"weights of a tiny autoencoder ({name})"
        write(name, "model", stored(tensors, torch.float8_e4m3fn), metadata(case["seed"], "float8_e4m3fn", about))
        write_names(name, names)

        generator = torch.Generator().manual_seed(case["seed"])
        factor = 2 ** (len(case["widths"]) - 1)
        latent = torch.randn((2, case["channels"], 3, 4), generator=generator)
        picture = torch.rand((2, 3, 3 * factor, 4 * factor), generator=generator) * 2 - 1
        recorder = Recorder(blocks(model))
        with torch.no_grad():
            decoded = model.decode(latent).sample
            mean = model.encode(picture).latent_dist.mean
        steps = {k: v[:1, ::4] for k, v in recorder.outputs.items() if k != "decoder.up.0"}
        expected = {"latent": latent, "decoded": decoded, "picture": picture, "encoded": mean, **steps}
        write(name, "expected", expected, metadata(case["seed"], "float32", f"outputs of a tiny autoencoder ({name})"))


if __name__ == "__main__":
    main()
