"""Files with random weights, and what our own quantiser makes of them."""
import os
import subprocess
import sys

from workers import environment

RANDOM_MODEL = os.path.join(os.path.dirname(os.path.abspath(__file__)), os.pardir, "tools", "random_model.py")


def write_random(path, kind, *words):
    """Writes a model with random weights (tools/random_model.py), unless it is there."""
    if not os.path.exists(path):
        os.makedirs(os.path.dirname(path), exist_ok=True)
        subprocess.run([sys.executable, RANDOM_MODEL, kind, path, *words], check=True, stdout=subprocess.DEVNULL)


def write_quantised(program, source, path, kind):
    """Writes `source` in another encoding, anew each time: what an older program wrote says nothing of this one."""
    subprocess.run([program, "quantize", source, path, "--type", kind, "--overwrite", "--json"], check=True,
                   stdout=subprocess.DEVNULL, env=environment())
