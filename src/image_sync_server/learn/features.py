"""What the learner sees of a picture: a few hundred figures about light, colour, edges, texture, spots and lines.

Every picture is brought to 128x128 pixels first. Most figures are taken over the whole picture and relative to the
picture's own grain, so that neither the place nor the direction of what shows matters, and a thumbnail and a grid of
edge directions keep what does depend on the place.
"""

from __future__ import annotations

import io
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

MOST_PIXELS = 50_000_000
"""Larger pictures are refused: a PNG of 10 KB can hold 80 million pixels."""

_FORMATS = ("JPEG", "PNG")
# What Pillow is known to raise for damaged files, and its warnings where those are errors.
_FAULTS = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    LookupError,
    ArithmeticError,
    EOFError,
    AttributeError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
    Warning,
)


def decoded(picture: bytes, side: int, *, upright: bool) -> tuple[Image.Image, tuple[int, int]]:
    """The picture as 8-bit red, green and blue, and its own width and height.

    Args:
        picture: the whole file.
        side: width and height from which on it may be decoded at a fraction of its size, which is quicker.
        upright: turn it as its EXIF data says; else its pixels stay where the file has them.

    Raises ValueError with a clause that says why the bytes are no usable picture.
    """
    try:
        with Image.open(io.BytesIO(picture), formats=_FORMATS) as image:
            width, height = image.size
            if width * height > MOST_PIXELS:
                raise ValueError(f"it has {width}x{height} pixels, more than {MOST_PIXELS}")
            image.draft(None, (side, side))
            image.load()
            return _plain(_upright(image) if upright else image), (width, height)
    except _FAULTS as error:
        raise ValueError(f"it cannot be decoded as JPEG or PNG ({error or type(error).__name__})") from error


def _upright(image: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image)
    except _FAULTS:  # damaged EXIF says nothing about the rotation, and nothing against the pixels
        return image


