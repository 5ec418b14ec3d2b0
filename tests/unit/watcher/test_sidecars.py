"""Pictures and their annotations, as the watcher sees them: found, waited for, read, and noticed when they change."""

from __future__ import annotations

import errno
import hashlib
import os
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from image_sync.domain import Annotation, Box, Sighting
from image_sync.watcher import image_check
from image_sync.watcher.image_check import ImageCheck
from image_sync.watcher.rules import Category, Filter, Rules
from support.annotations import PICTURE, PNG, SCRATCH, YOLO, annotation, coco, put, voc, voc_object
from support.watching import Watching, quick, watching

HOLE = Box("hole", 1.0, 2.0, 3.0, 4.0)
VOC_HOLE = voc(voc_object("hole", (1, 2, 3, 4)))


@pytest.fixture(params=["events", "polling"])
def mode(request) -> str:
    return str(request.param)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "parts" / "keep").mkdir(parents=True)
    return tmp_path / "parts"


@pytest.fixture
def watch(root: Path, mode: str) -> Iterator[Watching]:
    with watching(root, rules=quick(annotations="required", mode=mode, rescan=3600)) as made:
        yield made


def seen(watch: Watching, path: Path) -> Sighting | None:
    return watch.catalogue.places.get((os.fsencode(path.parent), os.fsencode(path.name)))


def marked(watch: Watching, path: Path) -> Annotation | None:
    """What is marked in a picture, as last reported; None while nothing is."""
    sighting = seen(watch, path)
    return Annotation.from_text(sighting.annotation) if sighting and sighting.annotation else None


def waits(watch: Watching, path: Path) -> bool:
    sighting = seen(watch, path)
    return sighting is not None and sighting.waits


def test_a_picture_is_reported_with_what_is_marked_in_it(root: Path, watch: Watching) -> None:
    """Text and labels come with the sighting; the stamp tells of the annotation's files."""
    put(root, {"good/x.jpg": PICTURE, "good/x.xml": voc(voc_object(), voc_object("hole", (1, 2, 3, 4)))})
    watch.until(lambda: marked(watch, root / "good/x.jpg"))

    sighting = watch.catalogue.at(root / "good/x.jpg")
    assert sighting.annotation == annotation(SCRATCH, HOLE).to_text()
    assert (sighting.labels, sighting.category, sighting.fault) == (("scratch", "hole"), "good", "")
    assert len(sighting.stamp.annotation) == 24
    assert len(sighting.sha256) == 64


def test_boxes_of_ignored_labels_are_left_out(root: Path, mode: str) -> None:
    """However the label is spelt; with other labels to ignore, what was read is read again."""
    put(root, {"good/x.jpg": PICTURE, "good/x.xml": voc(voc_object(), voc_object("Hole", (1, 2, 3, 4)))})
    rules = quick(annotations="required", mode=mode, rescan=3600)
    with watching(root, rules=replace(rules, ignored_labels=frozenset({"hole"}))) as watch:
        assert marked(watch, root / "good/x.jpg") == annotation(SCRATCH)
        assert watch.catalogue.at(root / "good/x.jpg").labels == ("scratch",)
    with watching(root, rules=rules, catalogue=watch.catalogue) as watch:
        assert watch.catalogue.at(root / "good/x.jpg").labels == ("scratch", "Hole")
    with watching(root, rules=replace(rules, ignored_labels=frozenset({"scratch", "hole"}))) as watch:
        found = marked(watch, root / "good/x.jpg")
        assert found is not None
        assert found.boxes == ()


def test_a_picture_waits_for_its_annotation(root: Path, watch: Watching) -> None:
    """It is checked and reported as waiting; when the annotation comes, it is reported with it."""
    put(root, {"good/x.jpg": PICTURE})
    watch.until(lambda: waits(watch, root / "good/x.jpg"))
    assert watch.catalogue.at(root / "good/x.jpg").sha256
    put(root, {"good/x.xml": voc()})
    watch.until(lambda: marked(watch, root / "good/x.jpg") == annotation(SCRATCH))

    assert not waits(watch, root / "good/x.jpg")


