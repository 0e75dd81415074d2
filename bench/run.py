#!/usr/bin/env python3
"""Measures Atelier against PyTorch eager and OpenVINO on the same random weights and inputs.

Engines run as processes and take turns, call by call, so that each meets the same machine. Before
anything is timed their results are compared with eager fp32; a wrong result ends the run. Prints a
table and writes bench/results/<date>-<machine>.json, a list of {name, unit, ours, peer, peer_name,
ratio, threads, dtype, machine, date}.
"""
import argparse
import datetime
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile

import torch
from safetensors.torch import load_file, save_file

import random_pipeline

HERE = os.path.dirname(os.path.abspath(__file__))
LIMIT = 0.08  # largest relative error of any engine before a result counts as wrong

# name, part, inputs, dtypes, rounds
MODELS = [
    ("UNet SD1.5 512x512 CFG", "unet", {"sample": [2, 4, 64, 64], "context": [2, 77, 768]}, 7),
    ("UNet SD1.5 256x256 CFG", "unet", {"sample": [2, 4, 32, 32], "context": [2, 77, 768]}, 9),
    ("VAE decode 512x512", "vae", {"latent": [1, 4, 64, 64]}, 7),
]


class Worker:
    """An engine in a process of its own, spoken to in JSON lines."""

    def __init__(self, name, command, threads):
        env = dict(os.environ, OMP_NUM_THREADS=str(threads), OMP_WAIT_POLICY="passive",
                   KMP_BLOCKTIME="0")
        env.pop("OPENBLAS_CORETYPE", None)
        self.name = name
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        text=True, env=env)

    def ask(self, **job):
        self.process.stdin.write(json.dumps(job) + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        if not answer:
            raise SystemExit(f"{self.name} died on {job}")
        answer = json.loads(answer)
        if "error" in answer:
            raise SystemExit(f"{self.name}: {answer['error']}")
        return answer

    def close(self):
        self.process.stdin.close()
        self.process.wait()


def machine():
    model = next((line.split(":", 1)[1].strip() for line in open("/proc/cpuinfo")
                  if line.startswith("model name")), platform.machine())
    flags = next((line for line in open("/proc/cpuinfo") if line.startswith("flags")), "")
    isa = [f for f in ("amx_bf16", "avx512_bf16", "avx512f", "avx2") if f" {f} " in flags + " "]
    return f"{model} ({isa[0] if isa else 'baseline'}, {os.cpu_count()} cores)"


def error(result, reference):
    return ((result - reference).abs().max() / reference.abs().max()).item()


class Bench:
    def __init__(self, args):
        self.args = args
        self.rows = []
        self.when = datetime.date.today().isoformat()
        self.machine = machine()

    def row(self, name, unit, ours, peer, peer_name, dtype):
        self.rows.append({"name": name, "unit": unit, "ours": ours, "peer": peer,
                          "peer_name": peer_name, "ratio": ours / peer if peer else None,
                          "threads": self.args.threads, "dtype": dtype, "machine": self.machine,
                          "date": self.when})
        ratio = f"{ours / peer:6.3f}" if peer else "     -"
        print(f"{name:44} {dtype:5} {ours:10.4g} {peer if peer else float('nan'):10.4g} {unit:8} "
              f"{ratio}  {peer_name}", flush=True)

    def workers(self, part, shapes, dtype):
        python, peer = sys.executable, os.path.join(HERE, "peer_worker.py")
        made = {"atelier": Worker("atelier", [os.path.join(self.args.bin, "bench_worker")],
                                  self.args.threads)}
        for engine in ("eager", "openvino"):
            made[engine] = Worker(engine, [python, peer], self.args.threads)
        for name, worker in made.items():
            worker.ask(op="load", engine=name, part=part, folder=self.args.cache, dtype=dtype,
                       threads=self.args.threads, shapes=dict(shapes, timestep=[1]))
        return made

    def model(self, name, part, shapes, rounds):
        torch.manual_seed(1)
        inputs = {n: torch.randn(s) for n, s in shapes.items()}
        if part == "unet":
            inputs["timestep"] = torch.tensor([501.0])
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "in.safetensors")
            save_file(inputs, path)
            reference = None
            for dtype in ("fp32", "bf16"):
                made = self.workers(part, shapes, dtype)
                errors, times = {}, {n: [] for n in made}
                for n in ("eager", "openvino", "atelier"):
                    out = os.path.join(folder, f"{n}.safetensors")
                    made[n].ask(op="run", input=path, output=out)
                    result = load_file(out)["result"].float()
                    if reference is None:
                        reference = result  # eager fp32 comes first
                    errors[n] = error(result, reference)
                    if not errors[n] < (LIMIT if dtype == "bf16" else 1e-4):
                        raise SystemExit(f"{name} {dtype}: {n} is wrong by {errors[n]:.2e}")
                for _ in range(rounds):
                    for n, worker in made.items():
                        times[n].append(worker.ask(op="run", input=path)["seconds"])
                for worker in made.values():
                    worker.close()
                middle = {n: statistics.median(t) for n, t in times.items()}
                for peer, title in (("eager", "PyTorch eager"), ("openvino", "OpenVINO")):
                    self.row(name, "s", middle["atelier"], middle[peer], title, dtype)
                self.row(f"{name}: error against fp32", "relative", errors["atelier"],
                         errors["openvino"], "OpenVINO", dtype)

    def kernels(self):
        out = subprocess.run([os.path.join(self.args.bin, "kernels_bench"), "--json",
                              "--threads", str(self.args.threads)],
                             check=True, stdout=subprocess.PIPE, text=True).stdout
        for line in json.loads(out):
            self.row(line["name"], line["unit"], line["ours"], line["peer"], line["peer_name"],
                     line["dtype"])

    def save(self):
        folder = os.path.join(HERE, "results")
        os.makedirs(folder, exist_ok=True)
        label = "".join(c if c.isalnum() else "-" for c in self.machine.split("(")[0].strip().lower())
        path = os.path.join(folder, f"{self.when}-{label.strip('-')}.json")
        with open(path, "w") as file:
            json.dump(self.rows, file, indent=1)
            file.write("\n")
        print(f"written: {os.path.relpath(path)}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bin", required=True, help="folder of the built programs")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--cache", default=os.path.join(HERE, ".cache", "sd15"))
    parser.add_argument("--only", help="run only the measures whose name contains this")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    random_pipeline.write(args.cache)
    bench = Bench(args)
    wanted = lambda name: not args.only or args.only.lower() in name.lower()
    print(f"{bench.machine}, {args.threads} threads, {bench.when}")
    for name, part, shapes, rounds in MODELS:
        if wanted(name):
            bench.model(name, part, shapes, rounds)
    if wanted("attention"):
        bench.kernels()
    if not args.only:
        bench.save()


if __name__ == "__main__":
    main()