def _plain(image: Image.Image) -> Image.Image:
    """The picture as 8-bit red, green, blue; what is transparent becomes mid-grey."""
    if image.mode.startswith("I"):  # 16 bits of grey: Pillow's own conversion would clip instead of scale
        levels = np.asarray(image, dtype=np.float32) / 257
        return Image.fromarray(np.clip(levels, 0, 255).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        ground = Image.new("RGBA", layer.size, (128, 128, 128, 255))
        return Image.alpha_composite(ground, layer).convert("RGB")
    return image.convert("RGB")


Floats = NDArray[np.float32]

SIDE = 128
_LEVELS = 5  # 128, 64, 32, 16 and 8 pixels wide: from hairlines to blotches a third of the picture wide
_DIRECTIONS = 12
_GRID, _BINS = 4, 8
_PLACE_WEIGHT = 0.3
_TINY = 1e-4
_FARTHEST = 12.0  # deviations from the mean, beyond which a figure says no more
_STEADIEST = 0.1  # least deviation within a category, as a share of that over all
_STRIDE = 0.3  # so that MVI's default learning rate takes some hundred iterations, not ten: the curve can be watched


def unusable(path: Path, error: OSError | ValueError) -> ValueError:
    """What is told of a picture that cannot be learned from; its name is escaped, whatever it holds."""
    name = "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in path.name)
    reason = error.strerror if isinstance(error, OSError) else error
    return ValueError(f"The picture {name} cannot be used: {reason}.")


def extract(picture: bytes) -> Floats:
    """The figures of one picture (JPEG or PNG of any mode, EXIF rotation respected), as a vector of :data:`LENGTH`.

    Raises ValueError with a clause that says why the bytes are no usable picture.
    """
    return np.concatenate([figures for _, figures in _groups(_decoded(picture))]).astype(np.float32)


def _groups(colours: Floats) -> list[tuple[float, Floats]]:
    """Weight and figures of each kind. What depends on the place counts less: it needs many pictures to be learnt."""
    grey = colours @ np.array([0.299, 0.587, 0.114], dtype=np.float32)
    pyramid = [grey]
    for _ in range(_LEVELS - 1):
        pyramid.append(_halved(pyramid[-1]))
    places, edges = _edges(pyramid[1])
    return [
        (_PLACE_WEIGHT, _thumbnail(pyramid[3])),
        (_PLACE_WEIGHT, places),
        (1.0, _colours(colours, pyramid[1])),
        (1.0, edges),
        *((1.0, _curvature(level)) for level in pyramid),
        *((1.0, _lines(level)) for level in pyramid[:2]),
        *((1.0, _texture(level)) for level in pyramid[:2]),
    ]


def _decoded(picture: bytes) -> Floats:
    """Height x width x red, green, blue between 0 and 1."""
    whole, _ = decoded(picture, 2 * SIDE, upright=True)
    small = whole.resize((SIDE, SIDE), Image.Resampling.BILINEAR, reducing_gap=2.0)
    return np.asarray(small, dtype=np.float32) * np.float32(1 / 255)


def _halved(plane: Floats) -> Floats:
    return (plane[::2, ::2] + plane[1::2, ::2] + plane[::2, 1::2] + plane[1::2, 1::2]) * np.float32(0.25)


def _ranked(plane: Floats, *shares: float) -> Floats:
    """The values below which these shares of the plane lie."""
    values: Floats = np.sort(plane, axis=None)
    return np.asarray(values[[round(share * (values.size - 1)) for share in shares]], dtype=np.float32)


def _logarithm(values: Floats) -> Floats:
    """Signed logarithm: differences of the results are ratios, which is what a linear model can use."""
    return np.asarray(np.sign(values) * np.log1p(np.abs(values) / _TINY), dtype=np.float32)


def _thumbnail(plane: Floats) -> Floats:
    small = _halved(_halved(plane))
    return np.asarray(small - small.mean(), dtype=np.float32).ravel()


def _colours(colours: Floats, grey: Floats) -> Floats:
    """How light and which colours: ranks and spread of grey, red against green, yellow against blue."""
    small = _halved(_halved(colours))
    red, green, blue = small[..., 0], small[..., 1], small[..., 2]
    planes = (grey, red - green, (red + green) * np.float32(0.5) - blue)
    ranks = [_ranked(plane, 0.0, 0.02, 0.1, 0.5, 0.9, 0.98, 1.0) for plane in planes]
    spread = [np.array([plane.std()], dtype=np.float32) for plane in planes]
    # Against the median: a faint tint of the light is no stain.
    away = [_logarithm(rank - rank[3])[[0, 1, 5, 6]] for rank in ranks]
    return np.concatenate([*ranks, *spread, *away])


def slopes(plane: Floats, half: int) -> tuple[Floats, NDArray[np.floating]]:
    """How steep a plane is at each place, and the direction of its edge, where ``half`` is half a turn."""
    across, down = np.zeros_like(plane), np.zeros_like(plane)
    across[:, 1:-1] = plane[:, 2:] - plane[:, :-2]
    down[1:-1] = plane[2:] - plane[:-2]
    return np.hypot(across, down), np.arctan2(down, across) % np.pi * (half / np.pi)


def _edges(plane: Floats) -> tuple[Floats, Floats]:
    """Edge directions: first by cell of a grid; then over all, turned to the strongest, and how unlike cells are."""
    strength, turn = slopes(plane, _BINS)
    direction = np.minimum(turn.astype(np.intp), _BINS - 1)
    cell = np.arange(plane.shape[0]) * _GRID // plane.shape[0]
    place = (cell[:, None] * _GRID + cell[None, :]) * _BINS + direction
    counts = np.bincount(place.ravel(), strength.ravel(), _GRID * _GRID * _BINS).astype(np.float32)
    cells = counts.reshape(-1, _BINS)
    energy = cells.sum(axis=1)
    shapes = np.sqrt(cells / (energy[:, None] + _TINY))
    whole = cells.sum(axis=0)
    turned = np.roll(whole, -int(whole.argmax())) / (whole.sum() + _TINY)
    unlike = np.sort(np.linalg.norm(shapes - np.median(shapes, axis=0), axis=1))
    uneven = np.sort(_logarithm(energy) - np.median(_logarithm(energy)))
    return shapes.ravel(), np.concatenate([turned, unlike[[8, -3, -2, -1]], uneven[[0, 1, 8, -2, -1]]])


def _curvature(plane: Floats) -> Floats:
    """Spots and lines of one size: ranks of both principal curvatures, and of the smaller one where they agree."""
    smooth = plane[:, :-2] + 2 * plane[:, 1:-1] + plane[:, 2:]
    smooth = (smooth[:-2] + 2 * smooth[1:-1] + smooth[2:]) * np.float32(1 / 16)
    middle = smooth[1:-1, 1:-1]
    across = smooth[1:-1, 2:] + smooth[1:-1, :-2] - 2 * middle
    down = smooth[2:, 1:-1] + smooth[:-2, 1:-1] - 2 * middle
    mixed = (smooth[2:, 2:] + smooth[:-2, :-2] - smooth[2:, :-2] - smooth[:-2, 2:]) * np.float32(0.25)
    mean = (across + down) / 2
    apart = np.sqrt(((across - down) / 2) ** 2 + mixed**2)
    round_ = np.sign(mean) * np.maximum(np.abs(mean) - apart, 0)
    ranks = [
        _ranked(mean + apart, 0.5, 0.9, 0.98, 0.995, 1.0),
        _ranked(mean - apart, 0.0, 0.005, 0.02, 0.1, 0.5),
        _ranked(round_, 0.0, 0.005, 0.02, 0.1, 0.9, 0.98, 0.995, 1.0),
    ]
    spread = np.array([mean.std(), apart.mean()], dtype=np.float32)
    figures = _logarithm(np.concatenate([*ranks, spread]))
    noise = figures[-1]
    return np.concatenate([figures, np.abs(figures[:-2]) - noise])


def _line_filters(side: int, length: float) -> NDArray[np.complex64]:
    """Fourier transforms of a ridge, one pixel thin and about four times ``length`` long, in each direction."""
    row, column = np.mgrid[0:side, 0:side] - side // 2
    filters = []
    for turn in np.arange(_DIRECTIONS) * np.pi / _DIRECTIONS:
        along = np.cos(turn) * column + np.sin(turn) * row
        over = np.cos(turn) * row - np.sin(turn) * column
        ridge = (1 - over**2) * np.exp(-(over**2) / 2 - (along / length) ** 2 / 2)
        ridge -= ridge.mean()
        filters.append(np.fft.rfft2(np.fft.ifftshift(ridge / np.abs(ridge).sum())))
    return np.asarray(filters, dtype=np.complex64)


_LINE_FILTERS = {SIDE: _line_filters(SIDE, 9.0), SIDE // 2: _line_filters(SIDE // 2, 4.5)}


def _lines(plane: Floats) -> Floats:
    """Long lines by direction, counted from the direction of the grain, and how far the strongest stand out of it."""
    side = plane.shape[0]
    border = side // 12  # the transform wraps around: a line found at the border would be the other border's
    inner = np.s_[border:-border, border:-border]
    spectrum = np.fft.rfft2(plane - plane.mean())
    found = []
    for ridge in _LINE_FILTERS[side]:  # one direction after the other stays in the processor's cache
        seen = np.fft.irfft2(spectrum * ridge, plane.shape)[inner]
        squares = seen * seen
        found.append((squares.mean(), seen.max(), -seen.min(), (squares * squares).mean()))
    power, bright, dark, fourth = np.array(found, dtype=np.float32).T
    grain = np.sqrt(power)
    peaked = np.log(fourth / (power * power + _TINY**4) + _TINY)
    figures = np.log(np.stack([grain, bright, dark]) + _TINY)
    dominant = int(grain.argmax())
    figures, peaked = np.roll(figures, -dominant, axis=1), np.roll(peaked, -dominant)
    out = np.sort(np.concatenate([figures[1] - figures[0], figures[2] - figures[0]]))
    strongest = np.sort(figures[1:].ravel()) - figures[0, 0]
    some = [0, _DIRECTIONS - 1, -4, -2, -1]
    ranks = [out[some], strongest[some], np.sort(peaked)[[0, _DIRECTIONS // 2, -3, -2, -1]]]
    return np.concatenate([figures.ravel(), peaked, *ranks])


def _pattern_table() -> NDArray[np.intp]:
    """Class of each of the 256 patterns of eight neighbours: number of lighter ones in one run (0 to 8), else 9."""
    table = np.full(256, 9, dtype=np.intp)
    for pattern in range(256):
        turned = (pattern >> 1) | ((pattern & 1) << 7)
        if (pattern ^ turned).bit_count() <= 2:  # noqa: PLR2004 - one run has one beginning and one end
            table[pattern] = pattern.bit_count()
    return table


_PATTERNS = _pattern_table()
_NEIGHBOURS = ((0, 0), (0, 1), (0, 2), (1, 2), (2, 2), (2, 1), (2, 0), (1, 0))


def _texture(plane: Floats) -> Floats:
    """Shares of the local binary patterns, alike under rotation and lighting."""
    rows, columns = plane.shape[0] - 2, plane.shape[1] - 2
    middle = plane[1:-1, 1:-1]
    pattern = np.zeros((rows, columns), dtype=np.uint8)
    for bit, (down, across) in enumerate(_NEIGHBOURS):
        lighter = plane[down : down + rows, across : across + columns] > middle
        pattern |= lighter.view(np.uint8) << np.uint8(bit)
    counts = np.bincount(_PATTERNS[pattern.ravel()], minlength=10)
    return np.asarray(np.sqrt(counts / counts.sum()), dtype=np.float32)


_BLACK = _groups(np.zeros((SIDE, SIDE, 3), dtype=np.float32))
WEIGHTS = np.concatenate([np.full(figures.size, weight, dtype=np.float32) for weight, figures in _BLACK])
"""How much each figure counts once it is standardised."""
LENGTH = WEIGHTS.size


@dataclass(frozen=True, eq=False)
class Standard:
    """Brings figures to the same footing: after it they vary alike within a category, each on its own.

    By how they differ *within* a category, not over all, and what differs together there counts once: with a few
    dozen pictures of several hundred figures each, this is what lets a linear model find what differs *between*
    categories (it is the first half of a linear discriminant analysis).

    Attributes:
        mean, scale: one for each figure.
        mixing: inverse square root of the figures' covariance within the categories, shrunk as Ledoit and Wolf do.
    """

    mean: Floats
    scale: Floats
    mixing: Floats

    @classmethod
    def fit(cls, figures: Floats, labels: NDArray[np.intp]) -> Standard:
        """The standard of these pictures, a row of figures and a category number each."""
        from sklearn.covariance import ledoit_wolf  # takes a second to import, and only training needs it
        from sklearn.preprocessing import StandardScaler

        whole = StandardScaler().fit(figures.astype(np.float64))
        within = StandardScaler().fit(_less_own_mean(figures, labels))
        # A figure that happens to be the same all over a category must not drown the others.
        scale = np.maximum(np.where(within.var_ > 0, within.scale_, 0), _STEADIEST * whole.scale_).astype(np.float32)
        mean = whole.mean_.astype(np.float32)
        covariance, _ = ledoit_wolf(_less_own_mean(_scaled(figures, mean, scale), labels), assume_centered=True)
        powers, axes = np.linalg.eigh(covariance + _STEADIEST**2 * np.eye(len(covariance)))
        return cls(mean, scale, ((axes * (_STRIDE / np.sqrt(powers))) @ axes.T).astype(np.float32))

    def apply(self, figures: Floats) -> Floats:
        """Figures of one picture, or of one a row, as the model's weights expect them."""
        return np.asarray(_scaled(figures, self.mean, self.scale) @ self.mixing, dtype=np.float32)


def _scaled(figures: Floats, mean: Floats, scale: Floats) -> Floats:
    return np.asarray(np.clip((figures - mean) / scale, -_FARTHEST, _FARTHEST) * WEIGHTS, dtype=np.float32)


def _less_own_mean(figures: Floats, labels: NDArray[np.intp]) -> NDArray[np.float64]:
    """What is left of the figures when the mean of the picture's category is taken away."""
    left = figures.astype(np.float64)
    for label in np.unique(labels):
        left[labels == label] -= left[labels == label].mean(axis=0)
    return left
