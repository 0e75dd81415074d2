"""Writes tests/golden/media/: small picture files and what Pillow makes of them.

`expected.json` names each file, its size, channels and the bytes Pillow decodes (compressed, in
base64), followed by the results of resizing one picture in every filter.
"""
import base64
import io
import json
import pathlib
import struct
import zlib

import numpy
from PIL import Image, ImageOps, PngImagePlugin
from PIL import __version__ as pillow_version

TARGET = pathlib.Path(__file__).resolve().parent.parent.parent / "tests" / "golden" / "media"
SIZES = [(5, 4), (20, 17), (13, 23), (29, 11), (7, 16), (1, 1), (13, 5)]
FILTERS = {"nearest": Image.NEAREST, "area": Image.BOX, "bilinear": Image.BILINEAR,
           "bicubic": Image.BICUBIC, "lanczos": Image.LANCZOS}


def smooth(width, height, channels, seed):
    """A picture of gradients and a few hard edges."""
    draw = numpy.random.default_rng(seed)
    y, x = numpy.mgrid[0:height, 0:width]
    planes = []
    for _ in range(channels):
        a, b, c = draw.uniform(-0.3, 0.3, 3)
        plane = 127 + 90 * numpy.sin(a * x + b * y + 6 * c) + 38 * ((x // 5 + y // 4) % 2)
        planes.append(plane.clip(0, 255).astype(numpy.uint8))
    return numpy.stack(planes, -1)


def packed(pixels):
    return base64.b64encode(zlib.compress(pixels.tobytes(), 9)).decode()


def row(name, image, tolerance=0):
    pixels = numpy.asarray(image)
    channels = 1 if pixels.ndim == 2 else pixels.shape[2]
    return {"file": name, "width": image.width, "height": image.height, "channels": channels,
            "tolerance": tolerance, "pixels": packed(pixels)}


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def deep_png(pixels, colour):
    """A PNG of 16-bit samples [height, width, channels], which Pillow cannot write for colour."""
    height, width, _ = pixels.shape
    rows = b""
    for y in range(height):
        line = pixels[y].astype(">u2").view(numpy.uint8).reshape(width, -1)
        left = numpy.vstack([numpy.zeros_like(line[:1]), line[:-1]])
        rows += b"\1" + (line - left).tobytes()  # filter type 1: difference to the left
    head = struct.pack(">IIBBBBB", width, height, 16, colour, 0, 0, 0)
    return (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows, 9))
            + chunk(b"IEND", b""))


def deep_grey(data):
    """16-bit grey as ComfyUI's LoadImage scales it."""
    return Image.open(io.BytesIO(data)).convert("I").point(lambda v: v * (1 / 255)).convert("L")


def interlaced(image):
    """An Adam7 file of an 8-bit RGB picture, unfiltered."""
    pixels = numpy.asarray(image)
    rows = b""
    for x0, y0, dx, dy in [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4),
                           (1, 0, 2, 2), (0, 1, 1, 2)]:
        for line in pixels[y0::dy, x0::dx]:
            rows += b"\0" + line.tobytes() if line.size else b""
    head = struct.pack(">IIBBBBB", image.width, image.height, 8, 2, 0, 0, 1)
    return (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows, 9))
            + chunk(b"IEND", b""))


def write(name, data):
    (TARGET / name).write_bytes(data)
    return Image.open(io.BytesIO(data))


def saved(name, image, **options):
    buffer = io.BytesIO()
    image.save(buffer, pathlib.Path(name).suffix[1:].replace("jpg", "jpeg"), **options)
    return write(name, buffer.getvalue())


def png_files():
    rgb = Image.fromarray(smooth(19, 15, 3, 1))
    rgba = Image.fromarray(smooth(19, 15, 4, 2))
    grey = Image.fromarray(smooth(19, 15, 1, 3)[..., 0])
    palette = rgb.quantize(16)
    clear = palette.copy()
    clear.info["transparency"] = bytes([0, 128, 255])
    yield row("rgb.png", saved("rgb.png", rgb))
    yield row("rgba.png", saved("rgba.png", rgba))
    yield row("grey.png", saved("grey.png", grey))
    yield row("bit.png", saved("bit.png", grey.convert("1")).convert("L"))
    yield row("palette.png", saved("palette.png", palette, bits=4).convert("RGB"))
    yield row("palette_alpha.png", saved("palette_alpha.png", clear).convert("RGBA"))
    yield row("grey_alpha.png", saved("grey_alpha.png", rgba.convert("LA")).convert("RGBA"))
    yield row("one_colour_clear.png", saved("one_colour_clear.png", rgb, transparency=(1, 2, 3)))
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = saved("turned.png", rgb, exif=exif)
    yield row("turned.png", ImageOps.exif_transpose(turned))
    yield row("interlaced.png", write("interlaced.png", interlaced(rgb)))
    deep = numpy.arange(65536, dtype=numpy.uint16).reshape(64, 1024, 1)
    data = deep_png(deep, 0)
    write("deep_grey.png", data)
    yield row("deep_grey.png", deep_grey(data))
    colour = numpy.random.default_rng(9).integers(0, 65536, (9, 8, 3), dtype=numpy.uint16)
    yield row("deep_rgb.png", write("deep_rgb.png", deep_png(colour, 2)))


