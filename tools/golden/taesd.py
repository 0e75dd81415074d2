"""Goldens of TAESD, the small autoencoder for previews, under the names of its own release.

Reference: diffusers' AutoencoderTiny, whose encoder takes pictures in -1..1 and whose decoder returns them so.
"""

import torch
from diffusers import AutoencoderTiny

from common import Recorder, metadata, randomize, stored, write

SEED, WIDTH = 31, 8


def to_original(weights):
    """`encoder.layers.N` keeps its number; `decoder.layers.N` gains one for the clamp at the front."""
    result = {}
    for name, tensor in weights.items():
        side, _, number, rest = name.split(".", 3)
        number = int(number) + (side == "decoder")
        result[f"taesd_{side}.{number}.{rest}"] = tensor
    return result


def main():
    model = AutoencoderTiny(
        encoder_block_out_channels=(WIDTH,) * 4, decoder_block_out_channels=(WIDTH,) * 4, latent_channels=4
    )
    randomize(model, SEED)
    file = stored(to_original(model.state_dict()), torch.float16)
    for side in ("encoder", "decoder"):
        half = {k: v for k, v in file.items() if k.startswith(f"taesd_{side}.")}
        write("taesd", f"taesd_{side}", half, metadata(SEED, "float16", f"{side} of a tiny TAESD"))

    generator = torch.Generator().manual_seed(SEED)
    latent = torch.randn((2, 4, 3, 4), generator=generator) * 2
    picture = torch.rand((2, 3, 24, 32), generator=generator) * 2 - 1
    recorder = Recorder(
        {f"taesd_encoder.{i}": layer for i, layer in enumerate(model.encoder.layers)}
        | {f"taesd_decoder.{i + 1}": layer for i, layer in enumerate(model.decoder.layers)}
    )
    with torch.no_grad():
        decoded = model.decode(latent).sample
        encoded = model.encode(picture).latents
    steps = {k: v[:1] for k, v in recorder.outputs.items() if v[:1].numel() <= 1000}
    expected = {"latent": latent, "decoded": decoded, "picture": picture, "encoded": encoded, **steps}
    write("taesd", "expected", expected, metadata(SEED, "float32", "outputs of a tiny TAESD"))


if __name__ == "__main__":
    main()
