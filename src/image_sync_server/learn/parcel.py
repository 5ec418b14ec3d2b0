"""How trained models are kept: a line that says what it is, a checksum, a line of JSON, and plain numbers."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
ANOTHER = "The stored model is of another version of image-sync. Train it anew."


def packed(magic: bytes, facts: Mapping[str, Any], arrays: Sequence[Floats]) -> bytes:
    """Facts and numbers as bytes; equal ones give equal bytes."""
    body = b"\n".join([json.dumps(facts).encode(), b"".join(array.astype("<f4").tobytes() for array in arrays)])
    return magic + hashlib.sha256(body).digest() + body


def opened(magic: bytes, raw: bytes) -> tuple[dict[str, Any], Floats]:
    """The facts and all numbers that :func:`packed` wrote. Raises ValueError when they are damaged or others."""
    body = raw[len(magic) + hashlib.sha256().digest_size :]
    if raw != magic + hashlib.sha256(body).digest() + body:
        raise ValueError("The stored model is damaged or of another version of image-sync. Train it anew.")
    head, _, tail = body.partition(b"\n")
    return json.loads(head), np.frombuffer(tail, dtype="<f4").astype(np.float32)


def split(numbers: Floats, shapes: Sequence[tuple[int, ...]]) -> list[Floats]:
    """The numbers as arrays of these shapes. Raises ValueError when there are more or fewer, or some are no numbers."""
    sizes = [math.prod(shape) for shape in shapes]
    if numbers.size != sum(sizes):
        raise ValueError(ANOTHER)
    if not np.isfinite(numbers).all():
        raise ValueError(ANOTHER)
    parts = np.split(numbers, np.cumsum(sizes)[:-1])
    return [part.reshape(shape) for part, shape in zip(parts, shapes, strict=True)]
