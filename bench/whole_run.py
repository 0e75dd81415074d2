"""Whole runs of the `atelier generate` program on a file with random weights, seen from outside.

The file has Stable Diffusion 1.5's tensors in fp16 (2.1 GB, tools/random_model.py) and lies in the page
cache when a run begins. Measured are the time from the start of the process to the `start` event, the
share of a step that is not spent in the model, and the most memory the process ever had: VmHWM, read from
outside while it runs, which counts the pages of mapped files, too.
"""
import hashlib
import json
import math
import os
import statistics
import struct
import subprocess
import tempfile
import threading
import time

from bounds import LARGEST, WEIGHTS
from workers import environment

PROMPT = "a lighthouse on a cliff above the sea, evening light"
# What a run without an init image needs of the file: text encoder, UNet, decoder.
PARTS = [("cond_stage_model.",), ("model.diffusion_model.",),
         ("first_stage_model.decoder.", "first_stage_model.post_quant_conv.")]
ELEMENT = {"bf16": 2, "fp32": 4}
STEPS, RUNS = 4, 3


def into_page_cache(path):
    with open(path, "rb", buffering=0) as file:
        buffer = bytearray(1 << 24)
        while file.readinto(buffer):
            pass


def weight_elements(path):
    """Elements of the tensors a run needs, by part, from the file's header."""
    with open(path, "rb") as file:
        header = json.loads(file.read(struct.unpack("<Q", file.read(8))[0]))
    return [sum(math.prod(row["shape"]) for name, row in header.items() if name.startswith(part)) for part in PARTS]


class Run:
    """One finished process: its events with the seconds since it was started, files and peak memory."""

    def __init__(self, program, files, folder, *words):
        picture, latent = os.path.join(folder, "picture.png"), os.path.join(folder, "latent.safetensors")
        command = [program, "generate", *files, "--prompt", PROMPT, "--seed", "1", "--json", "--overwrite",
                   "--out", picture, "--save-latent", latent, *map(str, words)]
        self.events, self.peak = [], 0
        begin = time.perf_counter()
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment())
        watcher = threading.Thread(target=self.watch, args=(process,))
        watcher.start()
        for line in process.stdout:
            self.events.append((time.perf_counter() - begin, json.loads(line)))
        self.code = process.wait()
        watcher.join()
        process.stdout.close()
        if self.code:
            raise RuntimeError(f"{' '.join(command)}: exit code {self.code}")
        self.digest = [self.hash(self.event("image")["file"]), self.hash(self.event("latent")["file"])]

    def watch(self, process):
        # Names of the process change once it is gone: the loop ends then.
        while process.poll() is None:
            try:
                with open(f"/proc/{process.pid}/status") as file:
                    for line in file:
                        if line.startswith("VmHWM:"):
                            self.peak = max(self.peak, int(line.split()[1]) * 1024)
            except OSError:
                return
            time.sleep(0.01)

    @staticmethod
    def hash(path):
        with open(path, "rb") as file:
            return hashlib.sha256(file.read()).hexdigest()

    def at(self, kind):
        return next((seconds, event) for seconds, event in self.events if event["event"] == kind)

    def event(self, kind):
        return self.at(kind)[1]

    def step_seconds(self):
        return statistics.mean(e["seconds"] for _, e in self.events if e["event"] == "step")


def measure(rows, program, model, dtype):
    """Memory, start and overhead of a 512x512 picture, guided, in `dtype`."""
    name, threads = "whole run 512x512", rows.common["threads"]
    with tempfile.TemporaryDirectory() as folder:
        runs = []
        for _ in range(RUNS):
            into_page_cache(model)
            runs.append(Run(program, ["--model", model], folder, "--width", 512, "--height", 512, "--steps", STEPS,
                            "--cfg", 7, "--dtype", dtype, "--threads", threads))
    if any(r.digest != runs[0].digest for r in runs):
        rows.error(f"{name} {dtype}: runs differ")
    done = [r.event("done") for r in runs]
    peak = max(r.peak for r in runs)
    told = max(d["peak_memory"] for d in done)
    if abs(told - peak) > 0.02 * peak:
        rows.error(f"{name} {dtype}: the program says {told} bytes at most, the kernel {peak}")
    # Predicted by the models themselves: the step's or the decoder's, whichever is more.
    activations = runs[0].event("plan")["memory"]["activations"]
    # Parts follow one another, so all weights are more than ever lies in memory at once.
    for base_name, elements in ((WEIGHTS, sum(weight_elements(model))), (LARGEST, max(weight_elements(model)))):
        base = elements * ELEMENT[dtype] + activations
        rows.add(f"{name}: peak memory", "MB", "less", peak / 1e6, base / 1e6, base_name, dtype,
                 peak_rss_mb=peak / 1e6)
    rows.add(f"{name}: start to first step", "s", "less", statistics.median(r.at("start")[0] for r in runs), None,
             "none", dtype, peak_rss_mb=peak / 1e6)
    rows.add(f"{name}: outside denoise() per step", "s", "less",
             statistics.median(d["seconds_outside_steps"] for d in done),
             statistics.median(r.step_seconds() for r in runs), "whole step", dtype, peak_rss_mb=peak / 1e6)


def same_bytes(rows, program, model, dtype):
    """Runs with 2, 2 and 1 threads must write the same latents and pictures."""
    name = "whole run 256x256: files equal for 2, 2 and 1 threads"
    with tempfile.TemporaryDirectory() as folder:
        digests = [Run(program, ["--model", model], folder, "--width", 256, "--height", 256, "--steps", 2,
                       "--cfg", 7, "--dtype", dtype, "--threads", threads).digest for threads in (2, 2, 1)]
    files = [digest for run in digests for digest in run]
    equal = sum(digest == digests[0][i % 2] for i, digest in enumerate(files))
    rows.add(name, "files", "more", equal, len(files), "all", dtype)
    if equal != len(files):
        rows.error(f"{name} {dtype}: only {equal} of {len(files)} do")
