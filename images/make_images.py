"""Draws the pictures in this folder: 160x120 photographs of brushed metal plates, as an inspection camera takes them.

Every plate has its own brush direction, grain, brightness, tint, sheen, vignette and sensor noise, and may carry what
is no fault: a soft smear, a faint roller band. On top of that

* ``good`` has nothing,
* ``scratch`` has one to three thin, uneven, bright or dark lines of varying length and curvature,
* ``spot`` has one to four blotches of varying size: pits with a lit rim, rust, dried drops.

The same ``--seed`` and ``--count`` draw the same plates (byte for byte with the same Pillow and NumPy). Plates are
numbered in the order in which the camera saw them, so a number is unique over all folders.

    python images/make_images.py --out /tmp/more --count 200 --seed 2
"""

from __future__ import annotations

import argparse
import io
import itertools
import re
import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

Plane = NDArray[np.float32]

CATEGORIES = ("good", "scratch", "spot")
SIZE = (160, 120)
LARGEST = 6 * 1024
_SCALE = 2  # drawn twice as large, so that thin lines come out smooth
_WIDTH, _HEIGHT = SIZE[0] * _SCALE, SIZE[1] * _SCALE
_ROWS, _COLUMNS = np.mgrid[0:_HEIGHT, 0:_WIDTH].astype(np.float32)


def _plane(image: Image.Image) -> Plane:
    return np.asarray(image, dtype=np.float32) * np.float32(1 / 255)


def _blurred(plane: Plane, radius: float) -> Plane:
    image = Image.fromarray((np.clip(plane, 0, 1) * 255).astype(np.uint8))
    return _plane(image.filter(ImageFilter.GaussianBlur(radius)))


def _chance(rng: np.random.Generator, share: float) -> bool:
    return bool(rng.random() < share)


