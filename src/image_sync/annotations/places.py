"""In which folders the annotations of a folder's pictures may lie. Names only: nothing here touches the disk."""

from __future__ import annotations

from dataclasses import dataclass

NAMES = (b"annotations", b"Annotations", b"labels", b"Labels")
"""Folders that hold annotations: of Pascal VOC, COCO and YOLO, as they are handed around."""

_PICTURES = frozenset({b"images", b"jpegimages"})


@dataclass(frozen=True, slots=True)
class Place:
    """A folder to look into.

    Attributes:
        shared_in: the folder whose pictures, and those of the folders directly in it, may all have their annotations
            here; empty when this place serves one folder only.
        only_lists: only files that list their pictures by name (COCO) count here.
    """

    folder: bytes
    shared_in: bytes = b""
    only_lists: bool = False


def places(root: bytes, folder: bytes) -> list[Place]:
    """Where annotations of the pictures in this folder, at or below the root, may lie; never outside the root.

    For ``set/good`` these are ``set/good`` itself, ``set/good/annotations``, ``set/annotations`` (shared with other
    folders of ``set``), ``set/annotations/good``, and ``set`` for a COCO file; for ``set/images/train`` also
    ``set/labels/train``.
    """
    found = [Place(folder), *(Place(folder + b"/" + name) for name in NAMES)]
    steps = folder[len(root) :].strip(b"/").split(b"/")
    if steps == [b""]:
        return found
    parent, _, base = folder.rpartition(b"/")
    found.append(Place(parent, shared_in=parent, only_lists=True))
    for name in NAMES:
        found += [Place(parent + b"/" + name, shared_in=parent), Place(parent + b"/" + name + b"/" + base)]
    last = max((at for at, step in enumerate(steps) if step.lower() in _PICTURES), default=None)
    if last is not None and last < len(steps) - 1:
        found += [Place(b"/".join([root.rstrip(b"/"), *steps[:last], name, *steps[last + 1 :]])) for name in NAMES]
    return list({place.folder: place for place in reversed(found)}.values())[::-1]
