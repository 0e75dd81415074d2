#!/usr/bin/env python3
"""Draws the same prompts with the demo model in several types, for docs/quantisation.md.

  compare_types.py PROGRAM [FOLDER]

Writes FOLDER/<type>.png (docs/quantisation without one), a contact sheet each, and prints a table: the
denoiser's size, the error of its weights, how far the pictures are from those of the file in fp16 (mean
absolute difference of 255), and the time of a step over that of fp16, the median of three runs that take
turns. Needs nothing but Python.
"""
import pathlib
import statistics
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT / "tests/cli"))
import harness  # noqa: E402

MODEL = ROOT / "models/demo/atelier-demo.safetensors"
TYPES = ("F16", "Q8_0", "fp8", "Q4_K_M", "Q4_0")
PROMPTS = ("a red circle", "a yellow star on a blue background", "a purple heart on a pink background",
           "a small green triangle in the top left on a white background",
           "a white ring in the bottom right on a black background",
           "a red triangle left of a blue circle on a white background")
ROUNDS = 3


def run(*words):
    result = harness.atelier(*words, "--json", "--overwrite", timeout=1200)
    if result.code != 0:
        sys.exit(result.err)
    return result


def write(kind, folder):
    """(file, the `quantized` event) of the demo model in a type; the file itself is fp16."""
    if kind == "F16":
        return MODEL, None
    file = folder / f"demo-{kind}.{'safetensors' if kind == 'fp8' else 'gguf'}"
    return file, run("quantize", MODEL, file, "--type", kind).event("quantized")


def draw(file, sheet, folder):
    asked = [word for prompt in PROMPTS for word in ("--prompt", prompt)]
    result = run("generate", "--model", file, *asked, "--seed", 1, "--steps", 20, "--out",
                 folder / "{index}.png", "--sheet", sheet)
    return harness.Png(sheet), result.event("done")["seconds_per_step"]


def main(program, target=ROOT / "docs/quantisation"):
    harness.BIN = program
    target = pathlib.Path(target)
    target.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        files = {kind: write(kind, folder) for kind in TYPES}
        pictures, seconds = {}, {kind: [] for kind in TYPES}
        for _ in range(ROUNDS):
            for kind, (file, _) in files.items():
                pictures[kind], took = draw(file, target / f"{kind}.png", folder)
                seconds[kind].append(took)
        whole = MODEL.stat().st_size
        print("| type | file, MiB | rmse of its weights | cosine | difference of the pictures | step |")
        print("|---|---|---|---|---|---|")
        usual = statistics.median(seconds["F16"])
        for kind, (file, told) in files.items():
            size = (whole if told is None else file.stat().st_size) / 2**20
            errors = ("-", "-") if told is None else (f"{told['rmse']:.2g}", f"{told['cosine']:.5f}")
            apart = pictures[kind].difference(pictures["F16"])
            print(f"| {kind} | {size:.1f} | {' | '.join(errors)} | {apart:.2f} | "
                  f"{statistics.median(seconds[kind]) / usual:.2f} |")


if __name__ == "__main__":
    if len(sys.argv) not in (2, 3):
        sys.exit(__doc__)
    main(*sys.argv[1:])