def jpeg_files():
    picture = Image.fromarray(smooth(21, 18, 3, 4))
    yield row("rgb.jpg", saved("rgb.jpg", picture, quality=90), 2)
    yield row("full_colour.jpg", saved("full_colour.jpg", picture, subsampling=0), 2)
    yield row("progressive.jpg", saved("progressive.jpg", picture, progressive=True), 2)
    yield row("grey.jpg", saved("grey.jpg", picture.convert("L")), 2)
    cmyk = saved("cmyk.jpg", picture.convert("CMYK"), quality=95)
    yield row("cmyk.jpg", cmyk.convert("RGB"), 3)
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        name = f"turned{orientation}.jpg"
        yield row(name, ImageOps.exif_transpose(saved(name, picture, exif=exif)), 2)


def webp_files():
    rgb, rgba = Image.fromarray(smooth(17, 12, 3, 5)), Image.fromarray(smooth(17, 12, 4, 6))
    yield row("lossy.webp", saved("lossy.webp", rgb), 2)
    yield row("lossless.webp", saved("lossless.webp", rgb, lossless=True))
    yield row("alpha.webp", saved("alpha.webp", rgba, lossless=True, exact=True))
    exif = Image.Exif()
    exif[0x0112] = 8
    yield row("turned.webp",
              ImageOps.exif_transpose(saved("turned.webp", rgb, lossless=True, exif=exif)))
    moving = saved("moving.webp", rgba, save_all=True, lossless=True, exact=True,
                   append_images=[Image.fromarray(smooth(17, 12, 4, 7))])
    yield row("moving.webp", moving)


def resizes():
    for channels, mode in [(1, "L"), (3, "RGB"), (4, "RGBA")]:
        pixels = smooth(13, 11, channels, 10 + channels)
        image = Image.fromarray(pixels[..., 0] if channels == 1 else pixels)
        source = saved(f"resize_{mode.lower()}.png", image)
        for name, resample in FILTERS.items():
            for size in SIZES:
                yield {"filter": name, **row(f"resize_{mode.lower()}.png", source.resize(size, resample))}


def texts():
    """A file with texts of every kind of chunk; returns them in order."""
    rows = [("prompt", '{"3": {"inputs": {"seed": 1}}}'), ("latin", "caf\u00e9 \u00bd"),
            ("parameters", "\u732b, (best:1.2)\nSteps: 20"), ("empty", "")]
    info = PngImagePlugin.PngInfo()
    for key, text in rows:
        info.add_text(key, text)
    info.add_text("packed", "squeezed " * 99, zip=True)
    info.add_itxt("packed too", "gequetscht \u00fc\u2260 " * 99, lang="de", tkey="x", zip=True)
    saved("texts.png", Image.new("L", (3, 3)), pnginfo=info)
    return rows + [("packed", "squeezed " * 99), ("packed too", "gequetscht \u00fc\u2260 " * 99)]


def main():
    TARGET.mkdir(parents=True, exist_ok=True)
    decoded = [*png_files(), *jpeg_files(), *webp_files()]
    lines = lambda rows: ",\n".join(json.dumps(r, separators=(",", ":")) for r in rows)
    (TARGET / "expected.json").write_text(
        f'{{"source": "Pillow {pillow_version}",\n"decoded": [\n{lines(decoded)}],\n'
        f'"resized": [\n{lines(resizes())}],\n"texts": [\n{lines(texts())}]}}\n')
    total = sum(f.stat().st_size for f in TARGET.iterdir())
    print(f"{TARGET}: {len(list(TARGET.iterdir()))} files, {total} bytes")


if __name__ == "__main__":
    main()
