"""Object tags and labels, which detection models are trained on: a name, and a box or an outline around a thing."""

from __future__ import annotations

import itertools
import json
import math
import re
import sqlite3
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from image_sync_server.mvi.request import Failure, Request, checked_text, found, page, picked, success
from image_sync_server.mvi.store import Store, new_id, now_ms

_TAGS = "SELECT t.*, (SELECT count(*) FROM labels l WHERE l.tag_id = t.id) AS label_count FROM tags t"
_LABELS = """SELECT l.*, t.name, f.width, f.height
    FROM labels l JOIN tags t ON t.id = l.tag_id JOIN files f ON f.id = l.file_id"""
SHAPES = ("bndbox", "segment_polygons", "polygon", "point")
CORNERS = ("xmin", "ymin", "xmax", "ymax")
_GENERATE_TYPES = ("manual", "auto")
_NAME = 255
_FEWEST = 3  # corners of an outline


def _tag_named(store: Store, dataset_id: str, name: str) -> str | None:
    """The id of the tag of this name, upper and lower case alike; None when there is none."""
    wanted = name.strip().casefold()
    rows = store.rows("SELECT id, name FROM tags WHERE dataset_id = ? ORDER BY seq", dataset_id)
    return next((str(row["id"]) for row in rows if row["name"].strip().casefold() == wanted), None)


def ensure_tag(store: Store, dataset_id: str, name: str) -> str:
    """The id of the tag of this name, made if there is none."""
    with store.transaction():
        if (known := _tag_named(store, dataset_id, name)) is not None:
            return known
        # The id is used in URLs: whatever is no word character is replaced.
        plain = re.sub(r"\W+", "_", name.strip().lower())
        # "M6+" and "M6-" are two things, though their plain names are one.
        spare = itertools.chain([plain], (f"{plain}_{number}" for number in itertools.count(2)))
        normalized = next(one for one in spare if not store.count("tags WHERE id = ?", f"{dataset_id}-{one}"))
        tag_id = f"{dataset_id}-{normalized}"
        store.insert(
            "tags", id=tag_id, name=name, normalized_name=normalized, dataset_id=dataset_id, created_at=now_ms()
        )
        return tag_id


def _find_tag(store: Store, dataset_id: str, tag_id: str) -> sqlite3.Row:
    row = store.row(f"{_TAGS} WHERE t.dataset_id = ? AND t.id = ?", dataset_id, tag_id)
    return found(row, f"Could not find tag with id {tag_id} in dataset {dataset_id}.")


def _tag(request: Request) -> sqlite3.Row:
    return _find_tag(request.store, request.dataset["id"], request.path["tag"])


def listed_tags(store: Store, dataset_id: str) -> list[dict[str, Any]]:
    return [_shown_tag(row) for row in store.rows(f"{_TAGS} WHERE t.dataset_id = ? ORDER BY t.seq DESC", dataset_id)]


def _shown_tag(row: sqlite3.Row) -> dict[str, Any]:
    return {"_id": row["id"], **picked(row, "dataset_id name normalized_name label_count created_at")}


def list_tags(request: Request) -> list[dict[str, Any]]:
    return request.ordered(listed_tags(request.store, request.dataset["id"]))


def create_tag(request: Request) -> dict[str, Any]:
    dataset = request.dataset
    return success(dataset_tag_id=ensure_tag(request.store, dataset["id"], request.text("name")))


def show_tag(request: Request) -> dict[str, Any]:
    return _shown_tag(_tag(request))


def delete_tag(request: Request) -> dict[str, Any]:
    """``DELETE /tags/{tag}``: its labels go too."""
    request.store.delete("tags", _tag(request)["id"])
    return success()


def act_on_tag(request: Request) -> dict[str, Any]:
    """``POST /tags/{tag}/action``: rename, as documented, or update, as IBM's tool sends it."""
    row = _tag(request)
    match request.text("action"):
        case "rename":
            name = request.text("data")
        case "update":
            name = request.text("name")
        case action:
            raise Failure(400, f"A tag has no action {action!r}. Known: rename, update.")
    with request.store.transaction():
        if _tag_named(request.store, row["dataset_id"], name) not in {None, row["id"]}:
            raise Failure(409, f"The dataset has another tag named {name}.")
        request.store.update("tags", row["id"], name=name)
    return success()


