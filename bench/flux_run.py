"""Whole FLUX.1 pictures through `atelier generate`: CLIP-L, T5 in Q8_0, blocks in Q4_K_M, VAE; without and with LoRAs.

Widths are those of the model and weights random. Runs without LoRAs, with them and with them in little memory take
turns. Files must be the same in all runs of a kind, other ones with LoRAs than without, and the same in little memory.
"""
import os
import statistics
import tempfile

import bounds
from loras import write_loras
from models import ROOT, write_flux, write_quantised
from whole_run import Run

STRENGTHS = (0.8, 0.5)
STEPS, ROUNDS = 5, 3
RAM = "2500MiB"
PLAIN, LORAS = bounds.NO_LORA, f"{len(STRENGTHS)} LoRAs"
SMALL = f"{LORAS}, --ram {RAM}"


def write_files(program, cache, folder):
    """The words that name the model's files, and those that name its LoRAs."""
    transformer, t5 = (os.path.join(folder, name) for name in ("q4_k_m.gguf", "t5_q8_0.gguf"))
    write_quantised(program, write_flux(cache, "transformer"), transformer, "Q4_K_M")
    write_quantised(program, write_flux(cache, "t5"), t5, "Q8_0")
    loras = write_loras(write_flux(cache, "transformer"), folder, len(STRENGTHS))
    files = ["--unet", transformer, "--clip-l", write_flux(cache, "clip-l"), "--t5", t5, "--t5-tokenizer",
             os.path.join(ROOT, "tests", "golden", "t5", "spiece.model"), "--vae", write_flux(cache, "vae")]
    return files, [word for file, strength in zip(loras, STRENGTHS) for word in ("--lora", f"{file}:{strength}")]


def measure(rows, args):
    if "bf16" not in args.dtypes:
        return
    program, cache = os.path.join(args.bin, "atelier"), os.path.dirname(args.cache)
    with tempfile.TemporaryDirectory(dir=cache) as folder:
        files, loras = write_files(program, cache, folder)
        words = {PLAIN: [], LORAS: loras, SMALL: [*loras, "--ram", RAM]}
        runs = {kind: [] for kind in words}
        for _ in range(ROUNDS):
            for kind, more in words.items():
                runs[kind].append(Run(program, files, folder, "--width", 512, "--height", 512, "--steps", STEPS,
                                      "--dtype", "bf16", "--threads", args.threads, *more))
    add_rows(rows, runs)


def add_rows(rows, runs):
    digests = {kind: some[0].digest for kind, some in runs.items()}
    for kind, some in runs.items():
        if any(run.digest != digests[kind] for run in some):
            rows.error(f"{bounds.FLUX_RUN}, {kind}: runs differ")
    if any(a == b for a, b in zip(digests[PLAIN], digests[LORAS])):
        rows.error(f"{bounds.FLUX_RUN}: LoRAs change nothing")
    equal = sum(a == b for a, b in zip(digests[LORAS], digests[SMALL]))
    if equal != len(digests[SMALL]):
        rows.error(f"{bounds.FLUX_RUN}, {SMALL}: only {equal} of {len(digests[SMALL])} files are as without --ram")
    rows.add(f"{bounds.FLUX_RUN}, --ram {RAM}: files equal", "files", "more", equal, len(digests[SMALL]), "all", "bf16")
    seconds = {kind: statistics.median(run.event("done")["seconds_per_step"] for run in some)
               for kind, some in runs.items()}
    peaks = {kind: max(run.peak for run in some) / 1e6 for kind, some in runs.items()}
    for kind, peer in ((LORAS, PLAIN), (SMALL, LORAS)):
        rows.add(f"{bounds.FLUX_RUN}, {kind}: step", "s", "less", seconds[kind], seconds[peer], peer, "bf16",
                 peak_rss_mb=peaks[kind], peer_peak_rss_mb=peaks[peer])
