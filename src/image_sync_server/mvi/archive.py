"""Datasets as archives: out of one server, into another."""

from __future__ import annotations

import json
import threading
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element, ParseError, SubElement, tostring

import structlog
from defusedxml.common import DefusedXmlException
from defusedxml.ElementTree import fromstring
from starlette.responses import Response

from image_sync_server.mvi import categories, datasets, files, labels, tasks
from image_sync_server.mvi.pictures import (
    TAKEN,
    BadZip,
    Limits,
    base_name,
    discard,
    is_litter,
    open_zip,
    read_member,
    shown_name,
    taken,
)
from image_sync_server.mvi.request import Failure, Request, download, file_name, parsed_json, success
from image_sync_server.mvi.store import Store

_log = structlog.stdlib.get_logger(__name__)
_EVERY = 20
PROPERTIES = "prop.json"
_PROP_VERSION = "PROP_VESION_1"  # spelt so by MVI
_MOST_TAGS = 500_000
_SLACK = 1.0
"""Pixels by which a label of an archive may reach out of its picture: tools round differently at the edge."""


def export(request: Request) -> Response:
    """A dataset as MVI writes it: one top folder, files by id, ``prop.json``; with ``raw`` the rows too."""
    store, dataset_id, target = request.store, request.path["ds"], request.store.scratch()
    about = datasets.shown(store, dataset_id)
    listed = files.listed(store, dataset_id, "1", [], "f.seq")
    marked: dict[str, list[dict[str, Any]]] = {}
    for label in labels.listed(store, dataset_id):
        marked.setdefault(label["file_id"], []).insert(0, label)
    name = file_name(about["name"], "dataset")
    top = name.removesuffix(".zip")
    with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as archive:
        for file in listed:
            archive.write(store.picture(dataset_id, file["file_name"]), f"{top}/{file['file_name']}")
            if file["_id"] in marked:
                archive.writestr(f"{top}/{file['_id']}.xml", _annotation(file, marked[file["_id"]]))
        properties = {
            **{key: about[key] for key in ("usage", "name", "type", "scenario")},
            "prop_version": _PROP_VERSION,
            "pre_process": "",
            "category_prop_info": json.dumps(categories.listed(store, dataset_id)),
            "action_prop_info": "[]",
            "file_prop_info": json.dumps([_file_entry(file) for file in listed]),
        }
        archive.writestr(f"{top}/{PROPERTIES}", json.dumps(properties), zipfile.ZIP_DEFLATED)
        if request.query.get("raw", "").lower() == "true":
            debug = {"dataset": about, "files": listed}
            archive.writestr(f"{top}/__DEBUG/rows.json", json.dumps(debug), zipfile.ZIP_DEFLATED)
    return download(target, name)


def _file_entry(file: Mapping[str, Any]) -> dict[str, Any]:
    keys = ("_id", "file_type", "parent_id", "generate_type", "created_at", "original_file_name", "uploaded_at",
            "upload_type", "user_metadata")  # fmt: skip
    entry = {key: file[key] for key in keys}
    entry |= {key: file[key] or None for key in ("category_id", "category_name")}
    return entry | ({"label_type": file["label_type"]} if file["label_type"] else {})


def _annotation(file: Mapping[str, Any], marked: list[dict[str, Any]]) -> bytes:
    """The XML that MVI puts beside a labelled picture: Pascal VOC, with outlines as lists of points."""
    root = Element("annotation")
    size = SubElement(root, "size")
    for tag, value in (*file["meta_data"].items(), ("depth", 3)):
        SubElement(size, tag).text = str(value)
    for label in marked:
        element = SubElement(root, "object")
        for tag in ("_id", "name", "generate_type", "file_id"):
            SubElement(element, tag).text = label[tag]
        if "bndbox" in label:
            box = SubElement(element, "bndbox")
            for corner, value in label["bndbox"].items():
                SubElement(box, corner).text = str(value)
        if "segment_polygons" in label:
            outlines = SubElement(element, "segment_polygons")
            for outline in label["segment_polygons"]:
                _add_points(SubElement(outlines, "polygon"), outline)
        if "polygon" in label:
            _add_points(SubElement(element, "polygon"), label["polygon"])
        if "point" in label:
            _add_points(element, [label["point"]])
    return bytes(tostring(root, encoding="utf-8", xml_declaration=True))


