"""A small world like that of ``model.py`` in which pictures have annotations beside them."""

from __future__ import annotations

import os
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Literal

from image_sync.domain import Annotation, Box
from support.annotations import voc, voc_object
from support.model import World

SIZE = (16, 12)
"""Of every picture in that world."""
LABELS = ("hole", "dent", "screw")


def drawing(number: int) -> Annotation:
    """The ``number``-th annotation; the 0th marks nothing."""
    boxes = (Box(LABELS[number % 3], number % 5, 1, number % 5 + 4 + number, 9),) if number else ()
    return Annotation(*SIZE, boxes)


class MarkedWorld(World):
    """Folders with annotations, a platform that stores boxes, and a process between them."""

    annotations: Literal["optional", "none"] = "optional"

    def annotate(self, place: str, number: int) -> None:
        """Write the ``number``-th annotation beside a picture; a negative number deletes it."""
        path = (self.root / place).with_suffix(".xml")
        with suppress(OSError):
            if number < 0:
                path.unlink()
            else:
                objects = [
                    voc_object(box.label, (box.left, box.top, box.right, box.bottom)) for box in drawing(number).boxes
                ]
                text = voc(*objects, size=SIZE) if objects else "<annotation/>"
                draft = path.with_suffix(f".{self.unix}")
                draft.write_text(f"{text}<!--{number}-->")
                draft.rename(path)

    def _standing(self) -> tuple[object, ...]:
        return *super()._standing(), self._rows("SELECT * FROM annotation ORDER BY picture_id")

    def check(self, *, complete: bool) -> None:
        """As in a world without annotations; and every box is as its file says."""
        super().check(complete=complete)
        assert self.tally.unmarked == 0
        labels: Counter[str] = Counter()
        for row in self._rows(
            "SELECT p.remote_id, f.path, l.name, m.text, a.refused = a.wanted AS refused FROM picture p"
            " LEFT JOIN file l ON l.picture_id = p.id AND l.role = 'owner' LEFT JOIN folder f ON f.id = l.folder_id"
            " LEFT JOIN annotation a ON a.picture_id = p.id LEFT JOIN annotation_text m ON m.fingerprint = a.sent"
            " WHERE p.state = 'confirmed'"
        ):
            there = self.remote.annotation(row["remote_id"])
            if row["text"] is not None:
                assert there == Annotation.from_text(row["text"]), "the ledger believes in other boxes than there are"
                labels.update({box.label for box in there.boxes})
            if row["name"] is None or (row["refused"] and not complete):
                continue
            file = Path(os.fsdecode(row["path"] + b"/" + row["name"])).with_suffix(".xml")
            if file.exists():
                assert there is not None, f"{file} was never sent"
                number = int(file.read_text().rpartition("<!--")[2][:-3])
                assert there.to_text() == drawing(number).to_text(), f"{file} says something else"
        assert self.tally.labelled == dict(labels)
