"""Trains the KL autoencoder on drawn pictures; writes and resumes from one checkpoint file.

Loss: L1 + L1 of the pixel differences + a small KL term.  --freeze-encoder goes on with the decoder alone.
"""
import argparse
import os
import time

import numpy as np
import torch
from torch.nn import functional as F

import draw
import model
from optimizer import Hybrid
from workers import share_gradients, start_workers


@torch.no_grad()
def carry_init(vae):
    """Starts the VAE as a plain carrier of its first convolution's features, with a reference for the norms.

    A group norm over two channels of a flat picture would wipe its colour away: there is nothing to compare it with.
    So the first middle block writes a pattern that depends on the border alone (through the zero padding) into the
    odd channels; as it stays in the residual stream, every later group has a known spread.
    """
    z = vae.post_quant_conv.weight.shape[0]
    vae.quant_conv.weight[z:] *= 0.1
    vae.quant_conv.bias[z:] = -6.0  # little latent noise at first, or the picture is lost in it
    for part in (vae.encoder, vae.decoder):
        for name, block in part.named_modules():
            if isinstance(block, model.VaeResBlock):
                block.conv2.weight.mul_(0.1)
            elif isinstance(block, (model.VaeUpsample, model.VaeDownsample)):
                width = len(block.conv.weight)
                block.conv.weight.mul_(0.1)
                taps = ((1, 1),) if isinstance(block, model.VaeUpsample) else ((0, 0), (0, 1), (1, 0), (1, 1))
                for y, x in taps:
                    block.conv.weight[:, :, y, x] += torch.eye(width) / len(taps)
        block = part.mid.block_1
        odd = torch.arange(1, len(block.conv1.weight), 2)
        block.norm1.weight[odd], block.norm1.bias[odd] = 0.0, 2.0
        block.conv1.weight[odd] = 0.0
        block.conv1.weight[odd, odd] = 0.2
        block.conv2.weight[odd] = 0.0
        block.conv2.weight[odd, odd, 1, 1] = 3.0
        block.conv2.bias[odd] = -0.7


def picture_pool(count, size, seed):
    """`count` pictures (N, 3, size, size) uint8; in every sixth the palette is random, to keep the VAE general."""
    rng = np.random.default_rng(seed)
    pool = np.empty((count, size, size, 3), np.uint8)
    for i in range(count):
        palette = draw.jittered_palette(rng)
        if i % 6 == 0:
            palette = {name: tuple(rng.integers(0, 256, 3)) for name in palette}
        pool[i] = draw.render(draw.random_scene(rng), size, palette)
        if i % 16 == 0:  # a gradient over the picture
            ramp = np.linspace(rng.uniform(0.5, 1), rng.uniform(0.5, 1), size)
            ramp = ramp[:, None, None] if rng.random() < 0.5 else ramp[None, :, None]
            pool[i] = (pool[i] * ramp).astype(np.uint8)
    return torch.from_numpy(pool).permute(0, 3, 1, 2)


def draw_batch(pool, batch, generator):
    """`batch` random pictures of the pool in [-1, 1]."""
    picks = torch.randint(0, len(pool), (batch,), generator=generator)
    return (pool[picks].float() / 127.5 - 1).contiguous(memory_format=torch.channels_last)


def edges(x):
    """Differences of neighbouring pixels, across and down."""
    return x[..., :, 1:] - x[..., :, :-1], x[..., 1:, :] - x[..., :-1, :]


def loss_of(vae, x, kl_weight, frozen):
    """The training loss of one batch and its parts (L1, KL, standard deviation of the latent mean)."""
    with torch.autocast("cpu", torch.bfloat16):
        with torch.set_grad_enabled(not frozen):
            mean, logvar = vae.encode(x)
        mean, logvar = mean.float(), logvar.float().clamp(-20, 5)
        noise = torch.randn_like(mean)
        z = mean + noise * (0.5 * logvar).exp() if not frozen else mean + 0.04 * mean.std() * torch.rand(()) * noise
        y = vae.decode(z)
    y = y.float()
    l1 = (y - x).abs().mean()
    gradient = sum((a - b).abs().mean() for a, b in zip(edges(y), edges(x)))
    kl = 0.5 * (mean.square() + logvar.exp() - 1 - logvar).mean()
    return l1 + 0.5 * gradient + kl_weight * (0 if frozen else kl), (l1.item(), kl.item(), mean.std().item())