def _add_points(element: Element, points: Iterable[Iterable[float]]) -> None:
    for point in points:
        corner = SubElement(element, "point")
        for value in point:
            SubElement(corner, "value").text = repr(value).removesuffix(".0")


def _read_annotation(raw: bytes) -> list[dict[str, Any]]:
    """The objects of such a file, in the form in which clients send labels.

    Raises:
        Failure: 400 when it is no such file.
    """
    # "<" begins every tag in every encoding: a bound on the memory that the tree takes.
    if raw.count(b"<") > _MOST_TAGS:
        raise Failure(400, f"Its XML has more than {_MOST_TAGS} tags.")
    try:
        root = fromstring(raw, forbid_dtd=True)
    except (ParseError, DefusedXmlException, ValueError, LookupError):
        raise Failure(400, "Its XML cannot be read.") from None
    if root.tag != "annotation":
        raise Failure(400, "Its XML is not Pascal VOC: the outermost element must be <annotation>.")
    return [_read_object(element) for element in root.findall("object")]


def _read_object(element: Element) -> dict[str, Any]:
    label: dict[str, Any] = {"name": element.findtext("name"), "generate_type": element.findtext("generate_type")}
    if (box := element.find("bndbox")) is not None:
        label["bndbox"] = {corner: box.findtext(corner) for corner in labels.CORNERS}
    if outlines := element.findall("segment_polygons/polygon"):
        label["segment_polygons"] = [_points(outline) for outline in outlines]
    if (outline := element.find("polygon")) is not None:
        label["polygon"] = _points(outline)
    if point := _points(element):
        label["point"] = point[0]
    return label


def _points(element: Element) -> list[list[str | None]]:
    return [[value.text for value in point.findall("value")] for point in element.findall("point")]


def import_(request: Request) -> dict[str, Any]:
    """``POST /datasets/import``: looked at before the answer, filled in the background."""
    source, store, limits = request.archive(), request.store, request.server.limits
    try:
        properties = _read_properties(source, limits)
        given = request.form.fields.get("name") or str(properties.get("name") or "")
        name = request.checked("name", shown_name(given, limits.name))
        with store.transaction():
            dataset_id = datasets.make(store, request.user, name, locked=True)
            total = len(properties["file_prop_info"])
            tasks.begin_background(store, dataset_id, "import_dataset", request.user, total, dataset_id)
    except BaseException:
        source.unlink(missing_ok=True)
        raise
    work = _Import(store, limits, dataset_id, request.user, properties)
    request.server.jobs.chore(partial(work.run, source, request.server.jobs.stopping))
    return success(dataset_id=dataset_id, usage=str(properties.get("usage") or "generic"))


def _read_properties(source: Path, limits: Limits) -> dict[str, Any]:
    """``prop.json`` of an exported dataset, with its inner documents unpacked. Raises Failure (400)."""
    try:
        with source.open("rb") as file, open_zip(file, limits) as archive:
            found = [one for one in archive.infolist() if base_name(one) == PROPERTIES]
            if not found:
                raise Failure(400, f"The archive holds no {PROPERTIES}: it is not an exported dataset.")
            properties = parsed_json(read_member(archive, found[0]))
            for key in ("category_prop_info", "file_prop_info"):
                inner = properties.get(key) or "[]"
                properties[key] = parsed_json(inner) if isinstance(inner, str) else inner
                if not all(isinstance(entry, dict) for entry in properties[key]):
                    raise ValueError(key)  # noqa: TRY301 - told as the parser's own errors are
    except BadZip as error:
        raise Failure(400, str(error)) from error
    except (ValueError, AttributeError, TypeError) as error:
        raise Failure(400, f"{PROPERTIES} in the archive is damaged.") from error
    return dict(properties)


