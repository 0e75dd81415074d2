"""Renders a grid of prompts and seeds with the exported file and checks by pixel statistics that they are followed."""
import argparse
import collections
import itertools

import numpy as np
import torch

import draw
import pictures
from sampler import Painter

NAMES, TABLE = list(draw.COLOURS), np.array(list(draw.COLOURS.values()), np.float32)
CELL_WORDS = {(0, 0): "in the top left", (1, 0): "at the top", (2, 0): "in the top right", (0, 1): "on the left",
              (1, 1): "in the center", (2, 1): "on the right", (0, 2): "in the bottom left", (1, 2): "at the bottom",
              (2, 2): "in the bottom right"}
RELATION_WORDS = {"left": "left of", "right": "right of", "above": "above", "below": "below"}


def nearest_colours(image):
    """Index of the nearest named colour of each pixel."""
    return ((image[..., None, :].astype(np.float32) - TABLE) ** 2).sum(-1).argmin(-1)


def background_of(image):
    """The named colour most frequent along the frame, with the mean colour there."""
    frame = np.concatenate([image[:2].reshape(-1, 3), image[-2:].reshape(-1, 3), image[:, :2].reshape(-1, 3),
                            image[:, -2:].reshape(-1, 3)])
    return NAMES[np.bincount(nearest_colours(frame), minlength=len(NAMES)).argmax()], np.median(frame, 0)


def regions(mask):
    """Connected regions of a mask as masks, largest first, those under 0.3 % of the picture left out."""
    labels = np.where(mask, np.arange(1, mask.size + 1).reshape(mask.shape), 0)
    while True:
        padded, best = np.pad(labels, 1), labels
        for dy, dx in itertools.product(range(3), range(3)):
            best = np.maximum(best, padded[dy:dy + mask.shape[0], dx:dx + mask.shape[1]])
        best = np.where(mask, best, 0)
        if (best == labels).all():
            break
        labels = best
    found = [labels == i for i in np.unique(labels[labels > 0])]
    return sorted((m for m in found if m.mean() > 0.003), key=lambda m: -m.sum())


def describe(image, mask):
    """Colour, shape (best overlap with the shapes fitted to the region's box), centre and half-size of a region."""
    size = len(image)
    ys, xs = np.nonzero(mask)
    x, y = (xs.min() + xs.max() + 1) / 2 / size, (ys.min() + ys.max() + 1) / 2 / size
    half = np.array([xs.max() - xs.min() + 1, ys.max() - ys.min() + 1]) / 2 / size
    overlap = {}
    for shape in draw.SHAPES:
        model_mask = fitted(shape, size, x, y, half)
        overlap[shape] = (model_mask & mask).sum() / (model_mask | mask).sum()
    colour = NAMES[np.bincount(nearest_colours(image[mask]), minlength=len(NAMES)).argmax()]
    return dict(colour=colour, shape=max(overlap, key=overlap.get), x=x, y=y, half=half.max(), fit=max(overlap.values()))


def fitted(shape, size, x, y, half):
    """The shape's pixels when stretched so that its box is the given one."""
    grid = (np.arange(200) + 0.5) / 100 - 1
    v, u = np.nonzero(draw.SHAPES[shape](grid[None, :], grid[:, None]))
    box = grid[u.min()], grid[u.max()], grid[v.min()], grid[v.max()]
    at = (np.arange(size) + 0.5) / size
    u = (at - x) / (2 * half[0]) * (box[1] - box[0]) + (box[0] + box[1]) / 2
    v = (at - y) / (2 * half[1]) * (box[3] - box[2]) + (box[2] + box[3]) / 2
    inside = (np.abs(at - x) <= half[0])[None, :] & (np.abs(at - y) <= half[1])[:, None]
    return draw.SHAPES[shape](u[None, :], v[:, None]) & inside


def objects(image):
    """Background colour and the described regions that differ from it."""
    name, colour = background_of(image)
    mask = np.abs(image.astype(np.float32) - colour).max(-1) > 70
    return name, [describe(image, m) for m in regions(mask)]


def same_cell(thing, cell):
    """Whether a thing's centre is where the cell says: further than 0.07 out of the middle, or within 0.1 of it."""
    ok = lambda at, c: (at < 0.43, abs(at - 0.5) < 0.1, at > 0.57)[c]
    return ok(thing["x"], cell[0]) and ok(thing["y"], cell[1])


def size_of(thing):
    """The size word nearest to a single thing's half-size."""
    return "small" if thing["half"] < 0.165 else "large" if thing["half"] > 0.24 else "medium"


def single_cases(rng, count):
    """Prompts on one thing: (category, prompt, expectation)."""
    for i in range(count):
        shape, colour = list(draw.SHAPES)[i % 8], NAMES[int(rng.integers(10))]
        ground = [n for n in NAMES if n != colour][int(rng.integers(9))]
        cell, size = (int(rng.integers(3)), int(rng.integers(3))), ("small", "large")[int(rng.integers(2))]
        kind = i // 8 % 4
        want = dict(colour=colour, shape=shape)
        if kind == 0:
            yield "plain", f"a {colour} {shape}", want
        elif kind == 1:
            yield "background", f"{colour} {shape}, {ground} background", dict(want, background=ground)
        elif kind == 2:
            yield "position", f"a {colour} {shape} {CELL_WORDS[cell]} on a {ground} background", dict(
                want, cell=cell, background=ground)
        else:
            yield "size", f"a {size} {colour} {shape} {CELL_WORDS[cell]}", dict(want, size=size, cell=cell)


