"""Files with random weights, and what our own quantiser makes of them."""
import os
import subprocess
import sys

from workers import environment

FLUX_DEPTH = "2,4,3"  # double blocks, single blocks, layers of T5; at real widths
ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def write_random(path, kind, *words):
    """Writes a model with random weights (tools/random_model.py), unless it is there."""
    if not os.path.exists(path):
        os.makedirs(os.path.dirname(path), exist_ok=True)
        subprocess.run([sys.executable, os.path.join(ROOT, "tools", "random_model.py"), kind, path, *words], check=True,
                       stdout=subprocess.DEVNULL)


def write_flux(folder, part):
    """The path of a part of a FLUX.1 of FLUX_DEPTH in bf16, which is written unless it is there."""
    path = os.path.join(folder, f"flux_{part}_bf16.safetensors")
    write_random(path, "flux", "--dtype", "bf16", "--depth", FLUX_DEPTH, "--part", part)
    return path


def write_quantised(program, source, path, kind):
    """Writes `source` in another encoding, anew each time: what an older program wrote says nothing of this one."""
    subprocess.run([program, "quantize", source, path, "--type", kind, "--overwrite", "--json"], check=True,
                   stdout=subprocess.DEVNULL, env=environment())
