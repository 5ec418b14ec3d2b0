"""The curve of a training, as ``GET /dltasks/{id}/status`` shows it."""

from __future__ import annotations

import threading
from datetime import UTC, datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from image_sync_server.learn.learner import Point


class Curve:
    """A bounded series of messages: when it is full every other point goes, the newest always stays.

    Args:
        most: how many points are kept.
    """

    def __init__(self, most: int) -> None:
        self._most = max(2, most)
        self._points: list[list[dict[str, str]]] = []
        self._stride = 1
        self._seen = 0
        self._last: list[dict[str, str]] = []
        self._lock = threading.Lock()

    def add(self, point: Point) -> None:
        """Take a point of the learner."""
        messages = _messages(point)
        with self._lock:
            if self._seen % self._stride == 0:
                self._points.append(messages)
                if len(self._points) >= self._most:
                    del self._points[1::2]
                    self._stride *= 2
            self._seen += 1
            self._last = messages

    def as_json(self) -> list[dict[str, str]]:
        """All messages, oldest first."""
        with self._lock:
            points = list(self._points)
            if self._last and (not points or points[-1] is not self._last):
                points.append(self._last)
            return [message for point in points for message in point]


def _messages(point: Point) -> list[dict[str, str]]:
    # MVI writes all numbers as strings; one client reads remaining_time, IBM's document says remain_time.
    stamp = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S")
    remaining = f"{max(0.0, point.remaining):.0f}"
    messages = [
        {
            "type": "train_msg",
            "iter": str(point.iteration),
            "total_iter": str(point.total),
            "loss": f"{point.loss:.6g}",
            "remain_time": remaining,
            "remaining_time": remaining,
            "progress": f"{point.iteration / max(1, point.total):.4f}",
            "timestamp": stamp,
        }
    ]
    if point.test_loss is not None:
        accuracy = "" if point.accuracy is None else f"{point.accuracy:.4f}"
        messages.append(
            {
                "type": "test_msg",
                "iter": str(point.iteration),
                "loss": f"{point.test_loss:.6g}",
                "accuracy": accuracy,
                "timestamp": stamp,
            }
        )
    return messages