@dataclass(frozen=True, slots=True)
class Entry:
    """A label of a picture, checked."""

    name: str
    shape: Mapping[str, Any]
    generate_type: str = "manual"


def entries(listed: Any, width: int, height: int, *, slack: float = 0) -> list[Entry]:
    """The labels of a picture of this size.

    Args:
        slack: pixels by which a label may reach out of the picture; it is cut at the edge.

    Raises:
        Failure: 400 when one of them is no label, with its number and the reason.
    """
    if not isinstance(listed, list):
        raise Failure(400, "labels must be a JSON list.")
    checked = []
    for number, entry in enumerate(listed, 1):
        try:
            checked.append(_entry(entry, width, height, slack))
        except Failure as failure:
            raise Failure(400, f"Label {number} of {len(listed)}: {failure.detail}") from None
    return checked


def _entry(entry: Any, width: int, height: int, slack: float) -> Entry:
    name = entry.get("name") if isinstance(entry, dict) else None
    if not isinstance(name, str):
        raise Failure(400, "A label must be an object with a name.")
    kind = entry.get("generate_type")
    shape = _shape_of(entry, width, height, slack)
    known = {"generate_type": kind} if kind in _GENERATE_TYPES else {}
    return Entry(checked_text("Its name", name, _NAME).strip(), shape, **known)


def _shape_of(body: Mapping[str, Any], width: int, height: int, slack: float = 0) -> dict[str, Any]:
    """The geometry in a label as a client sends it; an outline gives a box that is missing.

    Boxes are kept in whole pixels, as MVI does: fractions are rounded outwards.
    """
    shape = {key: body[key] for key in SHAPES if body.get(key) is not None}
    if not shape:
        raise Failure(400, f"A label needs one of {', '.join(SHAPES)}.")
    outlines: list[list[float]] = []
    if "segment_polygons" in shape:
        several = shape["segment_polygons"]
        if not isinstance(several, list) or not several:
            raise Failure(400, "segment_polygons must be a list of outlines.")
        shape["segment_polygons"] = [_outline(outline, width, height, slack) for outline in several]
        outlines = [point for outline in shape["segment_polygons"] for point in outline]
    elif "polygon" in shape:
        outlines = shape["polygon"] = _outline(shape["polygon"], width, height, slack)
    if "point" in shape:
        shape["point"] = _point(shape["point"], width, height, slack)
    if "bndbox" in shape:
        shape["bndbox"] = _box(shape["bndbox"], width, height, slack)
    elif outlines:
        across, down = zip(*outlines, strict=True)
        edges = (min(across), min(down), max(across), max(down))
        shape["bndbox"] = _box(dict(zip(CORNERS, edges, strict=True)), width, height, slack)
    return shape


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise TypeError(value)
    number = float(value)
    if not math.isfinite(number):
        raise ValueError(value)
    return number


def _inside(value: float, most: int, slack: float) -> float:
    """A coordinate, cut at the picture's edge if it is no farther out than the slack."""
    return min(max(value, 0.0), most) if -slack <= value <= most + slack else value


def _box(box: Any, width: int, height: int, slack: float) -> dict[str, int]:
    try:
        left, top, right, bottom = (
            _inside(_number(box[corner]), most, slack)
            for corner, most in zip(CORNERS, (width, height) * 2, strict=True)
        )
    except (KeyError, TypeError, ValueError, OverflowError):
        raise Failure(400, "bndbox needs the numbers xmin, ymin, xmax and ymax.") from None
    if not (0 <= left < right <= width and 0 <= top < bottom <= height):
        raise Failure(
            400,
            f"The box from ({left:g}, {top:g}) to ({right:g}, {bottom:g}) must lie in the picture of {width} x {height}"
            " pixels, with xmin below xmax and ymin below ymax.",
        )
    edges = (math.floor(left), math.floor(top), math.ceil(right), math.ceil(bottom))
    return dict(zip(CORNERS, edges, strict=True))