@pytest.mark.parametrize(
    ("place", "files"),
    [
        ("good/x.jpg", {"annotations/x.xml": VOC_HOLE}),
        ("good/x.jpg", {"good/annotations/x.xml": VOC_HOLE}),
        ("set/images/train/x.jpg", {"set/labels/train/x.txt": YOLO, "set/data.yaml": "names: [hole]\n"}),
        ("good/x.jpg", {"instances.json": coco("good/x.jpg", categories=[{"id": 7, "name": "hole"}])}),
        ("x.jpg", {"x.xml": VOC_HOLE}),
    ],
    ids=["a folder beside", "a folder inside", "YOLO", "COCO", "directly in the root"],
)
def test_an_annotation_that_comes_later_is_heard_of_wherever_it_lies(
    root: Path, watch: Watching, place: str, files: dict[str, str]
) -> None:
    """The folders of the pictures that it may belong to are looked at, new annotation folders included."""
    put(root, {place: PICTURE})
    watch.until(lambda: waits(watch, root / place))
    put(root, files)
    watch.until(lambda: marked(watch, root / place), limit=8)

    assert watch.catalogue.at(root / place).labels == ("hole",)


def test_a_folder_of_annotations_that_is_moved_in_is_heard_of(root: Path, watch: Watching, tmp_path: Path) -> None:
    """No file in it makes an event of its own."""
    put(root, {"good/x.jpg": PICTURE, "good/y.jpg": PICTURE + b"y"})
    watch.until(lambda: waits(watch, root / "good/x.jpg") and waits(watch, root / "good/y.jpg"))
    put(tmp_path, {"elsewhere/x.xml": voc(), "elsewhere/y.xml": VOC_HOLE})
    (tmp_path / "elsewhere").rename(root / "annotations")

    watch.until(lambda: marked(watch, root / "good/x.jpg") and marked(watch, root / "good/y.jpg"), limit=8)
    assert marked(watch, root / "good/x.jpg") != marked(watch, root / "good/y.jpg")


def test_a_changed_annotation_is_a_new_sighting_of_the_same_picture(root: Path, watch: Watching) -> None:
    """Saved in place or swapped, it is read anew; the picture's own stamp stays."""
    put(root, {"good/x.jpg": PICTURE, "good/x.xml": voc()})
    watch.until(lambda: marked(watch, root / "good/x.jpg"))
    before = watch.catalogue.at(root / "good/x.jpg")
    (root / "good/.x.xml.part").write_text(VOC_HOLE)
    (root / "good/.x.xml.part").rename(root / "good/x.xml")
    watch.until(lambda: marked(watch, root / "good/x.jpg") == annotation(HOLE))

    after = watch.catalogue.at(root / "good/x.jpg")
    assert after.stamp[:4] == before.stamp[:4]
    assert after.stamp != before.stamp
    assert after.sha256 == before.sha256


def test_a_deleted_annotation_is_waited_for_again(root: Path, watch: Watching) -> None:
    """The picture stays known by its content."""
    put(root, {"good/x.jpg": PICTURE, "good/x.xml": voc()})
    watch.until(lambda: marked(watch, root / "good/x.jpg"))
    digest = watch.catalogue.at(root / "good/x.jpg").sha256
    (root / "good/x.xml").unlink()
    watch.until(lambda: waits(watch, root / "good/x.jpg"))

    assert watch.catalogue.at(root / "good/x.jpg").sha256 == digest


def test_a_mistake_in_an_annotation_is_told_and_mended(root: Path, watch: Watching) -> None:
    """The picture is quarantined with file and object; a corrected annotation frees it."""
    put(root, {"good/x.jpg": PICTURE, "good/x.xml": voc(voc_object("scratch", (4, 6, 400, 16)))})
    watch.until(lambda: seen(watch, root / "good/x.jpg"))
    fault = watch.catalogue.at(root / "good/x.jpg").fault
    assert fault.startswith("its annotation cannot be used: ")
    assert "x.xml: object 1 ('scratch') reaches out of the picture" in fault
    put(root, {"good/x.xml": voc()})

    watch.until(lambda: marked(watch, root / "good/x.jpg"))
    assert watch.catalogue.at(root / "good/x.jpg").fault == ""


