"""Engines as processes that are spoken to in JSON lines, so that they can take turns."""
import json
import os
import subprocess

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

    def close(self):
        """Ends the process; one that does not react to the end of its input is killed."""
        try:
            self.process.communicate(timeout=30)
        except (subprocess.TimeoutExpired, BrokenPipeError):
            self.process.kill()
            self.process.wait()