def _outline(outline: Any, width: int, height: int, slack: float) -> list[list[float]]:
    if not isinstance(outline, list) or len(outline) < _FEWEST:
        raise Failure(400, f"An outline must be a list of at least {_FEWEST} points.")
    return [_point(point, width, height, slack) for point in outline]


def _point(point: Any, width: int, height: int, slack: float) -> list[float]:
    try:
        across, down = (
            _inside(_number(value), most, slack) for value, most in zip(point, (width, height), strict=True)
        )
    except (TypeError, ValueError, OverflowError):
        raise Failure(400, "A point must be a list of two numbers.") from None
    if not (0 <= across <= width and 0 <= down <= height):
        raise Failure(400, f"The point ({across:g}, {down:g}) must lie in the picture of {width} x {height} pixels.")
    return [across, down]


def _add(store: Store, dataset_id: str, file_id: str, tag_id: str, shape: Mapping[str, Any], kind: str) -> str:
    label_id = new_id()
    store.insert("labels", id=label_id, dataset_id=dataset_id, file_id=file_id, tag_id=tag_id, generate_type=kind,
                 shape=json.dumps(shape), created_at=now_ms())  # fmt: skip
    return label_id


def put(store: Store, dataset_id: str, file_id: str, labels: Iterable[Entry]) -> None:
    """Give a file these labels instead of those it has."""
    with store.transaction():
        store.run("DELETE FROM labels WHERE file_id = ?", file_id)
        for entry in labels:
            tag_id = ensure_tag(store, dataset_id, entry.name)
            _add(store, dataset_id, file_id, tag_id, entry.shape, entry.generate_type)


def copy(store: Store, source: str, target: str, files: Mapping[str, str]) -> None:
    """Put the labels of some files on their copies in another dataset."""
    for old, new in files.items():
        for label in store.rows(f"{_LABELS} WHERE l.dataset_id = ? AND l.file_id = ? ORDER BY l.seq", source, old):
            tag_id = ensure_tag(store, target, label["name"])
            _add(store, target, new, tag_id, json.loads(label["shape"]), label["generate_type"])


def tag_lists(store: Store, dataset_id: str) -> dict[str, list[dict[str, Any]]]:
    """For each labelled file its tags with their counts."""
    rows = store.rows(
        "SELECT l.file_id, l.tag_id, t.name AS tag_name, count(*) AS tag_count"
        " FROM labels l JOIN tags t ON t.id = l.tag_id WHERE l.dataset_id = ? GROUP BY l.file_id, l.tag_id",
        dataset_id,
    )
    tags: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        tags.setdefault(row["file_id"], []).append(picked(row, "tag_id tag_name tag_count"))
    return tags


def listed(
    store: Store, dataset_id: str, condition: str = "1", values: Iterable[Any] = (), limit: int = -1, skip: int = 0
) -> list[dict[str, Any]]:
    """Labels of a dataset that meet a condition, newest first."""
    rows = store.rows(
        f"{_LABELS} WHERE l.dataset_id = ? AND {condition} ORDER BY l.seq DESC LIMIT ? OFFSET ?",
        dataset_id, *values, limit, skip,
    )  # fmt: skip
    return [_shown(row) for row in rows]


def _shown(row: sqlite3.Row) -> dict[str, Any]:
    same = picked(row, "dataset_id file_id tag_id name generate_type")
    return {"_id": row["id"], **same, **json.loads(row["shape"])}


