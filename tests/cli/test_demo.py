#!/usr/bin/env python3
"""Prompt following of the demo model, by pixel statistics of a grid of prompts and seeds.

  test_demo.py [TYPE]   as it is, or as `atelier quantize --type TYPE` makes it

The judge is tools/demo_model/evaluate.py, the same that watched the training; it needs numpy and torch,
so this runs with the Python of .venv. Without them, or without the model, it says so and counts as skipped.
"""
import sys
import tempfile

from harness import ROOT, Png, atelier

SKIPPED = 77
MODEL = ROOT / "models/demo/atelier-demo.safetensors"
SEEDS, STEPS, CFG = 2, 16, 6
LEAST = {"Q4_K_M": 0.70, "Q4_0": 0.70}  # share of checks of each kind that must hold, of types that lose some
USUAL_LEAST = 0.80

try:
    import numpy as np
    sys.path.insert(0, str(ROOT / "tools/demo_model"))
    import evaluate
except ImportError as missing:
    print(f"skipped: {missing}")
    sys.exit(SKIPPED)
if not MODEL.exists():
    print(f"skipped: {MODEL} does not exist")
    sys.exit(SKIPPED)


def pixels(path):
    """A PNG written by the command as (height, width, 3) uint8."""
    picture = Png(path)
    return np.frombuffer(b"".join(picture.rows), np.uint8).reshape(picture.height, picture.width, 3)


def quantised(kind, folder):
    """The demo model in another type."""
    path = f"{folder}/demo.{'safetensors' if kind.startswith('fp8') else 'gguf'}"
    result = atelier("quantize", MODEL, path, "--type", kind, "--json")
    assert result.code == 0, result.err
    done = result.event("quantized")
    print(f"     {kind}: {done['to_bytes'] >> 10} of {done['from_bytes'] >> 10} KiB, cosine {done['cosine']:.5f}")
    return path


def draw(model, prompts, *words, cfg=CFG, seeds=SEEDS):
    """Pictures by prompt: `seeds` of each, drawn as one batch."""
    with tempfile.TemporaryDirectory() as folder:
        asked = [word for prompt in prompts for word in ("--prompt", prompt)]
        result = atelier("generate", "--model", model, *asked, "--steps", STEPS, "--cfg", cfg, "--seed", 1,
                         "--batch", seeds, "--out", f"{folder}/{{index}}.png", "--json", *words, timeout=1200)
        assert result.code == 0, result.err
        pictures = [pixels(path) for path in result.event("done")["images"]]
    return [pictures[i:i + seeds] for i in range(0, len(pictures), seeds)]


def colours(pictures):
    """The colour of the largest thing in each picture."""
    things = [evaluate.objects(picture)[1] for picture in pictures]
    return [found[0]["colour"] if found else "none" for found in things]


class Report:
    """Prints each figure with the bound it must keep; `failed` counts those that do not."""

    def __init__(self, least):
        self.failed, self.least = 0, least

    def share(self, name, held, least):
        share = sum(held) / len(held)
        good = share >= least
        self.failed += not good
        print(f"{'ok  ' if good else 'FAIL'} {name:<44} {100 * share:5.1f} % of {len(held)}, at least {100 * least:.0f} %")


def follow_prompts(report, model):
    """Colour, shape and position of single things and pairs."""
    rng = np.random.default_rng(11)
    cases = [*evaluate.single_cases(rng, 32), *evaluate.pair_cases(rng, 8)]
    held = {}
    for (_, _, want), pictures in zip(cases, draw(model, [prompt for _, prompt, _ in cases])):
        for picture in pictures:
            for check, good in evaluate.judge(picture, want).items():
                held.setdefault(check, []).append(good)
    for check in ("colour", "shape", "position"):
        report.share(f"{check} follows the prompt", held[check], report.least)


def negative_prompt(report, model):
    """A colour in the negative prompt is drawn less often."""
    plain = colours(draw(model, ["a circle"], seeds=16)[0])
    word = max(set(plain) - {"none"}, key=plain.count)
    without = colours(draw(model, ["a circle"], "--negative", word, seeds=16)[0])
    print(f"     'a circle' is {word} {plain.count(word)} times of 16, {without.count(word)} with it as negative prompt")
    report.share("the negative prompt takes its colour away", [c != word for c in without],
                 1 - 0.5 * plain.count(word) / 16)


def guidance(report, model):
    """A higher cfg follows the prompt at least as well, and changes the picture."""
    want = dict(colour="red", shape="star", background="blue")
    low, high = (draw(model, ["a red star on a blue background"], cfg=cfg, seeds=12)[0] for cfg in (1, 7))
    follows = [[all(evaluate.judge(p, want).values()) for p in pictures] for pictures in (low, high)]
    report.share("cfg 7 follows the prompt", follows[1], max(report.least, sum(follows[0]) / 12))
    distance = [float(np.abs(a.astype(float) - b).mean()) for a, b in zip(low, high)]
    report.share("cfg 1 and cfg 7 differ by more than 2 of 255", [d > 2 for d in distance], 0.9)


def main(kind=None):
    report = Report(LEAST.get(kind, USUAL_LEAST))
    with tempfile.TemporaryDirectory() as folder:
        model = quantised(kind, folder) if kind else MODEL
        for part in (follow_prompts, negative_prompt, guidance):
            part(report, model)
    return 1 if report.failed else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