def pair_cases(rng, count):
    """Prompts on two things of different colours."""
    for i in range(count):
        colours = [NAMES[k] for k in rng.permutation(10)[:3]]
        shapes = [list(draw.SHAPES)[int(k)] for k in rng.integers(8, size=2)]
        relation = list(RELATION_WORDS)[i % 4]
        prompt = f"a {colours[0]} {shapes[0]} {RELATION_WORDS[relation]} a {colours[1]} {shapes[1]}"
        ground = None
        if i // 4 % 2:
            ground, prompt = colours[2], prompt + f" on a {colours[2]} background"
        yield "pair", prompt, dict(pair=list(zip(colours, shapes)), relation=relation, background=ground)


def judge(image, want):
    """Names of the expectations checked, each with whether it holds."""
    ground, things = objects(image)
    out = {"background": ground == want["background"]} if want.get("background") else {}
    if "pair" not in want:
        thing = things[0] if things else None
        out["count"] = len(things) == 1
        out["colour"] = bool(thing) and thing["colour"] == want["colour"]
        out["shape"] = bool(thing) and thing["shape"] == want["shape"]
        if "cell" in want:
            out["position"] = bool(thing) and same_cell(thing, want["cell"])
        if "size" in want:
            out["size"] = bool(thing) and size_of(thing) == want["size"]
        return out
    out["count"] = len(things) == 2
    found = [next((t for t in things if t["colour"] == c), None) for c, _ in want["pair"]]
    out["colour"] = all(found)
    out["shape"] = all(t and t["shape"] == s for t, (_, s) in zip(found, want["pair"]))
    axis, sign = ("x" if want["relation"] in ("left", "right") else "y"), (
        1 if want["relation"] in ("left", "above") else -1)
    out["position"] = all(found) and sign * (found[1][axis] - found[0][axis]) > 0.1
    return out


def follow_rates(painter, args):
    """Prints the rate of each check per category and of cases with all checks held; returns the latter's total."""
    rng = np.random.default_rng(args.seed)
    cases = [*single_cases(rng, args.singles), *pair_cases(rng, args.pairs)]
    held, images = collections.defaultdict(list), []
    for i in range(0, len(cases), args.batch):
        group = cases[i:i + args.batch]
        images += list(painter.paint([p for _, p, _ in group], range(i, i + len(group)), cfg=args.cfg,
                                     steps=args.steps, scheduler=args.scheduler, size=args.size))
    for image, (category, prompt, want) in zip(images, cases):
        checks = judge(image, want)
        for name, ok in [*checks.items(), ("all", all(checks.values()))]:
            held[category, name].append(ok)
        if args.verbose and not all(checks.values()):
            print("  missed", [n for n, ok in checks.items() if not ok], "in:", prompt)
    for category in dict.fromkeys(c for c, _ in held):
        print(f"{category:<11}" + "  ".join(f"{n} {100 * np.mean(v):.1f} %" for (c, n), v in held.items()
                                            if c == category) + f"  ({len(held[category, 'all'])} pictures)")
    checks = [ok for (_, n), v in held.items() if n != "all" for ok in v]
    whole = [ok for (_, n), v in held.items() if n == "all" for ok in v]
    print(f"single checks held {100 * np.mean(checks):.1f} %, whole prompts {100 * np.mean(whole):.1f} %")
    if args.sheet:
        pictures.write_png(args.sheet, pictures.sheet(images[:: max(1, len(images) // 60)][:60], 10))
    return np.mean(whole)


def guidance_effects(painter, args):
    """Prints how often the negative prompt takes a colour away, and how far cfg 1 and 7 lie apart."""
    count = args.negatives
    run = lambda prompt, negative, cfg: painter.paint([prompt] * count, range(500, 500 + count), [negative] * count,
                                                      cfg=cfg, steps=args.steps, scheduler=args.scheduler,
                                                      size=args.size)
    colour = lambda images: [t[0]["colour"] if t else "none" for _, t in map(objects, images)]
    for word in ("red", "blue", "yellow"):
        before, after = colour(run("a circle", "", args.cfg)), colour(run("a circle", word, args.cfg))
        print(f"'a circle': {before.count(word)} of {count} {word}; with negative '{word}': {after.count(word)}; "
              f"colour differs in {sum(a != b for a, b in zip(before, after))}")
    low, high = (run("a red star on a blue background", "", c).astype(np.float32) for c in (1, 7))
    rates = [np.mean([all(judge(i, dict(colour="red", shape="star", background="blue")).values())
                      for i in images.astype(np.uint8)]) for images in (low, high)]
    print(f"cfg 1 against 7: mean pixel difference {np.abs(low - high).mean():.1f} of 255, "
          f"followed {100 * rates[0]:.0f} % against {100 * rates[1]:.0f} %")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True)
    parser.add_argument("--vocab", required=True, help="open_clip_torch wheel or its bpe_simple_vocab_16e6.txt.gz")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--scheduler", choices=("normal", "karras"), default="karras")
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--cfg", type=float, default=6.0)
    parser.add_argument("--singles", type=int, default=128)
    parser.add_argument("--pairs", type=int, default=64)
    parser.add_argument("--negatives", type=int, default=24)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--sheet", help="PNG of some of the pictures")
    parser.add_argument("--verbose", action="store_true", help="name every miss")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    painter = Painter(args.model, args.vocab, getattr(torch, args.dtype))
    follow_rates(painter, args)
    if args.negatives:
        guidance_effects(painter, args)


if __name__ == "__main__":
    main()