def test_two_pictures_of_one_stem_are_both_told(root: Path, watch: Watching) -> None:
    """Also when they come in different batches of settled files, neither takes the annotation silently."""
    put(root, {"good/x.jpg": PICTURE, "good/x.png": PNG, "good/x.xml": voc()})
    watch.until(lambda: seen(watch, root / "good/x.jpg") and seen(watch, root / "good/x.png"))

    for name in ("x.jpg", "x.png"):
        assert "it may belong to" in watch.catalogue.at(root / "good" / name).fault


def test_a_broken_picture_is_told_before_its_annotation_is_read(root: Path, watch: Watching) -> None:
    """Without the picture's size nothing can be said of the boxes."""
    put(root, {"good/x.jpg": PICTURE[:-2], "good/x.xml": "<rubbish"})
    watch.until(lambda: seen(watch, root / "good/x.jpg"))

    assert "cut short" in watch.catalogue.at(root / "good/x.jpg").fault


def test_an_annotation_settles_like_a_picture(root: Path) -> None:
    """While it has not rested, the picture is not reported, however old that is."""
    with watching(root, rules=quick(annotations="required", settle=0.6)) as watch:
        put(root, {"good/x.jpg": PICTURE})
        os.utime(root / "good/x.jpg", (1, 1))
        watch.until(lambda: waits(watch, root / "good/x.jpg"))
        put(root, {"good/x.xml": voc()})
        written = (root / "good/x.xml").stat().st_mtime
        watch.until(lambda: marked(watch, root / "good/x.jpg"))

        assert time.time() - written >= 0.6


def test_a_gap_between_two_annotations_is_not_noticed(root: Path) -> None:
    """Many editors delete the old file before they write the new one."""
    with watching(root, rules=quick(annotations="required", settle=0.5)) as watch:
        put(root, {"good/x.jpg": PICTURE, "good/x.xml": voc()})
        watch.until(lambda: marked(watch, root / "good/x.jpg"))
        (root / "good/x.xml").unlink()
        watch.spend(0.2)
        put(root, {"good/x.xml": VOC_HOLE})
        watch.until(lambda: marked(watch, root / "good/x.jpg") == annotation(HOLE))

        assert not any(sighting.waits for sighting in watch.catalogue.history)


def test_optional_annotations_are_not_waited_for(root: Path) -> None:
    """A picture without one is reported as it is; one that comes later is noticed."""
    with watching(root, rules=quick(annotations="optional")) as watch:
        put(root, {"good/x.jpg": PICTURE, "good/y.jpg": PICTURE + b"y", "good/y.xml": voc()})
        watch.until(lambda: len(watch.catalogue.places) == 2)
        sighting = watch.catalogue.at(root / "good/x.jpg")
        assert (sighting.waits, sighting.annotation, sighting.stamp.annotation) == (False, "", "")
        put(root, {"good/x.xml": VOC_HOLE})

        watch.until(lambda: marked(watch, root / "good/x.jpg"))


def test_an_unchanged_tree_is_not_read_again(root: Path) -> None:
    """A restart with the same catalogue reports nothing, with or without annotations."""
    rules = quick(annotations="required", settle=0.0)
    put(root, {"good/x.jpg": PICTURE, "good/x.xml": voc(), "bad/y.jpg": PICTURE + b"y"})
    with watching(root, rules=rules) as watch:
        first = len(watch.catalogue.history)
        with watching(root, catalogue=watch.catalogue, rules=rules) as again:
            assert first == len(again.catalogue.history) == 2


