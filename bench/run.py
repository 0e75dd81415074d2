#!/usr/bin/env python3
"""Measures Atelier against PyTorch eager, OpenVINO and ATen on the same random weights and inputs.

Engines run as processes and take turns, call by call, so that each meets the same machine. Before anything
is timed their results are compared with eager fp32. Prints a row per measure: for times, errors and memory
ours / peer is good when it is small, for rates when it is large, and each row says which. At the end stands
which bounds (bounds.py) hold. A run of everything without a wrong result writes
bench/results/<date>-<machine>-<isa>.json, a list of the rows of rows.py. The exit code is 1 if a result was
wrong, else 0, whatever the figures are.
"""
import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile

import torch
from safetensors.torch import load_file, save_file

import bounds
import decoders
import flux_run
import quantised
import quantising
import whole_run
from models import write_random
from rows import Rows, cpu_flags
from workers import AS_ATELIER, Worker, WorkerError, environment

HERE = os.path.dirname(os.path.abspath(__file__))
LIMITS = {"fp32": 1e-4, "bf16": 0.08}  # largest relative error of any engine before it counts as wrong

# name, part, inputs, rounds
MODELS = [
    (bounds.UNET, "unet", {"sample": [2, 4, 64, 64], "context": [2, 77, 768]}, 7),
    (bounds.SMALL, "unet", {"sample": [2, 4, 32, 32], "context": [2, 77, 768]}, 9),
    (bounds.VAE, "vae", {"latent": [1, 4, 64, 64]}, 7),
]
PEERS = (("eager", bounds.EAGER), ("openvino", bounds.OPENVINO))


def error(result, reference):
    return ((result - reference).abs().max() / reference.abs().max()).item()


@contextlib.contextmanager
def workers(args, part, shapes, dtype):
    """A process of each engine that holds the part, by engine."""
    peer = [sys.executable, os.path.join(HERE, "peer_worker.py")]
    job = {"part": part, "folder": args.cache, "dtype": dtype, "threads": args.threads,
           "shapes": dict(shapes, timestep=[1])}
    # In a process of its own: what converting takes is no part of what is measured.
    subprocess.run([*peer, "--convert", json.dumps(job)], check=True)
    made = {}
    try:
        for engine, _ in PEERS:
            made[engine] = Worker(engine, peer, environment())
            made[engine].ask(op="load", engine=engine, **job)
        made["atelier"] = Worker("atelier", [os.path.join(args.bin, "bench_worker")], environment(**AS_ATELIER))
        made["atelier"].ask(op="load", **job)
        yield made
    finally:
        for worker in made.values():
            worker.close()


def check(rows, made, title, dtype, folder, reference):
    """Errors by engine, and the reference: eager fp32, which comes first."""
    errors = {}
    for name in ("eager", "openvino", "atelier"):
        out = os.path.join(folder, f"{name}.safetensors")
        made[name].ask(op="run", input=os.path.join(folder, "in.safetensors"), output=out)
        result = load_file(out)["result"].float()
        reference = result if reference is None else reference
        errors[name] = error(result, reference)
        if not errors[name] < LIMITS[dtype]:
            rows.error(f"{title} {dtype}: {name} is wrong by {errors[name]:.2e}")
    return errors, reference


def measure_model(rows, args, title, part, shapes, rounds):
    torch.manual_seed(1)
    inputs = {n: torch.randn(s) for n, s in shapes.items()}
    if part == "unet":
        inputs["timestep"] = torch.tensor([501.0])
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "in.safetensors")
        save_file(inputs, path)
        reference = None
        for dtype in args.dtypes:
            answers = {}
            with workers(args, part, shapes, dtype) as made:
                errors, reference = check(rows, made, title, dtype, folder, reference)
                for _ in range(rounds):
                    for n, worker in made.items():
                        answers.setdefault(n, []).append(worker.ask(op="run", input=path))
            add_rows(rows, title, dtype, errors, answers)


def add_rows(rows, title, dtype, errors, answers):
    seconds = {n: statistics.median(a["seconds"] for a in some) for n, some in answers.items()}
    peak = {n: some[-1]["peak_rss_mb"] for n, some in answers.items()}
    for peer, name in PEERS:
        rows.add(title, "s", "less", seconds["atelier"], seconds[peer], name, dtype,
                 peak_rss_mb=peak["atelier"], peer_peak_rss_mb=peak[peer])
    rows.add(title + bounds.ERROR, "relative", "less", errors["atelier"], errors["openvino"], bounds.OPENVINO, dtype,
             peak_rss_mb=peak["atelier"], peer_peak_rss_mb=peak["openvino"])