@torch.no_grad()
def fold_scale(vae, pool):
    """Puts into the quant convolutions the affine maps that give `SCALE` times the latent zero mean and unit spread."""
    with torch.autocast("cpu", torch.bfloat16):
        means = torch.cat([vae.encode(draw_batch(pool, 16, None))[0].float() for _ in range(20)])
    shift, spread = means.mean((0, 2, 3)), means.std((0, 2, 3)) * model.SCALE
    z = len(shift)
    vae.quant_conv.weight[:z] /= spread.view(-1, 1, 1, 1)
    vae.quant_conv.bias[:z] = (vae.quant_conv.bias[:z] - shift) / spread
    vae.quant_conv.bias[z:] -= 2 * spread.log()
    vae.post_quant_conv.bias += (vae.post_quant_conv.weight[:, :, 0, 0] * shift).sum(1)
    vae.post_quant_conv.weight *= spread.view(1, -1, 1, 1)
    print(f"folded latent means {shift.tolist()} and spreads {(spread / model.SCALE).tolist()}", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", required=True, help="checkpoint, read first if it exists")
    parser.add_argument("--init", help="checkpoint whose averaged weights to start from")
    parser.add_argument("--steps", type=int, default=2400)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--lr", type=float, default=1.5e-3)
    parser.add_argument("--muon-lr", type=float, default=0.02)
    parser.add_argument("--kl", type=float, default=2e-4)
    parser.add_argument("--pool", type=int, default=6000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--workers", type=int, default=2, help="processes of one thread; each takes --batch pictures")
    parser.add_argument("--freeze-encoder", action="store_true", help="decoder alone; the step count starts anew")
    parser.add_argument("--fold", metavar="FILE", help="train no more: write the averaged weights, scale folded in")
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    vae = model.AutoencoderKL(**model.VAE).to(memory_format=torch.channels_last)
    carry_init(vae)
    frozen = ("encoder", "quant_conv") if args.freeze_encoder else ()
    optimizer = Hybrid(vae, args.lr, args.muon_lr, frozen=frozen)
    average = {k: v.clone() for k, v in vae.state_dict().items()}
    start = 0
    if os.path.exists(args.out):
        state = torch.load(args.out, weights_only=True)
        vae.load_state_dict(state["vae"])
        average = state["average"]
        if bool(state["frozen"]) == args.freeze_encoder:
            optimizer.load_state_dict(state["optimizer"])
            start = state["step"]
        elif args.freeze_encoder:
            vae.load_state_dict(average)
    elif args.init:
        average = torch.load(args.init, weights_only=True)["average"]
        vae.load_state_dict(average)
        average = {k: v.clone() for k, v in average.items()}
    pool = picture_pool(args.pool, args.size, args.seed + args.size)
    if args.fold:
        vae.load_state_dict(average)
        fold_scale(vae, pool)
        torch.save({"vae": vae.state_dict(), "average": vae.state_dict(), "step": 0, "frozen": False}, args.fold)
        return
    rank = start_workers(args.workers, args.out + ".meeting")
    torch.manual_seed(1000 * (args.seed + start) + rank)
    generator = torch.Generator().manual_seed(1000 * (args.seed + start) + rank)
    began, parts = time.time(), []

    def save(step):
        torch.save({"vae": vae.state_dict(), "average": average, "optimizer": optimizer.state_dict(), "step": step,
                    "frozen": args.freeze_encoder}, args.out + ".part")
        os.replace(args.out + ".part", args.out)

    for step in range(start, args.steps):
        warm, fall = min(1, (step + 1) / 50), 0.5 * (1 + np.cos(np.pi * step / args.steps))
        x = draw_batch(pool, args.batch, generator)
        loss, part = loss_of(vae, x, args.kl * min(1, step / 300), args.freeze_encoder)
        loss.backward()
        if args.workers > 1:
            share_gradients(optimizer.learning, args.workers)
        optimizer.step(float(warm * (0.02 + 0.98 * fall)))
        keep = min(0.995, (step + 1) / (step + 10))
        for k, v in vae.state_dict().items():
            average[k].lerp_(v, 1 - keep)
        parts.append(part)
        if rank == 0 and ((step + 1) % 25 == 0 or step + 1 == args.steps):
            l1, kl, std = np.mean(parts, 0)
            parts.clear()
            print(f"vae step {step + 1} l1 {l1:.4f} kl {kl:.3f} latent_std {std:.3f} "
                  f"{(time.time() - began) / (step + 1 - start):.3f} s/step", flush=True)
        if rank == 0 and ((step + 1) % 100 == 0 or step + 1 == args.steps):
            save(step + 1)


if __name__ == "__main__":
    main()
