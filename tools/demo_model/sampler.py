"""A plain PyTorch text-to-picture run of the exported file: the engine's reference for the demo model."""
import json
import math
import struct

import numpy as np
import torch

import model
from export import PREFIXES
from tokenizer import Tokenizer


def read_safetensors(path):
    """Tensors of an fp16 safetensors file, as fp32."""
    with open(path, "rb") as f:
        data = f.read()
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8:8 + length])
    header.pop("__metadata__", None)
    body = np.frombuffer(data, np.uint8, offset=8 + length)
    return {n: torch.from_numpy(body[slice(*e["data_offsets"])].view(np.float16).reshape(e["shape"]).copy()).float()
            for n, e in header.items()}


def sigmas_for(scheduler, steps, table):
    """Falling noise levels, the last one 0, of the `normal` or `karras` scheduler."""
    if scheduler == "karras":
        low, high = table[0].item() ** (1 / 7), table[-1].item() ** (1 / 7)
        ramp = torch.linspace(0, 1, steps)
        out = (high + ramp * (low - high)) ** 7
    else:
        times = torch.linspace(999, 0, steps)
        index, log = times.floor().long().clamp(max=998), table.log()
        out = torch.lerp(log[index], log[index + 1], times - index).exp()
    return torch.cat([out, torch.zeros(1)])


class Painter:
    """The three parts of a checkpoint file in one compute dtype."""

    def __init__(self, path, vocab, dtype=torch.float32):
        tensors, self.dtype = read_safetensors(path), dtype
        self.tokenizer = Tokenizer(vocab)
        self.parts = {"unet": model.UNet(**model.UNET), "vae": model.AutoencoderKL(**model.VAE),
                      "text": model.TextEncoder(**model.TEXT)}
        for name, part in self.parts.items():
            prefix = PREFIXES[name]
            part.load_state_dict({k[len(prefix):]: v for k, v in tensors.items() if k.startswith(prefix)})
            part.to(dtype=dtype, memory_format=torch.channels_last).eval()
        alphas = model.alphas_cumprod()
        self.table = ((1 - alphas) / alphas).sqrt()

    def encode(self, prompts):
        return self.parts["text"](torch.tensor([self.tokenizer(p) for p in prompts]))

    def predict(self, x, sigma, positive, negative, cfg):
        """The denoised latent under classifier-free guidance; cfg 1 does not run the negative prompt."""
        log = self.table.log()
        high = int(torch.searchsorted(log, math.log(sigma)).clamp(1, 999))
        share = (math.log(sigma) - log[high - 1]) / (log[high] - log[high - 1])
        t = torch.full((len(x),), float(high - 1 + share.clamp(0, 1)))
        scaled = (x / math.sqrt(sigma * sigma + 1)).to(self.dtype)
        if cfg == 1:
            eps = self.parts["unet"](scaled, t, positive).float()
        else:
            both = self.parts["unet"](torch.cat([scaled] * 2), torch.cat([t] * 2), torch.cat([positive, negative]))
            yes, no = both.float().chunk(2)
            eps = no + cfg * (yes - no)
        return x - sigma * eps

    @torch.no_grad()
    def paint(self, prompts, seeds, negatives=None, cfg=6.0, steps=20, scheduler="karras", size=128):
        """Euler pictures (B, size, size, 3) uint8, one per prompt, from torch's CPU noise of each seed."""
        positive, negative = self.encode(prompts), self.encode(negatives or [""] * len(prompts))
        noise = [torch.randn(1, 4, size // 8, size // 8, generator=torch.Generator().manual_seed(s)) for s in seeds]
        sigmas = sigmas_for(scheduler, steps, self.table).tolist()
        x = torch.cat(noise) * math.sqrt(1 + sigmas[0] ** 2)
        for sigma, following in zip(sigmas, sigmas[1:]):
            denoised = self.predict(x, sigma, positive, negative, cfg)
            x = x + (x - denoised) / sigma * (following - sigma)
        pixels = self.parts["vae"].decode((x / model.SCALE).to(self.dtype)).float()
        return ((pixels.clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy()
