"""Draws what the detection demo and many tests look at: photographs of metal plates, a box around each thing on them.

Plates are 200x150 pixels, brushed, each with its own grain, light, tint and sensor noise. One to four things lie on a
plate, apart from each other:

* ``hole``: drilled round or milled long, dark, with a chamfer that shines on one side;
* ``screw``: a zinc, brass or black head with a slot, a cross or a hexagon, at any turn;
* ``dent``: a soft hollow, light on one side and dark on the other.

Most plates also carry what is none of them: scratches, rust, centre punches. The same seed draws the same plates (byte
for byte with the same Pillow and NumPy). The plates in ``images/_plates`` are the 40 of seed 1 and the 12 of seed 2.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from image_sync.annotations import voc
from image_sync.domain import Annotation, Box

Plane = NDArray[np.float32]

SIZE = (200, 150)
"""Width and height of a picture."""
LARGEST = 8 * 1024
"""Bytes of a picture, at most."""
_SCALE = 2  # drawn twice as large, so that edges come out smooth
_WIDTH, _HEIGHT = SIZE[0] * _SCALE, SIZE[1] * _SCALE
_ROWS, _COLUMNS = np.mgrid[0:_HEIGHT, 0:_WIDTH].astype(np.float32)
_APART = 8  # pixels of the drawing between two things
_TRIES = 40
_HEADS = ((0.78, 0.79, 0.8), (0.8, 0.66, 0.36), (0.2, 0.2, 0.22))  # zinc, brass, black


class Mark(NamedTuple):
    """A thing on a plate: its kind, and its box in pixels (``left <= x < right``, ``top <= y < bottom``)."""

    kind: str
    left: int
    top: int
    right: int
    bottom: int


class _Spot(NamedTuple):
    """Where a thing lies in the drawing: its middle, and half its width and height."""

    x: float
    y: float
    across: float
    down: float


def make(folder: Path, count: int, seed: int, first: int = 1) -> list[Path]:
    """Draw plates into a folder: ``plate-0001.jpg`` with ``plate-0001.xml`` (Pascal VOC) beside it, and so on.

    Returns:
        The pictures' paths.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for number, (picture, marks) in enumerate(drawn(count, seed), first):
        path = folder / f"plate-{number:04d}.jpg"
        # The annotation first: whoever watches the folder finds it when the picture comes.
        path.with_suffix(".xml").write_bytes(
            voc.write(Annotation(*SIZE, tuple(Box(*mark) for mark in marks)), path.name)
        )
        path.write_bytes(picture)
        paths.append(path)
    return paths


def drawn(count: int, seed: int) -> Iterator[tuple[bytes, list[Mark]]]:
    """The plates of a seed, without files: each a JPEG, and what is marked on it."""
    for number in range(1, count + 1):
        yield draw(np.random.default_rng([seed, number]))


def draw(rng: np.random.Generator) -> tuple[bytes, list[Mark]]:
    """One plate, a JPEG, and what is marked on it."""
    plate = _bare(rng)
    for turn in rng.permutation(len(_LITTER))[: rng.integers(0, len(_LITTER))]:
        plate = _LITTER[turn](rng, plate)
    spots: list[_Spot] = []
    marks = []
    for _ in range(int(rng.choice([1, 2, 3, 4], p=[0.2, 0.3, 0.3, 0.2]))):
        kind = str(rng.choice(list(_KINDS)))
        paint, size = _KINDS[kind]
        spot = _free(rng, spots, *size(rng))
        if spot is not None:
            spots.append(spot)
            plate = paint(rng, plate, spot)
            marks.append(_mark(kind, spot))
    return _photograph(rng, plate), marks


