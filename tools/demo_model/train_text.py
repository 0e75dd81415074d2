"""Teaches the text encoder to tell a scene's attributes from its captions, before the UNet meets it.

The attributes are read by one linear layer from the mean state after the prompt's end; the layer is then dropped.
"""
import argparse

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

import captions
import draw
import model
from tokenizer import Tokenizer

SHAPES, COLOURS, SIZES = list(draw.SHAPES), list(draw.COLOURS), list(draw.RADII)
RELATIONS = [None, "across", "down", "inside"]
HEADS = {"background": 10, "relation": 4, "column": 4, "row": 4, "colour_a": 10, "shape_a": 8, "size_a": 3,
         "colour_b": 11, "shape_b": 9, "size_b": 4}


class Words:
    """Captions to ids in a compact vocabulary: row 0 stands for every token the captions never use."""

    def __init__(self, path):
        self.encode, rng = Tokenizer(path), np.random.default_rng(7)
        used = {t for _ in range(30000) for t in self.encode(captions.caption(draw.random_scene(rng), rng))}
        self.used = sorted(used)
        self.rows = {t: i + 1 for i, t in enumerate(self.used)}

    def __call__(self, text, rng=None):
        ids = [self.rows.get(t, 0) for t in self.encode(text)]
        if rng is not None and rng.random() < 0.06:  # words it does not know
            at = int(rng.integers(1, ids.index(self.rows[49407]) + 1))
            ids[at:at] = [0] * int(rng.integers(1, 4))
        return ids[:77]


def attributes(scene):
    """Class numbers of the scene, by HEADS; of two things the left, upper or outer one is `a`."""
    things = sorted(scene.things, key=lambda t: (round(t.x / 0.3), t.y) if scene.relation in ("left", "right") else t.y)
    if scene.relation == "inside":
        things = scene.things
    kind = {None: 0, "left": 1, "right": 1, "above": 2, "below": 2, "inside": 3}[scene.relation]
    column, row = scene.cell or (3, 3)
    out = [COLOURS.index(scene.background), kind, column, row]
    for i in range(2):
        if i < len(things):
            t = things[i]
            out += [COLOURS.index(t.colour), SHAPES.index(t.shape), SIZES.index(t.size)]
        else:
            out += [10, 8, 3]
    return out


def pretrain(text, words, scenes, steps, batch, rng):
    """Teaches the text encoder to state the scene's attributes at the positions after the prompt's end."""
    heads = nn.Linear(model.TEXT["width"], sum(HEADS.values()))
    learning = [*text.parameters(), *heads.parameters()]
    optimizer = torch.optim.AdamW(learning, lr=3e-3, betas=(0.9, 0.99), weight_decay=0.01, fused=True)
    targets = torch.tensor([attributes(s) for s in scenes])
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = 3e-3 * min(1, (step + 1) / 50) * (1 - 0.9 * step / steps)
        picks = rng.integers(len(scenes), size=batch)
        ids = torch.tensor([words(captions.caption(scenes[i], rng), rng) for i in picks])
        with torch.autocast("cpu", torch.bfloat16):
            states = text(ids)
        end = (ids == words.rows[49407]).float()
        pooled = (states.float() * end[..., None]).sum(1) / end.sum(1, keepdim=True)
        parts = heads(pooled).split(list(HEADS.values()), -1)
        losses = [F.cross_entropy(p, targets[picks, i]) for i, p in enumerate(parts)]
        optimizer.zero_grad(set_to_none=True)
        sum(losses).backward()
        nn.utils.clip_grad_norm_(learning, 1.0)
        optimizer.step()
        if (step + 1) % 50 == 0:
            print(f"text step {step + 1} " + " ".join(f"{n} {l.item():.2f}" for n, l in zip(HEADS, losses)), flush=True)


def train(words, out, steps=800, batch=64, seed=1):
    """Trains a new text encoder and writes it to the file `out`."""
    rng = np.random.default_rng(seed)
    text = model.TextEncoder(**{**model.TEXT, "vocab": len(words.used) + 1})
    pretrain(text, words, [draw.random_scene(rng) for _ in range(20000)], steps, batch, rng)
    torch.save({"text": text.state_dict(), "words": words.used}, out)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--vocab", required=True, help="open_clip_torch wheel or its bpe_simple_vocab_16e6.txt.gz")
    parser.add_argument("--out", required=True)
    parser.add_argument("--steps", type=int, default=800)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    train(Words(args.vocab), args.out, args.steps, args.batch, args.seed)


if __name__ == "__main__":
    main()