def boxes(store: Store, dataset_id: str) -> dict[str, list[tuple[str, dict[str, int]]]]:
    """The boxes in a dataset, by the stored name of their file, oldest first: name of the tag, and corners."""
    rows = store.rows(
        "SELECT f.file_name, t.name, l.shape FROM labels l"
        " JOIN tags t ON t.id = l.tag_id JOIN files f ON f.id = l.file_id WHERE l.dataset_id = ? ORDER BY f.seq, l.seq",
        dataset_id,
    )
    marked: dict[str, list[tuple[str, dict[str, int]]]] = {}
    for row in rows:
        if (box := json.loads(row["shape"]).get("bndbox")) is not None:
            marked.setdefault(row["file_name"], []).append((row["name"], box))
    return marked


def show_all(request: Request) -> dict[str, Any]:
    """``GET /files/{file}/labels``: in the older form."""
    row = request.file
    labels = listed(request.store, row["dataset_id"], "l.file_id = ?", [row["id"]])
    same = picked(row, "created_at dataset_id")
    return {"_id": row["id"], **same, "label_file_key": row["id"], "labels": labels[::-1]}


def replace_all(request: Request) -> dict[str, Any]:
    """``POST /files/{file}/labels``: instead of all that it has."""
    row = request.file
    given = request.body if isinstance(request.body, list) else request.fields.get("labels")
    put(request.store, row["dataset_id"], row["id"], entries(given, row["width"], row["height"]))
    return success()


def create(request: Request) -> dict[str, Any]:
    row = request.file
    tag = _find_tag(request.store, row["dataset_id"], request.text("tag_id"))
    kind = request.text("generate_type", "manual") or "manual"
    shape = _shape_of(request.fields, row["width"], row["height"])
    return success(id=_add(request.store, row["dataset_id"], row["id"], tag["id"], shape, kind))


def listing(request: Request) -> list[dict[str, Any]]:
    """``GET /object-labels``, of a dataset or of one file."""
    dataset = request.dataset
    return listed(request.store, dataset["id"], *_condition(request), *page(request.query))


def delete_many(request: Request) -> dict[str, Any]:
    """``DELETE /object-labels``: all that the same query would list."""
    dataset = request.dataset
    gone = listed(request.store, dataset["id"], *_condition(request))
    with request.store.transaction() as connection:
        connection.executemany("DELETE FROM labels WHERE id = ?", [(label["_id"],) for label in gone])
    return success(success_count=len(gone))


def _condition(request: Request) -> tuple[str, list[Any]]:
    words, values = ["1"], []
    if "file" in request.path:
        words.append("l.file_id = ?")
        values.append(request.file["id"])
    for name, column in (("tag_ids", "l.tag_id"), ("file_ids", "l.file_id")):
        if ids := request.chosen(name):
            words.append(f"{column} IN ({','.join('?' * len(ids))})")
            values += ids
    if kind := request.query.get("generate_type"):
        words.append("l.generate_type = ?")
        values.append(kind)
    if request.query.get("model_id") or request.query.get("min_conf") or request.query.get("max_conf"):
        words.append("0")  # only labels made by a model have these, and no model labels here
    return " AND ".join(words), values


def _row(request: Request) -> sqlite3.Row:
    dataset_id, label_id = request.dataset["id"], request.path["label"]
    row = request.store.row(f"{_LABELS} WHERE l.dataset_id = ? AND l.id = ?", dataset_id, label_id)
    return found(row, f"Could not find label with id {label_id} in dataset {dataset_id}.")


def show(request: Request) -> dict[str, Any]:
    return _shown(_row(request))


def change(request: Request) -> dict[str, Any]:
    """``PUT /object-labels/{label}``: its tag, its shape, how it was made."""
    row = _row(request)
    tag_id = request.text("tag_id", row["tag_id"])
    _find_tag(request.store, row["dataset_id"], tag_id)
    shape = json.loads(row["shape"])
    if any(key in request.fields for key in SHAPES):
        shape |= _shape_of(request.fields, row["width"], row["height"])
    kind = request.text("generate_type", row["generate_type"])
    request.store.update("labels", row["id"], tag_id=tag_id, shape=json.dumps(shape), generate_type=kind)
    return success(id=row["id"])


def delete(request: Request) -> dict[str, Any]:
    request.store.delete("labels", _row(request)["id"])
    return success()
