"""Steps with quantised weights: prepared, prepared anew at each use, with LoRAs, and changing a LoRA's strength.

Every variant is a process of the engine, and they take turns call by call. Results are compared before anything
is timed: a budget must not change a bit, a quantised model must stay near the floats, LoRAs must give what merged
weights give, and a strength that was changed what it gives a model that never had another.
"""
import os
import statistics
import tempfile

import torch

import bounds
import loras
from loras import FLUX_INPUTS, STRENGTH
from models import write_flux, write_quantised, write_random
from workers import distance, engines, write_inputs

SD_INPUTS = {"sample": [2, 4, 64, 64], "context": [2, 77, 768]}
LORAS = 4
ROUNDS, STRENGTH_ROUNDS = 7, 3


def write_models(args, program):
    """Random models, once, and what `atelier quantize` makes of them now. Paths by name."""
    folder = os.path.dirname(args.cache)
    paths = {name: os.path.join(folder, file) for name, file in (
        ("sd15", "sd15_f16.safetensors"), ("sd15 Q8_0", "sd15_q8_0.gguf"), ("sd15 Q4_K", "sd15_q4_k.gguf"),
        ("flux Q4_K", "flux_q4_k.gguf"))}
    write_random(paths["sd15"], "sd15", "--dtype", "f16")
    paths["flux"] = write_flux(folder, "transformer")
    for source, kind, target in (("sd15", "Q8_0", "sd15 Q8_0"), ("sd15", "Q4_K_S", "sd15 Q4_K"),
                                 ("flux", "Q4_K_S", "flux Q4_K")):
        write_quantised(program, paths[source], paths[target], kind)
    return paths


def timed(made, inputs, rounds=ROUNDS):
    """Median seconds of a call, and the most memory, by engine."""
    answers = {name: [] for name in made}
    for _ in range(rounds):
        for name, worker in made.items():
            answers[name].append(worker.ask(op="run", input=inputs))
    return ({name: statistics.median(a["seconds"] for a in some) for name, some in answers.items()},
            {name: some[-1]["peak_rss_mb"] for name, some in answers.items()})


def step_row(rows, name, seconds, peaks, ours, peer):
    rows.add(name, "s", "less", seconds[ours], seconds[peer], peer, "bf16", peak_rss_mb=peaks[ours],
             peer_peak_rss_mb=peaks[peer])


def measure_encodings(rows, args, paths, folder):
    jobs = {bounds.FLOATS: {"folder": paths["sd15"]}}
    for kind in ("Q8_0", "Q4_K"):
        jobs[kind] = {"folder": paths["sd15 " + kind]}
        jobs[kind + bounds.ANEW] = {"folder": paths["sd15 " + kind], "keep": 0}
    jobs[bounds.INT8] = {"folder": paths["sd15 Q8_0"], "int8": True}
    inputs = write_inputs(folder, SD_INPUTS, timestep=torch.tensor([501.0]))
    with engines(args, jobs) as made:
        if not made[bounds.INT8].loaded["int8_layers"]:  # this processor has no instructions for it
            made.pop(bounds.INT8).close()
            del jobs[bounds.INT8]
        found = {name: worker.result(inputs, folder) for name, worker in made.items()}
        if bounds.INT8 in jobs and not 0 < distance(found[bounds.INT8], found["Q8_0"]) < 0.1:
            rows.error(f"{bounds.INT8} is off by {distance(found[bounds.INT8], found['Q8_0']):.2g}")
        for kind, limit in (("Q8_0", 0.05), ("Q4_K", 0.3)):
            if not distance(found[kind], found[bounds.FLOATS]) < limit:
                rows.error(f"{kind} is far from the floats: {distance(found[kind], found[bounds.FLOATS]):.2g}")
            if not torch.equal(found[kind], found[kind + bounds.ANEW]):
                rows.error(f"{kind} gives other bits when its weights are prepared anew")
        seconds, peaks = timed(made, inputs)
        loaded = {name: worker.loaded for name, worker in made.items()}
        programs = {name: worker.ask(op="run", input=inputs)["program_mb"] for name, worker in made.items()}
    for name in jobs:
        if name != bounds.FLOATS:
            step_row(rows, f"{bounds.UNET} {name}", seconds, peaks, name, bounds.FLOATS)
        if name.endswith(bounds.ANEW):
            rows.add(f"{bounds.UNET} {name}: peak memory", "MB", "less", peaks[name] - programs[name],
                     loaded[name]["streaming_mb"], bounds.STREAMING, "bf16")
    if bounds.INT8 in jobs:
        rows.add(f"{bounds.UNET} {bounds.INT8}: difference from Q8_0", "relative", "less",
                 distance(found[bounds.INT8], found["Q8_0"]), None, "none", "bf16")


