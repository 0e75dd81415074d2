"""Draws the captioned pictures the demo model learns: coloured shapes on plain backgrounds, anti-aliased.

A picture is described by a Scene; `random_scene` draws one, `render` gives its pixels, `captions.caption` words it.
Coordinates are fractions of the picture's side, x to the right and y down.
"""
from dataclasses import dataclass, field

import numpy as np

COLOURS = {
    "red": (222, 30, 38), "orange": (250, 135, 20), "yellow": (250, 220, 40), "green": (30, 155, 60),
    "cyan": (50, 205, 225), "blue": (35, 70, 215), "purple": (130, 45, 175), "pink": (250, 130, 190),
    "white": (250, 250, 250), "black": (15, 15, 18),
}
SUPERSAMPLE = 4


def _star(u, v):
    angle = (np.arctan2(u, -v) + np.pi / 5) % (2 * np.pi / 5) - np.pi / 5
    radius, inner = np.hypot(u, v), 0.42
    x, y = radius * np.cos(np.abs(angle)), radius * np.sin(np.abs(angle))
    ix, iy = inner * np.cos(np.pi / 5), inner * np.sin(np.pi / 5)
    return (x - 1) * iy - y * (ix - 1) <= 0


def _heart(u, v):
    x, y = 1.15 * u, 0.12 - 1.12 * v
    return (x * x + y * y - 1) ** 3 - x * x * y**3 <= 0


# Inside tests on u, v in [-1, 1], v down.
SHAPES = {
    "circle": lambda u, v: u * u + v * v <= 0.95,
    "square": lambda u, v: np.maximum(np.abs(u), np.abs(v)) <= 0.86,
    "triangle": lambda u, v: (v <= 0.8) & (np.abs(u) <= (v + 0.95) / 1.75),
    "star": _star,
    "diamond": lambda u, v: 1.25 * np.abs(u) + np.abs(v) <= 1,
    "cross": lambda u, v: (np.minimum(np.abs(u), np.abs(v)) <= 0.31) & (np.maximum(np.abs(u), np.abs(v)) <= 0.95),
    "ring": lambda u, v: (u * u + v * v <= 0.95) & (u * u + v * v >= 0.3),
    "heart": _heart,
}


@dataclass
class Thing:
    """One shape: its words and its place."""
    shape: str
    colour: str
    size: str
    radius: float
    x: float
    y: float


@dataclass
class Scene:
    """A background and one or two things; `cell` (column, row) or `relation` says how they are arranged."""
    background: str
    things: list = field(default_factory=list)
    cell: tuple = None
    relation: str = None


def coverage(shape, size, x, y, radius):
    """Fraction of each pixel of a size x size picture that the shape covers, fp32."""
    lo = [max(int((c - radius) * size) - 1, 0) for c in (x, y)]
    hi = [min(int((c + radius) * size) + 2, size) for c in (x, y)]
    out = np.zeros((size, size), np.float32)
    if lo[0] >= hi[0] or lo[1] >= hi[1]:
        return out
    axes = [(np.arange(a * SUPERSAMPLE, b * SUPERSAMPLE, dtype=np.float32) + 0.5) / (SUPERSAMPLE * size)
            for a, b in zip(lo, hi)]
    u, v = (axes[0][None, :] - x) / radius, (axes[1][:, None] - y) / radius
    inside = SHAPES[shape](u, v) & (np.abs(u) <= 1) & (np.abs(v) <= 1)
    h, w = hi[1] - lo[1], hi[0] - lo[0]
    out[lo[1]:hi[1], lo[0]:hi[0]] = inside.reshape(h, SUPERSAMPLE, w, SUPERSAMPLE).mean((1, 3))
    return out


def render(scene, size, palette=COLOURS):
    """The scene as (size, size, 3) uint8."""
    image = np.empty((size, size, 3), np.float32)
    image[:] = palette[scene.background]
    for thing in scene.things:
        alpha = coverage(thing.shape, size, thing.x, thing.y, thing.radius)[..., None]
        image += alpha * (np.array(palette[thing.colour], np.float32) - image)
    return np.rint(image).astype(np.uint8)


RADII = {"small": (0.125, 0.145), "medium": (0.19, 0.22), "large": (0.28, 0.33)}
PAIR_RADII = {"small": (0.11, 0.13), "medium": (0.16, 0.185), "large": (0.2, 0.22)}


def _pick(rng, names):
    return names[int(rng.integers(len(names)))]


def _other(rng, *taken):
    return _pick(rng, [c for c in COLOURS if c not in taken])


def _background(rng, *taken):
    free = [c for c in COLOURS if c not in taken]
    roll = rng.random()
    if roll < 0.35 and "white" in free:
        return "white"
    if roll < 0.45 and "black" in free:
        return "black"
    return _pick(rng, free)


def _size(rng):
    return _pick(rng, ("small", "medium", "medium", "large"))


def _single(rng):
    shape, colour, size = _pick(rng, list(SHAPES)), _pick(rng, list(COLOURS)), _size(rng)
    radius, scene = rng.uniform(*RADII[size]), Scene(_background(rng, colour))
    roll = rng.random()
    if roll < 0.62:  # one of the nine cells
        scene.cell = (int(rng.integers(3)), int(rng.integers(3)))
        edge = max(radius + 0.035, 0.2)
        at = [(edge, 0.5, 1 - edge)[c] + rng.uniform(-0.02, 0.02) for c in scene.cell]
    elif roll < 0.88:  # about the middle
        at = rng.uniform(0.45, 0.55, 2)
    else:
        at = rng.uniform(radius + 0.03, 1 - radius - 0.03, 2)
    scene.things = [Thing(shape, colour, size, radius, float(at[0]), float(at[1]))]
    return scene


def _pair(rng):
    relation = _pick(rng, ("left", "right", "above", "below"))
    first = _pick(rng, list(COLOURS))
    second = first if rng.random() < 0.08 else _other(rng, first)
    scene = Scene(_background(rng, first, second), relation=relation)
    axis, sign = (0 if relation in ("left", "right") else 1), (-1 if relation in ("left", "above") else 1)
    cross = rng.uniform(0.44, 0.56)
    for colour, side in ((first, sign), (second, -sign)):
        size = _size(rng)
        at = [0.0, 0.0]
        at[axis] = 0.5 + side * rng.uniform(0.225, 0.255)
        at[1 - axis] = cross + rng.uniform(-0.02, 0.02)
        scene.things.append(Thing(_pick(rng, list(SHAPES)), colour, size, rng.uniform(*PAIR_RADII[size]), *at))
    return scene


def _nested(rng):
    outer, inner = _pick(rng, ("circle", "square")), _pick(rng, list(SHAPES))
    big = _pick(rng, list(COLOURS))
    small = _other(rng, big)
    at, scene = rng.uniform(0.47, 0.53, 2), Scene(_background(rng, big, small), relation="inside")
    scene.things = [Thing(outer, big, "large", rng.uniform(0.36, 0.41), *at),
                    Thing(inner, small, "medium", rng.uniform(0.15, 0.19), *at)]
    return scene


def random_scene(rng):
    """A scene from a numpy Generator: 57 % single things, 38 % pairs side by side, 5 % one inside another."""
    roll = rng.random()
    return _single(rng) if roll < 0.57 else _pair(rng) if roll < 0.95 else _nested(rng)


def jittered_palette(rng, amount=5):
    """The named colours, each channel moved by up to `amount`."""
    return {n: tuple(np.clip(np.array(c) + rng.integers(-amount, amount + 1, 3), 0, 255)) for n, c in COLOURS.items()}
