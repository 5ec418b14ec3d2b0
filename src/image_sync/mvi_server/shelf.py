"""Trained models at hand: read from disk once, the last few kept in memory."""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import TYPE_CHECKING

from image_sync.mvi_server.store import Store

if TYPE_CHECKING:
    from image_sync.mvi_server.model import Model

_KEPT = 4


class Shelf:
    """Models by id."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._models: OrderedDict[str, Model] = OrderedDict()
        self._lock = threading.Lock()

    def model(self, model_id: str) -> Model:
        """The model, ready to predict.

        Raises:
            ValueError: its file is damaged.
            OSError: its file cannot be read.
        """
        # Late: scikit-learn takes a second to import, and most requests never need it.
        from image_sync.mvi_server.model import Model

        with self._lock:
            model = self._models.get(model_id)
            if model is None:
                model = Model.from_bytes(self._store.model(model_id).read_bytes())
            self._models[model_id] = model
            self._models.move_to_end(model_id)
            while len(self._models) > _KEPT:
                self._models.popitem(last=False)
            return model

    def drop(self, model_id: str) -> None:
        """Forget a model."""
        with self._lock:
            self._models.pop(model_id, None)
