"""`atelier quantize` of a file of 2 GB against reading its bytes and writing as many as come of them."""
import json
import math
import os
import statistics
import struct
import subprocess
import time

import numpy as np

from workers import environment

NAME, PEER = "quantise 2 GB fp16 to Q4_K", "reading and writing the bytes"
SHAPE, COUNT = (4096, 8192), 30
PIECE = 16 << 20
ROUNDS = 3


def write_model(path):
    """Thirty fp16 matrices of normal numbers under names that no rule keeps as they are."""
    size = 2 * math.prod(SHAPE)
    if os.path.exists(path) and os.path.getsize(path) > COUNT * size:
        return
    header = {f"blocks.{i}.weight": {"dtype": "F16", "shape": SHAPE, "data_offsets": [i * size, (i + 1) * size]}
              for i in range(COUNT)}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    random = np.random.default_rng(1)
    with open(path + ".part", "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for _ in range(COUNT):
            file.write(random.normal(0, 0.02, SHAPE).astype(np.float16).tobytes())
    os.replace(path + ".part", path)


def forget(path):
    """Leaves none of the file's pages in memory."""
    with open(path, "rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def quantise(program, threads, source, out):
    """Seconds, from opening the file to the written one's having its name."""
    words = [program, "quantize", source, out, "--type", "Q4_K_S", "--threads", str(threads), "--overwrite", "--json"]
    lines = subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True, env=environment()).stdout.splitlines()
    done = json.loads(lines[-1])
    if done["event"] != "quantized" or not 0.99 < done["cosine"] < 1:
        raise ValueError(f"quantising gave {done}")
    return done["seconds"]


def read_and_write(source, out, size):
    """Seconds to read all of one file and to write and flush `size` bytes to another."""
    buffer, begin = bytearray(PIECE), time.perf_counter()
    with open(source, "rb", buffering=0) as file:
        while file.readinto(buffer):
            pass
    with open(out, "wb", buffering=0) as file:
        for at in range(0, size, PIECE):
            file.write(memoryview(buffer)[:min(PIECE, size - at)])
        os.fsync(file.fileno())
    return time.perf_counter() - begin


def measure(rows, program, threads, folder):
    source, out, copy = (os.path.join(folder, name) for name in ("fp16.safetensors", "q4_k.gguf", "copy"))
    write_model(source)
    ours, peer = [], []
    try:
        for _ in range(ROUNDS):
            forget(source)
            ours.append(quantise(program, threads, source, out))
            forget(source)
            peer.append(read_and_write(source, copy, os.path.getsize(out)))
    finally:
        for path in (out, copy):
            if os.path.exists(path):
                os.remove(path)
    rows.add(NAME, "s", "less", statistics.median(ours), statistics.median(peer), PEER, "fp16")