def measure_kernels(rows, args):
    command = [os.path.join(args.bin, "kernels_bench"), "--json", "--threads", str(args.threads)]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                          env=environment(**AS_ATELIER))
    if done.returncode:
        return rows.error(done.stderr.strip())
    for line in json.loads(done.stdout):
        if line["dtype"] in args.dtypes:
            rows.add(line["name"], line["unit"], "more", line["ours"], line["peer"], line["peer_name"], line["dtype"],
                     error=line["error"], peer_error=line["peer_error"])


def measure_decoding(rows, args):
    """Every encoding to bf16 against memcpy of the same output, and against decoders in Python."""
    def ours(*options):
        command = [os.path.join(args.bin, "decode_bench"), "--json", "--threads", str(args.threads), *options]
        return {line["name"]: line for line in json.loads(subprocess.run(
            command, check=True, stdout=subprocess.PIPE, text=True, env=environment()).stdout)}
    decoders.check(os.path.join(args.bin, "atelier"))
    for name, line in ours().items():
        rows.add(name, line["unit"], "more", line["ours"], line["peer"], line["peer_name"], line["dtype"])
    for kind, peer, rate in decoders.rates():
        name = f"decode {kind}"
        mine = ours("--only", kind, "--megabytes", str(decoders.ELEMENTS * 2 >> 20))[name]["ours"]
        rows.add(name, "GB/s", "more", mine, rate * 2e-9, peer, "bf16")


def measure_whole_runs(rows, args):
    program, model = os.path.join(args.bin, "atelier"), args.cache + ".safetensors"
    write_random(model, "sd15")
    whole_run.measure(rows, program, model, args.dtypes[-1])
    for dtype in args.dtypes:
        whole_run.same_bytes(rows, program, model, dtype)


def used_isa():
    """As the engine chooses it (src/device/cpu/kernels.h)."""
    flags, known = cpu_flags(), {"amx_bf16": "amx", "avx512f": "avx512"}
    best = known.get(flags[0], flags[0]) if flags else "portable"
    return os.environ.get("ATELIER_CPU_ISA", best)


def measures(args):
    """What there is to measure, by name."""
    for title, part, shapes, rounds in MODELS:
        yield title, lambda rows, a=(title, part, shapes, rounds): measure_model(rows, args, *a)
    yield "attention", lambda rows: measure_kernels(rows, args)
    yield "decode", lambda rows: measure_decoding(rows, args)
    yield "quantised", lambda rows: quantised.measure(rows, args)
    yield "quantise", lambda rows: quantising.measure(rows, os.path.join(args.bin, "atelier"), args.threads,
                                                      os.path.dirname(args.cache))
    yield "FLUX run", lambda rows: flux_run.measure(rows, args)
    yield "whole run", lambda rows: measure_whole_runs(rows, args)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bin", required=True, help="folder of the built programs")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--cache", default=os.path.join(HERE, ".cache", "sd15"),
                        help="folder for the random models; the single file lies beside it")
    parser.add_argument("--only", help="run only the measures whose name contains this; writes no file")
    args = parser.parse_args()
    # Where the processor has no bf16 everyone imitates it, which says nothing.
    args.dtypes = ["fp32", "bf16"] if {"amx_bf16", "avx512_bf16"} & set(cpu_flags()) else ["fp32"]
    torch.set_num_threads(args.threads)
    subprocess.run([sys.executable, os.path.join(HERE, "random_pipeline.py"), args.cache], check=True)
    rows = Rows(args.threads, used_isa())
    rows.head()
    for name, measure in measures(args):
        if not args.only or args.only.lower() in name.lower():
            try:
                measure(rows)
            except (WorkerError, RuntimeError, ValueError, OSError, subprocess.CalledProcessError) as problem:
                rows.error(f"{name}: {problem}")
    bounds.print_verdicts(rows.rows, unmeasured=not args.only)
    if not args.only and not rows.wrong:
        rows.save(os.path.join(HERE, "results"))
    for text in rows.wrong:
        print(f"WRONG: {text}", file=sys.stderr)
    return 1 if rows.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
