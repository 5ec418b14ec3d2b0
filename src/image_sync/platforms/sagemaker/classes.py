"""Class names in the order in which they became known: it decides their numbers, is stored, and only ever grows."""

from __future__ import annotations

import threading
import unicodedata
from collections.abc import Iterable
from typing import Any

from image_sync.errors import NotFound
from image_sync.platforms.sagemaker.documents import Documents
from image_sync.platforms.sagemaker.keys import id_of


class Classes:
    """The categories, or the labels, of one dataset.

    Args:
        key: of the document that holds them.
    """

    def __init__(self, documents: Documents, key: str) -> None:
        self._documents = documents
        self._key = key
        self._lock = threading.Lock()
        self._known: dict[str, str] = {}
        """Id -> name, in order."""

    def ensure(self, names: Iterable[str]) -> dict[str, str]:
        """Id -> name of all classes in their order, after these were added, several in the order of the alphabet."""
        wanted = {id_of(name): unicodedata.normalize("NFC", name) for name in sorted(set(names))}
        with self._lock:
            if not wanted.keys() <= self._known.keys():
                self._known = _of(self._documents.change(self._key, lambda content: _grown(content, wanted)))
            return dict(self._known)

    def all(self) -> dict[str, str]:
        """Id -> name of all classes in their order, as they are now."""
        with self._lock:
            try:
                self._known = _of(self._documents.read(self._key))
            except NotFound:
                self._known = {}
            return dict(self._known)

    def names(self, ids: Iterable[str]) -> dict[str, str]:
        """Id -> name of the classes, asked for only when one of these ids is new to us."""
        with self._lock:
            known = dict(self._known)
        return known if set(ids) <= known.keys() else self.all()


def _of(content: dict[str, Any]) -> dict[str, str]:
    return {str(one["id"]): str(one["name"]) for one in content.get("classes", ())}


def _grown(content: dict[str, Any], wanted: dict[str, str]) -> dict[str, Any] | None:
    known = _of(content)
    new = {class_id: name for class_id, name in wanted.items() if class_id not in known}
    if not new:
        return None
    return {"classes": [{"id": class_id, "name": name} for class_id, name in {**known, **new}.items()]}
