"""Trained models at hand: read from disk once, the last few kept in memory."""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import TYPE_CHECKING

from image_sync_server.mvi.store import Store

if TYPE_CHECKING:
    from image_sync_server.learn.model import Model
    from image_sync_server.mvi.detector import Detector

_KEPT = 4


def read(raw: bytes) -> Model | Detector:
    """The model that a training wrote. Raises ValueError when it is damaged or of another version."""
    # Late: NumPy takes a while to import, and most requests never need it.
    from threadpoolctl import threadpool_limits

    from image_sync_server.learn.model import Model
    from image_sync_server.learn.parcel import ANOTHER
    from image_sync_server.mvi.detector import Detector

    # For good: threads that share the small matrices of one picture wait for each other, a few times slower than one.
    threadpool_limits(limits=1)
    try:
        model = Detector.from_bytes(raw) if Detector.wrote(raw) else Model.from_bytes(raw)
        if not (0 <= model.accuracy <= 1 and all(isinstance(name, str) for name in model.names)):
            raise ValueError(ANOTHER)
    except (KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:  # facts of somebody else's
        raise ValueError(ANOTHER) from error
    return model


class Shelf:
    """Models by id."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._models: OrderedDict[str, Model | Detector] = OrderedDict()
        self._lock = threading.Lock()

    def model(self, model_id: str) -> Model | Detector:
        """The model, ready to predict.

        Raises:
            ValueError: its file is damaged.
            OSError: its file cannot be read.
        """
        with self._lock:
            model = self._models.get(model_id)
            if model is None:
                model = read(self._store.model(model_id).read_bytes())
            self._models[model_id] = model
            self._models.move_to_end(model_id)
            while len(self._models) > _KEPT:
                self._models.popitem(last=False)
            return model

    def drop(self, model_id: str) -> None:
        """Forget a model."""
        with self._lock:
            self._models.pop(model_id, None)