def _bare(rng: np.random.Generator) -> Plane:
    """A plate with nothing on it: height x width x red, green, blue."""
    grain = np.zeros((_HEIGHT, _WIDTH), dtype=np.float32)
    for length, share in ((_WIDTH, 0.5), (_WIDTH // 6, 0.8), (_WIDTH // 20, 0.6)):
        lines = rng.normal(128, 40, (_HEIGHT, max(2, _WIDTH // length + 1))).clip(0, 255).astype(np.uint8)
        grain += share * _plane(Image.fromarray(lines).resize((_WIDTH, _HEIGHT), Image.Resampling.BICUBIC))
    grain = (grain - grain.mean()) / (grain.std() + 1e-6)
    angle = rng.uniform(0, 2 * np.pi)
    along = np.cos(angle) * (_COLUMNS / _WIDTH - 0.5) + np.sin(angle) * (_ROWS / _HEIGHT - 0.5)
    sheen = np.exp(-(((along - rng.uniform(-0.5, 0.5)) / rng.uniform(0.15, 0.4)) ** 2))
    light = 1 + rng.uniform(-0.35, 0.35) * along + rng.uniform(0, 0.25) * sheen
    grey = (rng.uniform(0.38, 0.62) + rng.uniform(0.01, 0.025) * grain) * light
    warmth = rng.uniform(-0.045, 0.035)
    tint = np.array([1 + warmth, 1 + 0.2 * warmth, 1 - warmth], dtype=np.float32)
    return np.asarray(grey[..., None] * tint, dtype=np.float32)


def _free(rng: np.random.Generator, spots: list[_Spot], across: float, down: float) -> _Spot | None:
    """A place for a thing of this size, apart from the others and wholly on the plate; None when it is too crowded."""
    for _ in range(_TRIES):
        x = rng.uniform(across + 4, _WIDTH - across - 4)
        y = rng.uniform(down + 4, _HEIGHT - down - 4)
        if all(
            abs(x - other.x) > across + other.across + _APART or abs(y - other.y) > down + other.down + _APART
            for other in spots
        ):
            return _Spot(x, y, across, down)
    return None


def _mark(kind: str, spot: _Spot) -> Mark:
    edges = (spot.x - spot.across, spot.y - spot.down, spot.x + spot.across, spot.y + spot.down)
    left, top, right, bottom = (round(edge / _SCALE) for edge in edges)
    return Mark(kind, max(left, 0), max(top, 0), min(right, SIZE[0]), min(bottom, SIZE[1]))


def _hole_size(rng: np.random.Generator) -> tuple[float, float]:
    radius, long = rng.uniform(13, 30), rng.uniform(1.4, 2.0)
    shape = rng.random()
    if shape < 0.6:
        return radius, radius
    return (radius * long, radius) if shape < 0.8 else (radius, radius * long)


def _hole(rng: np.random.Generator, plate: Plane, spot: _Spot) -> Plane:
    radius = min(spot.across, spot.down)
    inside = _soft_mask(spot, 0, radius)
    shift = rng.uniform(1.0, 3.0) * (1 if rng.random() < 0.5 else -1)
    depth = _soft_mask(spot, shift, radius * 0.93)
    dark = rng.uniform(0.08, 0.45)
    chamfer = np.clip(inside - depth, 0, 1) * rng.uniform(0.2, 0.75)
    plate = plate * (1 - inside[..., None] * (1 - dark)) + chamfer[..., None] * 0.8
    return np.asarray(plate, dtype=np.float32)


def _soft_mask(spot: _Spot, shift: float, radius: float) -> Plane:
    """1 inside the outline of a hole, 0 outside, with a soft edge."""
    image = Image.new("L", (_WIDTH, _HEIGHT))
    less = min(spot.across, spot.down) - radius
    corners = (
        spot.x - spot.across + less + shift,
        spot.y - spot.down + less + shift,
        spot.x + spot.across - less + shift,
        spot.y + spot.down - less + shift,
    )
    ImageDraw.Draw(image).rounded_rectangle(corners, radius, fill=255)
    return _plane(image.filter(ImageFilter.GaussianBlur(0.9)))


def _screw_size(rng: np.random.Generator) -> tuple[float, float]:
    radius = rng.uniform(14, 27)
    return radius, radius


def _screw(rng: np.random.Generator, plate: Plane, spot: _Spot) -> Plane:
    radius, angle = spot.across, rng.uniform(0, 2 * np.pi)
    across, down = (_COLUMNS - spot.x) / radius, (_ROWS - spot.y) / radius
    lamp = np.cos(angle) * across + np.sin(angle) * down
    shade = np.clip(1.25 - np.hypot(across + 0.12 * np.cos(angle), down + 0.12 * np.sin(angle)), 0, 1)
    plate = plate * (1 - 0.45 * np.clip(shade * 3, 0, 1))[..., None]
    head = _soft_mask(spot, 0, radius)
    colour = np.array(_HEADS[int(rng.choice(3, p=[0.5, 0.25, 0.25]))], dtype=np.float32) * rng.uniform(0.8, 1.1)
    dome = 0.82 + 0.22 * lamp + 0.14 * np.exp(-((np.hypot(across, down) / 0.6) ** 2))
    plate = plate + head[..., None] * (colour * dome[..., None] - plate)
    drive = Image.new("L", (_WIDTH, _HEIGHT))
    pen, turn, reach = ImageDraw.Draw(drive), rng.uniform(0, np.pi), radius * rng.uniform(0.55, 0.8)
    kind = int(rng.integers(3))
    if kind == 2:
        pen.regular_polygon((spot.x, spot.y, reach * 0.75), 6, rotation=round(np.degrees(turn)), fill=255)
    for quarter in range(kind + 1 if kind < 2 else 0):
        x, y = reach * np.cos(turn + quarter * np.pi / 2), reach * np.sin(turn + quarter * np.pi / 2)
        ends = [(spot.x - x, spot.y - y), (spot.x + x, spot.y + y)]
        pen.line(ends, fill=255, width=max(3, round(radius * 0.2)))
    groove = _plane(drive.filter(ImageFilter.GaussianBlur(0.8)))
    return np.asarray(plate * (1 - rng.uniform(0.55, 0.85) * groove[..., None]), dtype=np.float32)


def _dent_size(rng: np.random.Generator) -> tuple[float, float]:
    return rng.uniform(17, 36), rng.uniform(17, 36)


def _dent(rng: np.random.Generator, plate: Plane, spot: _Spot) -> Plane:
    across, down = (_COLUMNS - spot.x) / spot.across, (_ROWS - spot.y) / spot.down
    angle = rng.uniform(0, 2 * np.pi)
    slope = (np.cos(angle) * across + np.sin(angle) * down) * np.exp(-2.2 * (across**2 + down**2))
    hollow = 0.12 * np.exp(-1.6 * (across**2 + down**2))
    return np.asarray(plate * (1 + rng.uniform(1.1, 2.0) * slope - hollow)[..., None], dtype=np.float32)


_KINDS: dict[
    str,
    tuple[
        Callable[[np.random.Generator, Plane, _Spot], Plane],
        Callable[[np.random.Generator], tuple[float, float]],
    ],
] = {"dent": (_dent, _dent_size), "hole": (_hole, _hole_size), "screw": (_screw, _screw_size)}
KINDS = tuple(_KINDS)
"""What can lie on a plate."""


def _scratch(rng: np.random.Generator, plate: Plane) -> Plane:
    image = Image.new("L", (_WIDTH, _HEIGHT))
    start, heading = rng.uniform((0, 0), (_WIDTH, _HEIGHT)), rng.uniform(0, 2 * np.pi)
    turns = heading + np.linspace(0, rng.uniform(-0.9, 0.9), 30)
    track = start + np.cumsum(np.stack([np.cos(turns), np.sin(turns)], axis=1) * rng.uniform(3, 9), axis=0)
    ImageDraw.Draw(image).line([(float(x), float(y)) for x, y in track], fill=255, width=int(rng.integers(1, 4)))
    line = _plane(image.filter(ImageFilter.GaussianBlur(0.7)))[..., None]
    return np.asarray(plate + rng.choice([-0.3, 0.3]) * line, dtype=np.float32)


def _rust(rng: np.random.Generator, plate: Plane) -> Plane:
    x, y, radius = rng.uniform(0, _WIDTH), rng.uniform(0, _HEIGHT), rng.uniform(10, 32)
    angle = np.arctan2(_ROWS - y, _COLUMNS - x)
    uneven = 1 + sum(rng.uniform(0.05, 0.3) / n * np.sin(n * angle + rng.uniform(0, 6)) for n in (2, 3, 5))
    distance = np.hypot(_COLUMNS - x, _ROWS - y) / (radius * uneven)
    cover = rng.uniform(0.4, 0.8) / (1 + np.exp(np.clip((distance - 1) / 0.18, -30, 30)))
    brown = np.array([0.43, 0.25, 0.13], dtype=np.float32) * rng.uniform(0.8, 1.2)
    return np.asarray(plate + cover[..., None] * (brown - plate), dtype=np.float32)


def _punch(rng: np.random.Generator, plate: Plane) -> Plane:
    for _ in range(int(rng.integers(1, 5))):
        x, y, radius = rng.uniform(0, _WIDTH), rng.uniform(0, _HEIGHT), rng.uniform(2.5, 5)
        dot = np.exp(-(((_COLUMNS - x) ** 2 + (_ROWS - y) ** 2) / radius**2))
        plate = plate * (1 - rng.uniform(0.4, 0.8) * dot[..., None])
    return np.asarray(plate, dtype=np.float32)


_LITTER = (_scratch, _rust, _punch)


def _photograph(rng: np.random.Generator, plate: Plane) -> bytes:
    """What the camera makes of a plate: a JPEG of at most :data:`LARGEST` bytes."""
    scene = Image.fromarray((np.clip(plate, 0, 1) * 255).astype(np.uint8), "RGB").resize(SIZE, Image.Resampling.BOX)
    noise = rng.normal(0, rng.uniform(0.8, 2.6), (SIZE[1], SIZE[0], 1)) + rng.normal(0, 0.6, (SIZE[1], SIZE[0], 3))
    image = Image.fromarray(np.clip(np.asarray(scene) + noise, 0, 255).astype(np.uint8), "RGB")
    for quality in range(90, 30, -3):
        file = io.BytesIO()
        image.save(file, "JPEG", quality=quality, optimize=True)
        if file.tell() <= LARGEST:
            break
    return file.getvalue()


def _plane(image: Image.Image) -> Plane:
    return np.asarray(image, dtype=np.float32) * np.float32(1 / 255)


if __name__ == "__main__":
    make(Path(sys.argv[1]), 40, 1)
    make(Path(sys.argv[1]), 12, 2, first=41)
