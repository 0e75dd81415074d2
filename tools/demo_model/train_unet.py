"""Trains the text encoder and the UNet on latents of drawn pictures (eps prediction, min-SNR weights, EMA).

The text encoder comes from train_text.py; with --train-text it is trained further here, by which it can forget what the
UNet does not use yet.  Resumable; --init starts from another checkpoint's UNet.
"""
import argparse
import os
import time

import numpy as np
import torch
from torch import nn

import captions
import draw
import model
from optimizer import Hybrid
from train_text import Words, train as train_text
from workers import share_gradients, start_workers


@torch.no_grad()
def encode(vae, scenes, first, size, seed):
    """Scaled latents (N, 4, size/8, size/8) fp16 of `scenes`, drawn with the palettes of pictures `first` on."""
    latents = torch.empty(len(scenes), 4, size // 8, size // 8, dtype=torch.float16)
    for i in range(0, len(scenes), 50):
        palettes = [draw.jittered_palette(np.random.default_rng([seed, first + i + k])) for k in range(50)]
        pixels = np.stack([draw.render(s, size, p) for s, p in zip(scenes[i:i + 50], palettes)])
        x = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 127.5 - 1
        with torch.autocast("cpu", torch.bfloat16):
            mean, _ = vae.encode(x.contiguous(memory_format=torch.channels_last))
        latents[i:i + 50] = (mean.float() * model.SCALE).half()
    return latents


def make_data(vae, count, size, seed, path, workers):
    """`count` scenes and their latents, the latter kept in `path` and made by `workers` processes."""
    rng = np.random.default_rng(seed)
    scenes = [draw.random_scene(rng) for _ in range(count)]
    if not os.path.exists(path):
        cuts = [count * i // workers for i in range(workers + 1)]
        children = []
        for i in range(workers):
            child = os.fork()
            if child == 0:
                torch.save(encode(vae, scenes[cuts[i]:cuts[i + 1]], cuts[i], size, seed), f"{path}.{i}")
                os._exit(0)
            children.append(child)
        if any(os.waitpid(child, 0)[1] for child in children):
            raise SystemExit("a worker that makes latents failed")
        pieces = [f"{path}.{i}" for i in range(workers)]
        torch.save(torch.cat([torch.load(piece, weights_only=True) for piece in pieces]), path)
        for piece in pieces:
            os.remove(piece)
    return scenes, torch.load(path, weights_only=True)


def noise_loss(unet, context, latents, alphas, early):
    """min-SNR-5 weighted mean square error of the predicted noise; `early` > 1 draws early, noisy steps more often."""
    t = (1000 * torch.rand(len(latents)) ** (1 / early)).long().clamp(max=999)
    a = alphas[t]
    noise = torch.randn_like(latents)
    noisy = a.sqrt().view(-1, 1, 1, 1) * latents + (1 - a).sqrt().view(-1, 1, 1, 1) * noise
    with torch.autocast("cpu", torch.bfloat16):
        out = unet(noisy.contiguous(memory_format=torch.channels_last), t, context)
    error = (out.float() - noise).square().mean((1, 2, 3))
    return (error * ((1 - a) * 5 / a).clamp(max=1)).mean(), error.mean().item()


def pick_scenes(rng, scenes, two, count, pairs):
    """`count` scene numbers; each shows two things with the probability `pairs`, if that is given."""
    if pairs is None:
        return rng.integers(len(scenes), size=count)
    kinds = np.flatnonzero(~two), np.flatnonzero(two)
    return np.array([rng.choice(kinds[int(rng.random() < pairs)]) for _ in range(count)])


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--vae", required=True, help="folded VAE checkpoint of train_vae.py --fold")
    parser.add_argument("--text", required=True, help="checkpoint of train_text.py, made if absent")
    parser.add_argument("--vocab", required=True, help="open_clip_torch wheel or its bpe_simple_vocab_16e6.txt.gz")
    parser.add_argument("--out", required=True, help="checkpoint, read first if it exists")
    parser.add_argument("--init", help="checkpoint whose weights to start from")
    parser.add_argument("--data", required=True, help="latents, made if absent")
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--count", type=int, default=12000)
    parser.add_argument("--steps", type=int, default=6000)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--muon-lr", type=float, default=0.01)
    parser.add_argument("--floor", type=float, default=0.02, help="final learning rate over the highest")
    parser.add_argument("--train-text", action="store_true", help="train the text encoder, too")
    parser.add_argument("--text-slowly", action="store_true", help="train it by AdamW at a third of the rate")
    parser.add_argument("--pairs", type=float, help="share of pictures of two things; as drawn if not given")
    parser.add_argument("--early", type=float, default=1, help="density of steps t: t to the power of this less one")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--workers", type=int, default=2, help="processes of one thread; each takes --batch pictures")
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    words = Words(args.vocab)
    if not os.path.exists(args.text):
        train_text(words, args.text, seed=args.seed)
    vae = model.AutoencoderKL(**model.VAE).to(memory_format=torch.channels_last)
    vae.load_state_dict(torch.load(args.vae, weights_only=True)["average"])
    began = time.time()
    scenes, latents = make_data(vae, args.count, args.size, args.seed + args.size, args.data, args.workers)
    print(f"data {args.count} pictures of {args.size} px, mean {latents.float().mean():.3f} "
        f"std {latents.float().std():.3f}, {time.time() - began:.0f} s", flush=True)
    rank = start_workers(args.workers, args.out + ".meeting")
    unet = model.UNet(**model.UNET).to(memory_format=torch.channels_last)
    text = model.TextEncoder(**{**model.TEXT, "vocab": len(words.used) + 1})
    both = nn.ModuleDict({"unet": unet, "text": text})
    optimizer = Hybrid(both, args.lr, args.muon_lr, skip=("embeddings", "time_embed"),
                       frozen=() if args.train_text or args.text_slowly else ("text",),
                       slow=("text",) if args.text_slowly else ())
    text.load_state_dict(torch.load(args.text, weights_only=True)["text"])
    start = 0
    if os.path.exists(args.out):
        state = torch.load(args.out, weights_only=True)
        both.load_state_dict(state["both"])
        optimizer.load_state_dict(state["optimizer"])
        average, start = state["average"], state["step"]
    else:
        if args.init:
            trained = torch.load(args.init, weights_only=True)["average"]
            unet.load_state_dict({k[5:]: v for k, v in trained.items() if k.startswith("unet.")})
            if args.text_slowly:
                text.load_state_dict({k[5:]: v for k, v in trained.items() if k.startswith("text.")})
        average = {k: v.clone() for k, v in both.state_dict().items()}

    def save(step):
        torch.save({"both": both.state_dict(), "average": average, "optimizer": optimizer.state_dict(), "step": step,
                    "words": words.used}, args.out + ".part")
        os.replace(args.out + ".part", args.out)

    rng = np.random.default_rng([args.seed, start, rank])
    torch.manual_seed(1000 * (args.seed + start) + rank)
    alphas, empty = model.alphas_cumprod(), words("")
    two = np.array([len(scene.things) == 2 for scene in scenes])
    began, parts = time.time(), []
    for step in range(start, args.steps):
        warm, fall = min(1, (step + 1) / 100), 0.5 * (1 + np.cos(np.pi * step / args.steps))
        picks = pick_scenes(rng, scenes, two, args.batch, args.pairs)
        ids = torch.tensor([empty if rng.random() < 0.1 else words(captions.caption(scenes[i], rng), rng)
                            for i in picks])
        with torch.autocast("cpu", torch.bfloat16), torch.set_grad_enabled(args.train_text or args.text_slowly):
            context = text(ids)
        loss, error = noise_loss(unet, context, latents[picks].float(), alphas, args.early)
        loss.backward()
        if args.workers > 1:
            share_gradients(optimizer.learning, args.workers)
        optimizer.step(float(warm * (args.floor + (1 - args.floor) * fall)))
        keep = min(0.998, (step - start + 1) / (step - start + 10))
        with torch.no_grad():
            current = both.state_dict()
            torch._foreach_lerp_([average[k] for k in current], list(current.values()), 1 - keep)
        parts.append((loss.item(), error))
        if rank == 0 and (step + 1) % 25 == 0:
            weighted, error = np.mean(parts, 0)
            parts.clear()
            print(f"unet {args.size}px step {step + 1} loss {weighted:.4f} mse {error:.4f} "
                f"{(time.time() - began) / (step + 1 - start):.3f} s/step", flush=True)
        if rank == 0 and ((step + 1) % 100 == 0 or step + 1 == args.steps):
            save(step + 1)


if __name__ == "__main__":
    main()
