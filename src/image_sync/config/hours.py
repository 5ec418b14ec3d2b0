"""Times of day, as a person writes them: ``22:00-06:00``."""

from __future__ import annotations

import re

from image_sync.config.problems import Mistake

Hours = tuple[tuple[int, int], ...]
"""Stretches of the day, from a minute to a minute (0 to 1440); one that ends before it begins goes over midnight."""

_STRETCH = re.compile(r"\s*(\d{1,2}):(\d{2})\s*-\s*(\d{1,2}):(\d{2})\s*")
_DAY = 24 * 60
_HOUR = 60


def parsed(text: str) -> Hours:
    """The stretches in the text, which are separated by commas. Raises :class:`Mistake`.

    >>> parsed("22:00-06:00, 12:30-13:00")
    ((1320, 360), (750, 780))
    """
    stretches = tuple(_stretch(part) for part in text.split(","))
    if all(covers(stretches, minute) for minute in range(_DAY)):
        raise Mistake(
            "covers the whole day, so that nothing would ever be trained; leave some time, or use model.action"
        )
    return stretches


def covers(hours: Hours, minute: int) -> bool:
    """Whether the minute of the day (0 to 1439) lies in one of the stretches; their ends do not belong to them."""
    return any(start <= minute < end if start < end else minute >= start or minute < end for start, end in hours)


def _stretch(part: str) -> tuple[int, int]:
    found = _STRETCH.fullmatch(part)
    numbers = [int(number) for number in found.groups()] if found else []
    if not numbers or any(minute >= _HOUR for minute in numbers[1::2]):
        raise Mistake('is not a time of day; write it as in "22:00-06:00", several with commas between them')
    start, end = numbers[0] * _HOUR + numbers[1], numbers[2] * _HOUR + numbers[3]
    if start >= _DAY or end > _DAY or start == end:
        raise Mistake('does not begin and end at two times between 00:00 and 24:00; write it as in "22:00-06:00"')
    return start, end
