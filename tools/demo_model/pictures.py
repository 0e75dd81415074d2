"""Writes PNG files and contact sheets with the standard library alone."""
import struct
import zlib

import numpy as np


def write_png(path, image):
    """Writes (H, W, 3) uint8 as an RGB PNG."""
    h, w, _ = image.shape
    raw = np.concatenate([np.zeros((h, 1), np.uint8), image.reshape(h, w * 3)], 1).tobytes()
    chunk = lambda kind, data: struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    with open(path, "wb") as f:
        f.write(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", w, h, 8, 2, 0, 0, 0))
                + chunk(b"IDAT", zlib.compress(raw, 9)) + chunk(b"IEND", b""))


def sheet(images, columns, gap=4):
    """Equal-sized (H, W, 3) uint8 pictures in rows of `columns`, on grey."""
    h, w, _ = images[0].shape
    rows = -(-len(images) // columns)
    out = np.full((rows * (h + gap) + gap, columns * (w + gap) + gap, 3), 128, np.uint8)
    for i, image in enumerate(images):
        y, x = gap + i // columns * (h + gap), gap + i % columns * (w + gap)
        out[y:y + h, x:x + w] = image
    return out