def test_pictures_are_read_once_however_often_their_annotations_change(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A COCO file that is written anew concerns all pictures of its folder; one that changed itself is read again."""
    read: list[bytes] = []
    original = image_check.examine

    def examine(fd: int, size: int, name: bytes, *rest: Any) -> ImageCheck | None:
        read.append(name)
        return original(fd, size, name, *rest)

    monkeypatch.setattr("image_sync.watcher.image_check.examine", examine)
    names = [f"{number}.jpg" for number in range(20)]
    put(root, {f"good/{name}": PICTURE + name.encode() for name in names} | {"good/instances.json": coco(*names)})
    with watching(root, rules=quick(annotations="required")) as watch:
        watch.until(lambda: all(marked(watch, root / "good" / name) for name in names))
        assert len(read) == 20
        (root / "good/7.jpg").write_bytes(PICTURE + b"another")
        put(root, {"good/instances.json": coco(*names, bbox=(1, 2, 2, 2))})
        wanted = annotation(Box("scratch", 1.0, 2.0, 3.0, 4.0))
        watch.until(lambda: all(marked(watch, root / "good" / name) == wanted for name in names))

        assert Counter(read) == {name.encode(): 2 if name == "7.jpg" else 1 for name in names}
        digest = hashlib.sha256(PICTURE + b"another").hexdigest()
        assert watch.catalogue.at(root / "good/7.jpg").sha256 == digest


@pytest.mark.parametrize(("before", "after"), [("none", "required"), ("optional", "required"), ("required", "none")])
def test_other_rules_look_at_everything_again(root: Path, before: str, after: str) -> None:
    """Pictures that had no annotation wait once one is required, and no longer once none is used."""
    put(root, {"good/x.jpg": PICTURE, "good/x.xml": voc(), "bad/y.jpg": PICTURE + b"y"})
    with watching(root, rules=quick(annotations=before)) as watch:
        catalogue = watch.catalogue
    with watching(root, catalogue=catalogue, rules=quick(annotations=after)) as watch:
        watch.until(lambda: waits(watch, root / "bad/y.jpg") == (after == "required"))
        watch.until(lambda: bool(marked(watch, root / "good/x.jpg")) == (after == "required"))
        assert waits(watch, root / "bad/y.jpg") == (after == "required")


def test_only_files_of_the_chosen_format_count(root: Path) -> None:
    """Another one is as good as none."""
    with watching(root, rules=quick(annotations="required", annotation_format="yolo")) as watch:
        put(root, {"good/x.jpg": PICTURE, "good/x.xml": voc()})
        watch.until(lambda: waits(watch, root / "good/x.jpg"))
        put(root, {"good/x.txt": YOLO, "good/classes.txt": "hole\n"})
        watch.until(lambda: marked(watch, root / "good/x.jpg"))
        assert not waits(watch, root / "good/x.jpg")


@pytest.mark.parametrize(
    ("what", "told"),
    [("folders.open", "x.xml cannot be read: Input/output"), ("folders.Folders.opened", "cannot be looked into")],
)
def test_what_cannot_be_read_is_reported_for_the_root(
    root: Path, watch: Watching, monkeypatch: pytest.MonkeyPatch, what: str, told: str
) -> None:
    """No verdict on the picture, and the reason names what it is; it is tried again."""

    def broken(*_: object, **__: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patched:
        patched.setattr(f"image_sync.annotations.{what}", broken, raising=False)
        put(root, {"good/x.jpg": PICTURE, "good/x.xml": voc()})
        watch.until(lambda: told in watch.report(root).reason)
        assert seen(watch, root / "good/x.jpg") is None
        assert not watch.watcher.complete
    watch.catalogue.rescan = True
    watch.until(lambda: marked(watch, root / "good/x.jpg"))
    watch.catalogue.rescan = True
    watch.until(lambda: not watch.report(root).reason.count("cannot be"))


def test_without_annotations_they_are_not_looked_for(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No folder is listed for them, and a picture directly in the root has no category."""
    monkeypatch.setattr("image_sync.watcher.sidecars.Sidecars.beside", None)
    put(root, {"good/x.jpg": PICTURE, "good/x.xml": "<rubbish", "z.jpg": PICTURE})
    with watching(root, rules=quick()) as watch:
        watch.until(lambda: len(watch.catalogue.places) == 2)
        assert watch.catalogue.at(root / "good/x.jpg").stamp.annotation == ""
        assert watch.catalogue.at(root / "z.jpg").category is None


def test_a_picture_directly_in_a_root_needs_no_category_when_it_has_annotations() -> None:
    """It is taken with no category, unless the root's name stands for one."""
    rules = Rules(annotations="optional", categories={"named": "good"})

    assert Filter(rules).category(b"/p/parts", b"/p/parts") == Category("")
    assert Filter(rules).category(b"/p/named", b"/p/named") == Category("good")
    assert Filter(Rules()).category(b"/p/parts", b"/p/parts") == Category(None)
