"""Datasets and models as archives: out of one server, into another."""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

from image_sync.mvi_server import labelling, texts, uploads, zips
from image_sync.mvi_server.answers import Failure
from image_sync.mvi_server.limits import Limits
from image_sync.mvi_server.records import categories, datasets, files, labels
from image_sync.mvi_server.store import Store

PROPERTIES = "prop.json"
_MODEL, _ABOUT = "model.bin", "model.json"
_PROP_VERSION = "PROP_VESION_1"  # spelt so by MVI


def file_name(name: str, fallback: str) -> str:
    """A download name; IBM's tool takes quotes as part of it, so it must need none.

    >>> file_name("my pärts", "dataset")
    'my_p_rts.zip'
    """
    return (re.sub(r"[^A-Za-z0-9._-]+", "_", name).strip("._-")[:80] or fallback) + ".zip"


def write_dataset(store: Store, dataset_id: str, target: Path, *, raw: bool) -> str:
    """Write a dataset as MVI does: one top folder, files by id, ``prop.json``; its download name.

    Args:
        raw: add the rows as they are kept, below ``__DEBUG/``.

    Raises:
        Failure: 404 when there is none.
    """
    about = datasets.as_json(datasets.find(store, dataset_id))
    found = files.listing(store, dataset_id, "1", [], "f.seq")
    marked: dict[str, list[dict[str, Any]]] = {}
    for label in labels.listing(store, dataset_id):
        marked.setdefault(label["file_id"], []).insert(0, label)
    top = file_name(about["name"], "dataset").removesuffix(".zip")
    with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as archive:
        for file in found:
            archive.write(store.picture(dataset_id, file["file_name"]), f"{top}/{file['file_name']}")
            if file["_id"] in marked:
                archive.writestr(f"{top}/{file['_id']}.xml", _annotation(file, marked[file["_id"]]))
        properties = {
            "usage": about["usage"],
            "name": about["name"],
            "type": about["type"],
            "scenario": about["scenario"],
            "prop_version": _PROP_VERSION,
            "pre_process": "",
            "category_prop_info": json.dumps(categories.listing(store, dataset_id)),
            "action_prop_info": "[]",
            "file_prop_info": json.dumps([_file_entry(file, marked.get(file["_id"], [])) for file in found]),
        }
        archive.writestr(f"{top}/{PROPERTIES}", json.dumps(properties), zipfile.ZIP_DEFLATED)
        if raw:
            debug = {"dataset": about, "files": found}
            archive.writestr(f"{top}/__DEBUG/rows.json", json.dumps(debug), zipfile.ZIP_DEFLATED)
    return f"{top}.zip"


def _file_entry(file: Mapping[str, Any], marked: list[dict[str, Any]]) -> dict[str, Any]:
    keys = ("_id", "file_type", "parent_id", "generate_type", "created_at", "original_file_name", "uploaded_at",
            "upload_type", "user_metadata")  # fmt: skip
    entry = {key: file[key] for key in keys}
    entry["category_id"] = file["category_id"] or None
    entry["category_name"] = file["category_name"] or None
    if marked:
        entry["label_type"] = file["label_type"]
        # For our own import, which reads no XML from strangers.
        entry["labels"] = [{key: label[key] for key in ("name", *labelling.SHAPES) if key in label} for label in marked]
    return entry


def _annotation(file: Mapping[str, Any], marked: list[dict[str, Any]]) -> str:
    size = file["meta_data"]
    objects = "".join(
        f"<object><_id>{label['_id']}</_id><name>{escape(label['name'])}</name>{_box(label)}"
        f"<generate_type>{escape(label['generate_type'])}</generate_type><file_id>{file['_id']}</file_id></object>"
        for label in marked
    )
    return (
        f"<annotation><size><width>{size['width']}</width><height>{size['height']}</height><depth>3</depth></size>"
        f"{objects}</annotation>"
    )


def _box(label: Mapping[str, Any]) -> str:
    box = label.get("bndbox")
    if box is None:
        return ""
    return "<bndbox>" + "".join(f"<{corner}>{value}</{corner}>" for corner, value in box.items()) + "</bndbox>"