def _clouds(rng: np.random.Generator, cells: int) -> Plane:
    """Smooth noise between 0 and 1 with about so many lumps across the picture."""
    grid = rng.uniform(0, 255, (max(2, cells * 3 // 4), cells)).astype(np.uint8)
    return _plane(Image.fromarray(grid).resize((_WIDTH, _HEIGHT), Image.Resampling.BICUBIC))


def _brushed(rng: np.random.Generator) -> Plane:
    """Grain along one direction, mean 0, deviation 1."""
    side = int(np.hypot(_WIDTH, _HEIGHT)) + 2
    grain = np.zeros((side, side), dtype=np.float32)
    for length, share in ((side, 0.5), (side // 6, 0.8), (side // 20, 0.6)):
        lines = rng.normal(128, 40, (side, max(2, side // length + 1))).clip(0, 255).astype(np.uint8)
        grain += share * _plane(Image.fromarray(lines).resize((side, side), Image.Resampling.BICUBIC))
    soft = Image.fromarray((np.clip(grain / 2, 0, 1) * 255).astype(np.uint8))
    soft = soft.filter(ImageFilter.GaussianBlur(float(rng.uniform(0.4, 1.0))))
    turned = soft.rotate(float(rng.uniform(0, 180)), Image.Resampling.BICUBIC)
    left, top = (side - _WIDTH) // 2, (side - _HEIGHT) // 2
    cut = _plane(turned.crop((left, top, left + _WIDTH, top + _HEIGHT)))
    return np.asarray((cut - cut.mean()) / (cut.std() + 1e-6), dtype=np.float32)


def _light(rng: np.random.Generator) -> Plane:
    """How much light falls where: a lamp's gradient, a band of sheen, darker corners."""
    across, down = _COLUMNS / _WIDTH - 0.5, _ROWS / _HEIGHT - 0.5
    angle = rng.uniform(0, 2 * np.pi)
    along = np.cos(angle) * across + np.sin(angle) * down
    sheen = np.exp(-(((along - rng.uniform(-0.5, 0.5)) / rng.uniform(0.12, 0.4)) ** 2))
    vignette = 1 - rng.uniform(0.1, 0.55) * (across**2 + down**2)
    lit = (1 + rng.uniform(-0.35, 0.35) * along + rng.uniform(0.0, 0.28) * sheen) * vignette
    return np.asarray(lit, dtype=np.float32)


def _harmless(rng: np.random.Generator, grey: Plane) -> Plane:
    """What a good plate may carry: a soft smear, a faint band from the rollers."""
    if _chance(rng, 0.45):
        grey = grey * (1 + rng.uniform(-0.09, 0.09) * _clouds(rng, int(rng.integers(3, 6))))
    if _chance(rng, 0.35):
        angle, period = rng.uniform(0, np.pi), rng.uniform(70, 200)
        wave = np.sin((np.cos(angle) * _COLUMNS + np.sin(angle) * _ROWS) * 2 * np.pi / period + rng.uniform(0, 6))
        grey = grey * (1 + rng.uniform(0.01, 0.035) * wave)
    return grey


def _plate(rng: np.random.Generator) -> Plane:
    """A plate without a fault: height x width x red, green, blue."""
    grey = rng.uniform(0.36, 0.62) + rng.uniform(0.012, 0.03) * _brushed(rng)
    grey = _harmless(rng, grey * _light(rng))
    warmth = rng.uniform(-0.045, 0.035)
    tint = np.array([1 + warmth, 1 + 0.2 * warmth, 1 - warmth], dtype=np.float32)
    return np.asarray(grey[..., None] * tint, dtype=np.float32)


def _path(rng: np.random.Generator) -> NDArray[np.float64]:
    """Points along one scratch: an arc that starts and ends well inside the plate, and trembles."""
    length = rng.uniform(0.34, 0.85) * _WIDTH
    steps = max(8, int(length / 4))
    bend = rng.uniform(-1.1, 1.1) * rng.random()
    heading = rng.uniform(0, 2 * np.pi) + np.linspace(-bend, bend, steps) + np.cumsum(rng.normal(0, 0.035, steps))
    track = np.cumsum(np.stack([np.cos(heading), np.sin(heading)], axis=1) * (length / steps), axis=0)
    centre = np.array([rng.uniform(0.3, 0.7) * _WIDTH, rng.uniform(0.3, 0.7) * _HEIGHT])
    return np.asarray(track - track.mean(axis=0) + centre + rng.normal(0, 0.35, (steps, 2)))


def _scratch(rng: np.random.Generator, plate: Plane) -> Plane:
    for _ in range(int(rng.choice([1, 2, 3], p=[0.5, 0.35, 0.15]))):
        track = _path(rng)
        # The tool's pressure comes and goes: width and depth change along the line, and it tapers at both ends.
        pressure = 0.65 + 0.35 * np.sin(np.linspace(0, rng.uniform(3, 14), len(track)) + rng.uniform(0, 6))
        pressure *= np.minimum(1, np.minimum(np.arange(len(track)), np.arange(len(track))[::-1]) / 4 + 0.25)
        core, edge = Image.new("L", (_WIDTH, _HEIGHT)), Image.new("L", (_WIDTH, _HEIGHT))
        width = rng.uniform(1.8, 3.8)
        for (start, end), force in zip(itertools.pairwise(track), pressure, strict=False):
            for image, shift in ((core, 0.0), (edge, width * 0.8)):
                points = [(float(x + shift), float(y + shift)) for x, y in (start, end)]
                ImageDraw.Draw(image).line(
                    points, fill=int(255 * force), width=max(1, round(width * (0.5 + force / 2)))
                )
        groove, rim = _blurred(_plane(core), 0.6), _blurred(_plane(edge), 0.9)
        depth = rng.uniform(0.42, 0.64)
        # Lit from the side a groove shines, unless the plate itself does; else it is dark.
        sign = 1 if _chance(rng, 1.2 - float(plate.mean())) else -1
        plate = plate * (1 - sign * 0.45 * depth * rim[..., None])
        plate = plate + sign * depth * groove[..., None] * (1 - plate if sign > 0 else plate)
    return plate


def _outline(rng: np.random.Generator, radius: float) -> Plane:
    """Distance from an uneven outline around a random place: 0 in its middle, 1 on it, more outside."""
    x, y = rng.uniform(0.14, 0.86) * _WIDTH, rng.uniform(0.16, 0.84) * _HEIGHT
    angle = np.arctan2(_ROWS - y, _COLUMNS - x)
    uneven = np.ones_like(angle)
    for lobes in (2, 3, 5, 7):
        uneven += rng.uniform(0.03, 0.32) / lobes * 1.4 * np.sin(lobes * angle + rng.uniform(0, 6))
    distance = np.hypot(_COLUMNS - x, (_ROWS - y) * rng.uniform(0.75, 1.3)) / (radius * uneven)
    return np.asarray(distance + 0.22 * (_clouds(rng, 32) - 0.5), dtype=np.float32)


def _soft(distance: Plane, softness: float) -> Plane:
    """1 inside an outline, 0 outside, with an edge of this softness."""
    return np.asarray(1 / (1 + np.exp(np.clip((distance - 1) / softness, -30, 30))), dtype=np.float32)


def _pit(rng: np.random.Generator, plate: Plane) -> Plane:
    distance = _outline(rng, rng.uniform(5, 12))
    hole, rim = _soft(distance, 0.12), np.exp(-(((distance - 1.15) / 0.2) ** 2))
    inside = distance < 1
    lit = np.clip((_COLUMNS - _COLUMNS[inside].mean() + _ROWS - _ROWS[inside].mean()) / 14, -1, 1)
    dark = rng.uniform(0.4, 0.7) * hole - 0.22 * rim * lit
    return np.asarray(plate * (1 - dark[..., None]), dtype=np.float32)


def _rust(rng: np.random.Generator, plate: Plane) -> Plane:
    distance = _outline(rng, rng.uniform(9, 28))
    cover = _soft(distance, rng.uniform(0.1, 0.25)) * (0.55 + 0.45 * _clouds(rng, 48)) * rng.uniform(0.55, 0.95)
    halo = 0.22 * _soft(distance / 1.45, 0.2)
    brown = np.array([0.43, 0.245, 0.13], dtype=np.float32) * rng.uniform(0.75, 1.2)
    speckle = (0.7 + 0.6 * _clouds(rng, 60))[..., None] * brown
    plate = plate * (1 - halo[..., None] * np.array([0.1, 0.35, 0.6], dtype=np.float32))
    return np.asarray(plate + cover[..., None] * (speckle - plate), dtype=np.float32)


def _drop(rng: np.random.Generator, plate: Plane) -> Plane:
    distance = _outline(rng, rng.uniform(12, 30))
    film = _soft(distance, 0.1) * (0.5 + 0.5 * _clouds(rng, 12))
    ring = np.exp(-(((distance - 0.92) / 0.16) ** 2)) * (0.4 + 0.6 * _clouds(rng, 10))
    dark = rng.uniform(0.18, 0.34) * film + rng.uniform(0.12, 0.28) * ring
    return np.asarray(plate * (1 - dark[..., None] * np.array([0.9, 1.0, 1.12], dtype=np.float32)), dtype=np.float32)


def _spot(rng: np.random.Generator, plate: Plane) -> Plane:
    for _ in range(int(rng.choice([1, 2, 3, 4], p=[0.4, 0.3, 0.2, 0.1]))):
        plate = (_pit, _rust, _drop)[int(rng.choice(3, p=[0.3, 0.45, 0.25]))](rng, plate)
    return plate


def _photograph(rng: np.random.Generator, plate: Plane) -> bytes:
    """What the camera makes of a plate: a JPEG of at most :data:`LARGEST` bytes."""
    scene = Image.fromarray((np.clip(plate, 0, 1) * 255).astype(np.uint8), "RGB").resize(SIZE, Image.Resampling.BOX)
    noise = rng.normal(0, rng.uniform(0.8, 2.6), (SIZE[1], SIZE[0], 1)) + rng.normal(0, 0.6, (SIZE[1], SIZE[0], 3))
    image = Image.fromarray(np.clip(np.asarray(scene) + noise, 0, 255).astype(np.uint8), "RGB")
    for quality in range(92, 30, -3):
        file = io.BytesIO()
        image.save(file, "JPEG", quality=quality, optimize=True)
        if file.tell() <= LARGEST:
            break
    return file.getvalue()


def draw(category: str, rng: np.random.Generator) -> bytes:
    """One picture of this category, a JPEG."""
    plate = _plate(rng)
    if category == "scratch":
        plate = _scratch(rng, plate)
    elif category == "spot":
        plate = _spot(rng, plate)
    return _photograph(rng, plate)


def plan(count: int, seed: int) -> dict[str, str]:
    """Which plate gets which category: ``count`` of each, in the order of the camera. File name -> category."""
    order = [category for category in CATEGORIES for _ in range(count)]
    np.random.default_rng([seed, 0]).shuffle(order)
    return {f"plate-{number:04d}.jpg": category for number, category in enumerate(order, 1)}


def make(out: Path, count: int, seed: int) -> list[Path]:
    """Draw ``count`` pictures of each category into folders below ``out``; return their paths.

    Raises FileExistsError when the folders hold plates that this run would not replace: with them, one number would
    stand for two plates.
    """
    names = plan(count, seed)
    wanted = {out / category / name for name, category in names.items()}
    for folder in (out / category for category in CATEGORIES):
        folder.mkdir(parents=True, exist_ok=True)
        for path in folder.iterdir():
            if re.fullmatch(r"plate-\d+\.jpg", path.name) and path not in wanted:
                raise FileExistsError(f"{path} is from another run. Delete the old plates or choose another --out.")
    for number, (name, category) in enumerate(names.items(), 1):
        (out / category / name).write_bytes(draw(category, np.random.default_rng([seed, number])))
    return sorted(wanted)


def main() -> int:
    """Read the command line, draw, say what was drawn."""
    parser = argparse.ArgumentParser(description="Draw the demo's pictures: brushed metal plates, good and faulty.")
    parser.add_argument(
        "--out", type=Path, default=Path(__file__).parent, help="folder (default: where this script is)"
    )
    parser.add_argument("--count", type=int, default=20, help="pictures of each category (default: 20)")
    parser.add_argument("--seed", type=int, default=2, help="another seed draws other plates (default: 2)")
    options = parser.parse_args()
    if options.count < 1 or options.seed < 0:
        parser.error("--count must be at least 1 and --seed must not be negative")
    try:
        paths = make(options.out, options.count, options.seed)
    except OSError as error:
        print(f"make_images: {error}", file=sys.stderr)  # noqa: T201 - a script talks to whoever calls it
        return 1
    print(f"{len(paths)} pictures, {sum(path.stat().st_size for path in paths)} bytes, in {options.out}")  # noqa: T201 - as above
    return 0


if __name__ == "__main__":
    sys.exit(main())
