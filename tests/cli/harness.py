"""Runs the built command for the tests of this folder; nothing but the standard library.

ATELIER_BIN is the command, ATELIER_MODELS a folder for checkpoints with random weights, which are
written on first use.
"""
import json
import os
import pathlib
import struct
import subprocess
import sys
import tempfile
import unittest
import zlib

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
BIN = os.environ.get("ATELIER_BIN", str(ROOT / "build/release/bin/atelier"))
MODELS = pathlib.Path(os.environ.get("ATELIER_MODELS", ROOT / "build/models"))


class Result:
    """What one call left behind: exit code, both outputs, and the JSON events among them."""

    def __init__(self, code, out, err):
        self.code, self.out, self.err = code, out, err

    @property
    def events(self):
        return [json.loads(line) for line in self.out.splitlines()]

    def event(self, kind):
        """The only event of this kind."""
        found = [e for e in self.events if e["event"] == kind]
        assert len(found) == 1, f"{len(found)} '{kind}' events in {self.out}"
        return found[0]

    @property
    def error_line(self):
        """The one line on standard error that says what went wrong."""
        lines = [line for line in self.err.splitlines() if line.startswith("error: ")]
        assert len(lines) == 1, f"not one error line: {self.err!r}"
        return lines[0]


def atelier(*words, timeout=300, cwd=None, env=None):
    done = subprocess.run([BIN, *map(str, words)], stdin=subprocess.DEVNULL, capture_output=True, text=True,
                          timeout=timeout, cwd=cwd, env=dict(os.environ, **(env or {})))
    return Result(done.returncode, done.stdout, done.stderr)


def model(kind, part=None):
    """Path of a checkpoint with random weights, or of one part of it as a file of its own."""
    path = MODELS / (f"{kind}-{part}.safetensors" if part else f"{kind}.safetensors")
    more = ("--part", part) if part else ()
    if not path.exists():
        MODELS.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=MODELS) as folder:
            file = pathlib.Path(folder) / "model.safetensors"
            subprocess.run([sys.executable, ROOT / "tools/random_model.py", kind, file, *more], check=True,
                           stdout=subprocess.DEVNULL)
            os.replace(file, path)
    return path


class Png:
    """A decoded 8-bit RGB PNG without interlacing, and its text chunks."""

    def __init__(self, path):
        data = pathlib.Path(path).read_bytes()
        assert data[:8] == b"\x89PNG\r\n\x1a\n", f"{path} is no PNG"
        self.text, packed, place = {}, b"", 8
        while place < len(data):
            size, kind = struct.unpack_from(">I4s", data, place)
            body = data[place + 8:place + 8 + size]
            if kind == b"IHDR":
                self.width, self.height, depth, colour, _, _, interlaced = struct.unpack(">IIBBBBB", body)
                assert (depth, colour, interlaced) == (8, 2, 0), "not a plain RGB picture"
            elif kind == b"tEXt":
                key, value = body.split(b"\0", 1)
                self.text[key.decode("latin-1")] = value.decode("latin-1")
            elif kind == b"iTXt":
                key, rest = body.split(b"\0", 1)
                packed_flag, rest = rest[0], rest[2:]
                _, _, value = rest.split(b"\0", 2)
                self.text[key.decode("latin-1")] = (zlib.decompress(value) if packed_flag else value).decode()
            elif kind == b"IDAT":
                packed += body
            place += 12 + size
        self.rows = self._unfilter(zlib.decompress(packed))

    def _unfilter(self, raw):
        stride, rows, last = 3 * self.width, [], bytes(3 * self.width)
        for y in range(self.height):
            start = y * (stride + 1)
            kind, line = raw[start], bytearray(raw[start + 1:start + 1 + stride])
            for x in range(stride):
                left, up = (line[x - 3] if x >= 3 else 0), last[x]
                corner = last[x - 3] if x >= 3 else 0
                if kind == 1:
                    guess = left
                elif kind == 2:
                    guess = up
                elif kind == 3:
                    guess = (left + up) // 2
                elif kind == 4:
                    p = left + up - corner
                    pa, pb, pc = abs(p - left), abs(p - up), abs(p - corner)
                    guess = left if pa <= pb and pa <= pc else up if pb <= pc else corner
                else:
                    guess = 0
                line[x] = (line[x] + guess) & 255
            rows.append(bytes(line))
            last = line
        return rows

    def pixel(self, x, y):
        return tuple(self.rows[y][3 * x:3 * x + 3])

    def difference(self, other):
        """Mean absolute difference of all values, 0 to 255."""
        total = sum(abs(a - b) for mine, theirs in zip(self.rows, other.rows) for a, b in zip(mine, theirs))
        return total / (3 * self.width * self.height)


def write_png(path, width, height, pixel):
    """An RGB PNG whose values are pixel(x, y)."""
    raw = b"".join(b"\0" + bytes(v for x in range(width) for v in pixel(x, y)) for y in range(height))

    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pathlib.Path(path).write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) +
                                   chunk(b"IDAT", zlib.compress(raw)) + chunk(b"IEND", b""))


def read_safetensors(path):
    """Header and {name: bytes} of a safetensors file."""
    data = pathlib.Path(path).read_bytes()
    size = struct.unpack_from("<Q", data)[0]
    header = json.loads(data[8:8 + size])
    body = data[8 + size:]
    return header, {name: body[slice(*row["data_offsets"])] for name, row in header.items()
                    if name != "__metadata__"}


def write_safetensors(path, tensors):
    """A file of {name: (shape, numbers)}, as F32."""
    write_bytes(path, {name: ("F32", shape, struct.pack(f"<{len(numbers)}f", *numbers))
                       for name, (shape, numbers) in tensors.items()})


def write_bytes(path, tensors):
    """A file of {name: (dtype, shape, bytes)}."""
    header, body = {}, []
    at = 0
    for name, (dtype, shape, data) in tensors.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [at, at + len(data)]}
        body.append(data)
        at += len(data)
    text = json.dumps(header).encode()
    pathlib.Path(path).write_bytes(struct.pack("<Q", len(text)) + text + b"".join(body))


def read_bytes(path):
    """{name: (dtype, shape, bytes)} of a file."""
    header, bodies = read_safetensors(path)
    return {name: (header[name]["dtype"], header[name]["shape"], data) for name, data in bodies.items()}


class Case(unittest.TestCase):
    """A test with a folder of its own."""

    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)

    def assert_fails(self, result, code, *words):
        """Exit code and the words the one error line must have; nothing else may look like a crash."""
        self.assertEqual(result.code, code, result.err)
        for word in words:
            self.assertIn(word, result.error_line)
        self.assertNotIn("terminate", result.err)
        self.assertNotIn("Traceback", result.err)

    def files(self):
        return sorted(p.name for p in self.folder.iterdir())