def read_properties(source: Path, limits: Limits) -> dict[str, Any]:
    """``prop.json`` of an exported dataset, with its inner documents unpacked.

    Raises:
        Failure: 400 when the archive is refused, or is no export of a dataset.
    """
    try:
        with source.open("rb") as file, zips.opened(file, limits) as archive:
            found = [one for one in archive.infolist() if zips.base_name(one) == PROPERTIES]
            if not found:
                raise Failure(400, f"The archive holds no {PROPERTIES}: it is not an exported dataset.")
            properties = texts.parsed(zips.read(archive, found[0]))
            for key in ("category_prop_info", "file_prop_info"):
                inner = properties.get(key) or "[]"
                properties[key] = texts.parsed(inner) if isinstance(inner, str) else inner
                if not all(isinstance(entry, dict) for entry in properties[key]):
                    raise ValueError(key)  # noqa: TRY301 - told as the parser's own errors are
    except zips.BadZip as error:
        raise Failure(400, str(error)) from error
    except (ValueError, AttributeError, TypeError) as error:
        raise Failure(400, f"{PROPERTIES} in the archive is damaged.") from error
    return dict(properties)


class DatasetImport:
    """Fills a new dataset from an archive whose properties were read already."""

    def __init__(self, store: Store, limits: Limits, dataset_id: str, owner: str) -> None:
        self._store = store
        self._limits = limits
        self._dataset_id = dataset_id
        self._owner = owner
        self.succeeded = self.skipped = self.failed = 0

    def categories(self, properties: Mapping[str, Any]) -> None:
        """Make the categories, oldest first, those without pictures too."""
        for entry in reversed(properties["category_prop_info"]):
            if isinstance(entry.get("name"), str) and entry["name"].strip():
                categories.ensure(self._store, self._dataset_id, entry["name"])

    def member(self, archive: zipfile.ZipFile, member: zipfile.ZipInfo, known: Mapping[str, dict[str, Any]]) -> None:
        """Take one entry: pictures become files, what is no picture is skipped."""
        name = zips.base_name(member)
        stem, _, suffix = name.rpartition(".")
        if suffix.lower() not in {"jpg", "jpeg", "png"}:
            self.skipped += 1
            return
        entry = known.get(stem, {})
        shown = uploads.shown_name(str(entry.get("original_file_name") or name), self._limits.name)
        received = uploads.taken(shown, zips.read(archive, member), self._store, self._limits)
        if received.file is None:
            self.failed += 1
            return
        category, metadata = entry.get("category_name"), entry.get("user_metadata")
        category_id = None
        if isinstance(category, str) and category:
            category_id = categories.ensure(self._store, self._dataset_id, category)
        (ready,) = uploads.labelled([received], category_id, json.dumps(metadata) if metadata else "{}")
        if ready.file is None:
            raise AssertionError("a picture that was taken is gone")
        try:
            found = labelling.entries(entry.get("labels") or [], ready.file.width, ready.file.height)
        except Failure:
            # Without its labels the picture would say that there is nothing in it.
            files.discard([ready.file.scratch])
            self.failed += 1
            return
        with self._store.transaction():
            files.add(self._store, self._dataset_id, self._owner, [ready.file])
            labels.replace_all(self._store, self._dataset_id, ready.file.id, found)
        self.succeeded += 1


def write_model(store: Store, model: Mapping[str, Any], target: Path) -> str:
    """Write a trained model; its download name."""
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(_ABOUT, json.dumps(model))
        archive.write(store.model(model["_id"]), _MODEL)
    return file_name(model["name"], "model")


def read_model(source: Path, limits: Limits) -> tuple[dict[str, Any], bytes]:
    """What an exported model says of itself, and its bytes.

    Raises:
        Failure: 400 when it is no model that this server exported.
    """
    try:
        with source.open("rb") as file, zips.opened(file, limits) as archive:
            members = {member.filename: member for member in archive.infolist()}
            about = texts.parsed(zips.read(archive, members[_ABOUT]))
            raw = zips.read(archive, members[_MODEL])
        if not isinstance(about["name"], str) or not about["name"].strip():
            raise ValueError("name")  # noqa: TRY301 - told as the parser's own errors are
        about["accuracy"] = float(about["accuracy"])
    except zips.BadZip as error:
        raise Failure(400, str(error)) from error
    except (KeyError, TypeError, ValueError) as error:
        raise Failure(400, "The archive is not a model that this server exported.") from error
    return about, raw