class _Import:
    """Fills a new dataset from an archive whose properties were read already.

    What cannot be taken is named in ``_lost``; what nobody needs is counted in ``_skipped``.
    """

    def __init__(
        self, store: Store, limits: Limits, dataset_id: str, owner: str, properties: Mapping[str, Any]
    ) -> None:
        self._store = store
        self._limits = limits
        self._dataset_id = dataset_id
        self._owner = owner
        self._categories = properties["category_prop_info"]
        self._known = {str(entry.get("_id")): entry for entry in properties["file_prop_info"]}
        self._succeeded = self._skipped = 0
        self._lost: list[str] = []

    def run(self, source: Path, stopping: threading.Event) -> None:
        """Fill the dataset, and open it; the background task tells how it went."""
        fault = ""
        try:
            with source.open("rb") as file, open_zip(file, self._limits) as opened:
                for at, _ in enumerate(self._steps(opened)):
                    if stopping.is_set():
                        fault = "The server was stopped while this was under way."
                        break
                    if at % _EVERY == 0:
                        self._note_progress()
        except (Failure, BadZip) as error:
            fault = str(error)
        except Exception:  # noqa: BLE001 - whatever breaks, the background task must not stay open
            _log.exception("import.broke", dataset=self._dataset_id)
            fault = "The import broke off. The server's log says more."
        finally:
            source.unlink(missing_ok=True)
        if self._lost and not fault:
            fault = f"{len(self._lost)} of the archive's files were not imported. The first: {self._lost[0]}"
        with self._store.transaction():
            self._note_progress()
            tasks.end_background(self._store, self._dataset_id, fault)
            self._store.update("datasets", self._dataset_id, locked=0)

    def _note_progress(self) -> None:
        tasks.note_progress(self._store, self._dataset_id, self._succeeded, self._skipped, len(self._lost))

    def _steps(self, archive: zipfile.ZipFile) -> Iterator[None]:
        """Take the archive's entries, one at each step; they may be in any order."""
        # Categories oldest first, those without pictures too.
        for entry in reversed(self._categories):
            if isinstance(entry.get("name"), str) and entry["name"].strip():
                categories.ensure(self._store, self._dataset_id, entry["name"])
        members = [member for member in archive.infolist() if not (member.is_dir() or is_litter(member))]
        annotations = {_stem(one): one for one in members if one.filename.lower().endswith(".xml")}
        missing = dict(self._known)
        for member in members:
            key = base_name(member).rpartition(".")[0]
            if base_name(member) == PROPERTIES or member.filename.lower().endswith(".xml"):
                continue
            if member.filename.lower().endswith(TAKEN):
                self._file(archive, member, annotations.pop(_stem(member), None))
                missing.pop(key, None)
            elif key not in missing:
                self._skipped += 1
            yield
        for entry in missing.values():
            shown = entry.get("original_file_name") or entry.get("_id")
            self._lose(str(shown), "The archive holds no picture or video of it.")
        for member in annotations.values():
            self._lose(base_name(member), "The archive holds no picture that these labels belong to.")

    def _lose(self, name: str, fault: str) -> None:
        self._lost.append(f"{shown_name(name, self._limits.name)}: {fault}")

    def _file(self, archive: zipfile.ZipFile, member: zipfile.ZipInfo, annotation: zipfile.ZipInfo | None) -> None:
        name = base_name(member)
        entry = self._known.get(name.rpartition(".")[0], {})
        shown = shown_name(str(entry.get("original_file_name") or name), self._limits.name)
        received = taken(shown, read_member(archive, member), self._store, self._limits)
        if received.file is None:
            self._lose(shown, received.fault)
            return
        category, metadata = entry.get("category_name"), entry.get("user_metadata")
        category_id = None
        if isinstance(category, str) and category:
            category_id = categories.ensure(self._store, self._dataset_id, category)
        file = received.file
        file.category_id, file.metadata = category_id, json.dumps(metadata) if metadata else "{}"
        try:
            listed = [] if annotation is None else _read_annotation(read_member(archive, annotation))
            found = labels.entries(listed, file.width, file.height, slack=_SLACK)
        except Failure as failure:
            # Without its labels the picture would say that there is nothing in it.
            discard([file.scratch])
            self._lose(shown, failure.detail)
            return
        with self._store.transaction():
            files.add(self._store, self._dataset_id, self._owner, [file])
            labels.put(self._store, self._dataset_id, file.id, found)
        self._succeeded += 1


def _stem(member: zipfile.ZipInfo) -> str:
    return member.filename.rpartition(".")[0]
