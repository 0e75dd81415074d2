"""Engines as processes that are spoken to in JSON lines, so that they can take turns."""
import contextlib
import json
import os
import subprocess

import torch
from safetensors.torch import load_file, save_file

# The variables by which users and the atelier command tell OpenMP how its threads wait.
OPENMP = ("OMP_NUM_THREADS", "OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")
# What the atelier command sets for itself (src/app/engine_loader.cpp).
AS_ATELIER = {"GOMP_SPINCOUNT": "10000"}


def environment(**more):
    """This process's environment without OpenMP settings, so that every engine has its own defaults."""
    env = {name: value for name, value in os.environ.items() if name not in OPENMP}
    env.update(more)
    return env


class WorkerError(Exception):
    """A worker answered with an error, or not at all."""


class Worker:
    def __init__(self, name, command, env):
        self.name = name
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env)

    def ask(self, **job):
        self.process.stdin.write(json.dumps(job) + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        if not answer:
            raise WorkerError(f"{self.name} ended on {job}")
        answer = json.loads(answer)
        if "error" in answer:
            raise WorkerError(f"{self.name}: {answer['error']}")
        return answer

    def result(self, inputs, folder):
        """What a call gives."""
        path = os.path.join(folder, "out.safetensors")
        self.ask(op="run", input=inputs, output=path)
        return load_file(path)["result"]

    def close(self):
        """Ends the process; one that does not react to the end of its input is killed."""
        try:
            self.process.communicate(timeout=30)
        except (subprocess.TimeoutExpired, BrokenPipeError):
            self.process.kill()
            self.process.wait()


@contextlib.contextmanager
def engines(args, jobs):
    """Processes of our engine by name, each with its denoiser loaded, in bf16 unless the job says otherwise."""
    made = {}
    try:
        for name, job in jobs.items():
            made[name] = Worker(name, [os.path.join(args.bin, "bench_worker")], environment(**AS_ATELIER))
            made[name].loaded = made[name].ask(**{"op": "load", "part": "unet", "dtype": "bf16",
                                                  "threads": args.threads, **job})
        yield made
    finally:
        for worker in made.values():
            worker.close()


def write_inputs(folder, shapes, **more):
    """A file of normal numbers in these shapes, and of the tensors given as they are."""
    generator = torch.Generator().manual_seed(2)
    path = os.path.join(folder, "in.safetensors")
    save_file({**{name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}, **more}, path)
    return path


def distance(a, b):
    return ((a - b).norm() / b.norm()).item()
