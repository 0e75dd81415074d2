"""Writes an SD1.5-shaped pipeline with random weights in the diffusers folder layout, once: FOLDER.

Widths and depths are SD1.5's; weights are small enough that activations stay of order one, so that
errors between engines mean something.
"""
import json
import os
import sys

import torch


def write(folder, seed=0):
    marker = os.path.join(folder, "complete")
    if os.path.exists(marker):
        return
    from diffusers import AutoencoderKL, UNet2DConditionModel
    torch.manual_seed(seed)
    os.makedirs(folder, exist_ok=True)
    unet = UNet2DConditionModel(
        sample_size=64, in_channels=4, out_channels=4, layers_per_block=2,
        block_out_channels=(320, 640, 1280, 1280), cross_attention_dim=768, attention_head_dim=8,
        down_block_types=("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
        up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3)
    unet.save_pretrained(os.path.join(folder, "unet"), max_shard_size="20GB")
    del unet
    vae = AutoencoderKL(
        in_channels=3, out_channels=3, latent_channels=4, layers_per_block=2, sample_size=512,
        block_out_channels=(128, 256, 512, 512), down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4)
    vae.save_pretrained(os.path.join(folder, "vae"), max_shard_size="20GB")
    with open(os.path.join(folder, "model_index.json"), "w") as file:
        json.dump({"_class_name": "StableDiffusionPipeline"}, file)
    open(marker, "w").close()


if __name__ == "__main__":
    write(sys.argv[1])