def measure_loras(rows, args, paths, folder):
    loras.check_values(rows, args, LORAS)
    for names in (loras.ORIGINAL, loras.DIFFUSERS):
        time_loras(rows, args, paths, folder, names)


def time_loras(rows, args, paths, folder, names):
    files = loras.write_loras(paths["flux"], folder, LORAS, names)
    one, all_of_them = loras.title_of(1, names), loras.title_of(LORAS, names)
    jobs = {name: {"folder": paths["flux Q4_K"]} for name in (bounds.NO_LORA, one, all_of_them)}
    inputs = write_inputs(folder, FLUX_INPUTS, timestep=torch.tensor([0.5]), guidance=torch.tensor([3.5]))
    with engines(args, jobs) as made:
        for name, count in ((one, 1), (all_of_them, LORAS)):
            made[name].ask(op="loras", files=files[:count])
        found = {name: worker.result(inputs, folder) for name, worker in made.items()}
        for name in list(jobs)[1:]:
            if not 1e-3 < distance(found[name], found[bounds.NO_LORA]) < 2:
                rows.error(f"{name}: changes the result by {distance(found[name], found[bounds.NO_LORA]):.2g}")
        seconds, peaks = timed(made, inputs, 2 * ROUNDS)
    for name in list(jobs)[1:]:
        step_row(rows, f"{bounds.FLUX_STEP} {name}", seconds, peaks, name, bounds.NO_LORA)


def measure_strength(rows, args, paths, folder):
    files = loras.write_loras(paths["sd15"], folder, 1)
    inputs = write_inputs(folder, SD_INPUTS, timestep=torch.tensor([501.0]))

    def result(worker, strength):
        worker.ask(op="loras", files=files, strength=strength)
        return worker.result(inputs, folder)
    with engines(args, {"fp16": {"folder": paths["sd15"]}}) as made:
        wanted = result(made["fp16"], STRENGTH)
    with engines(args, {"fp16": {"folder": paths["sd15"]}}) as made:
        worker = made["fp16"]
        before, after = result(worker, 1.0), result(worker, STRENGTH)
        if not torch.equal(after, wanted):
            rows.error("another LoRA strength gives other bits than the same strength from the start")
        if not distance(after, before) > 1e-3:
            rows.error(f"another LoRA strength changes the result by {distance(after, before):.2g}")
        answers = [worker.ask(op="loras", files=files, strength=STRENGTH - 0.1 * (i + 1))
                   for i in range(STRENGTH_ROUNDS)]
    rows.add(bounds.STRENGTH, "s", "less", statistics.median(a["seconds"] for a in answers), None, "none", "bf16",
             peak_rss_mb=answers[-1]["peak_rss_mb"])


def measure(rows, args):
    if "bf16" not in args.dtypes:
        return
    paths = write_models(args, os.path.join(args.bin, "atelier"))
    for part in (measure_encodings, measure_loras, measure_strength):
        with tempfile.TemporaryDirectory() as folder:
            part(rows, args, paths, folder)
