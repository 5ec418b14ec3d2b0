"""Which annotation belongs to which picture."""

from __future__ import annotations

import errno
import os
import unicodedata
from pathlib import Path
from types import ModuleType

import pytest

from image_sync.annotations import AnnotationError, Finder, Format
from image_sync.annotations import coco as coco_files
from image_sync.domain import Annotation
from image_sync.errors import Changed, PictureError, Unreadable
from image_sync.watcher.folders import open_folder
from support.annotations import (
    HEIGHT,
    PICTURE,
    WIDTH,
    YOLO,
    annotation,
    coco,
    finder_of,
    found,
    put,
    read,
    sagemaker,
    voc,
    voc_object,
)
from support.pictures import jpeg

OTHER = jpeg(2, WIDTH, HEIGHT)


def fault(root: Path, folder: str = "", name: str = "x.jpg") -> str:
    with pytest.raises(AnnotationError) as raised:
        read(root, folder, name)
    return raised.value.what


def counted(monkeypatch: pytest.MonkeyPatch, module: ModuleType, name: str) -> list[object]:
    """The first arguments of all calls of a function from now on, which does its work all the same."""
    calls: list[object] = []
    real = getattr(module, name)

    def called(first: object, *args: object, **options: object) -> object:
        calls.append(first)
        return real(first, *args, **options)

    monkeypatch.setattr(module, name, called)
    return calls


@pytest.mark.parametrize(
    "files",
    [
        ("s/p/x.jpg", "s/p/x.xml"),
        ("s/p/x.JPG", "s/p/x.XML"),
        ("s/p/x.jpg", "s/p/annotations/x.xml"),
        ("s/p/x.jpg", "s/p/Annotations/x.xml"),
        ("s/p/x.jpg", "s/p/labels/x.xml"),
        ("s/JPEGImages/x.jpg", "s/Annotations/x.xml"),
        ("s/images/x.jpg", "s/labels/x.xml"),
        ("s/good/x.jpg", "s/annotations/good/x.xml"),
        ("s/images/train/x.jpg", "s/labels/train/x.xml"),
        ("s/images/a/b/x.jpg", "s/annotations/a/b/x.xml"),
        ("s/images/x.jpg", "s/images/x.xml"),
    ],
    ids=" ".join,
)
def test_the_annotation_is_found_in_every_usual_place(tmp_path: Path, files: tuple[str, str]) -> None:
    """Beside the picture, in a folder in or beside that of the picture, or in one of the same name in there."""
    picture, there = files
    put(tmp_path, {picture: PICTURE, there: voc()})

    folder, _, name = picture.rpartition("/")
    assert read(tmp_path, folder, name) == annotation()


@pytest.mark.parametrize(
    ("picture", "there", "file_name"),
    [
        ("s/p/x.jpg", "s/p/annotations.json", "x.jpg"),
        ("s/p/x.jpg", "s/p/_annotations.coco.json", "x.jpg"),
        ("s/p/x.jpg", "s/p/instances_train.json", "x.jpg"),
        ("s/p/x.jpg", "s/p/whatever I like.json", "x.jpg"),
        ("s/p/x.jpg", "s/p/annotations.json", "C:\\data\\other\\x.jpg"),
        ("s/p/x.jpg", "s/p/annotations/instances.json", "./x.jpg"),
        ("s/p/x.jpg", "s/annotations/instances.json", "x.jpg"),
        ("s/p/x.jpg", "s/annotations/instances.json", "p/x.jpg"),
        ("s/p/x.jpg", "s/annotations.json", "s/p/x.jpg"),
        ("s/images/x.jpg", "s/result.json", "images/x.jpg"),
    ],
)
def test_the_coco_file_is_found_in_every_usual_place(tmp_path: Path, picture: str, there: str, file_name: str) -> None:
    """Under its usual names and others, beside the pictures or one folder above."""
    put(tmp_path, {picture: PICTURE, there: coco(file_name)})

    folder, _, name = picture.rpartition("/")
    assert read(tmp_path, folder, name) == annotation()


def test_a_picture_without_annotation_has_no_source(tmp_path: Path) -> None:
    """Nothing is said of pictures that no file belongs to, or that a COCO file does not list."""
    put(tmp_path, {"x.jpg": PICTURE, "y.jpg": OTHER, "z.xml": voc(), "annotations.json": coco("y.jpg", "gone.jpg")})

    assert list(found(finder_of(tmp_path), tmp_path)) == ["y.jpg"]


def test_files_that_list_classes_are_no_annotations(tmp_path: Path) -> None:
    """A picture called classes.jpg does not take classes.txt for its own."""
    put(tmp_path, {"classes.jpg": PICTURE, "x.jpg": OTHER, "classes.txt": "scratch", "x.txt": YOLO})

    assert list(found(finder_of(tmp_path), tmp_path)) == ["x.jpg"]


def test_a_picture_may_be_called_like_a_coco_file(tmp_path: Path) -> None:
    """Beside annotations.jpg, annotations.json is what its content says."""
    put(tmp_path, {"a/annotations.jpg": PICTURE, "a/annotations.json": sagemaker()})
    put(tmp_path, {"b/annotations.jpg": PICTURE, "b/annotations.json": coco("annotations.jpg")})

    assert {read(tmp_path, folder, "annotations.jpg") for folder in "ab"} == {annotation()}


def test_several_formats_for_one_picture_are_refused(tmp_path: Path) -> None:
    """Both are named; restricted to one format, that one counts."""
    put(tmp_path, {"x.jpg": PICTURE, "x.xml": voc(), "labels/x.txt": YOLO, "classes.txt": "scratch"})

    what = fault(tmp_path)

    assert "Pascal VOC in" in what
    assert "/x.xml and YOLO in" in what
    assert found(finder_of(tmp_path, [Format.YOLO]), tmp_path)["x.jpg"].read(WIDTH, HEIGHT).boxes[0].label == "scratch"


def test_one_format_in_two_places_is_refused(tmp_path: Path) -> None:
    """Nobody knows which of two files is the newer in meaning."""
    put(tmp_path, {"x.jpg": PICTURE, "x.xml": voc(), "annotations/x.xml": voc()})

    assert "several annotations" in fault(tmp_path)


def test_a_captions_file_beside_the_instances_does_not_count(tmp_path: Path) -> None:
    """Of several COCO files in a folder those count that are called as such."""
    put(
        tmp_path,
        {"x.jpg": PICTURE, "annotations/instances_a.json": coco("x.jpg"), "annotations/captions_a.json": coco("x.jpg")},
    )

    assert read(tmp_path) == annotation()


def test_one_stem_in_two_folders_that_share_annotations_is_refused(tmp_path: Path) -> None:
    """The file is not given to both pictures, whichever folder is looked at; a third picture is not disturbed."""
    put(tmp_path, {"a/x.jpg": PICTURE, "b/x.png": OTHER, "b/y.jpg": OTHER})
    put(tmp_path, {"annotations/x.xml": voc(), "annotations/y.xml": voc()})

    assert "it may belong to" in fault(tmp_path, "a")
    assert f"{tmp_path}/a" in fault(tmp_path, "b", "x.png")
    assert read(tmp_path, "b", "y.jpg") == annotation()


def test_a_rival_that_comes_later_is_noticed(tmp_path: Path) -> None:
    """What was found out about other folders is not believed for longer than it is true."""
    finder = finder_of(tmp_path)
    put(tmp_path, {"a/x.jpg": PICTURE, "b/y.jpg": OTHER, "annotations/x.xml": voc()})
    assert found(finder, tmp_path / "a")["x.jpg"].read(WIDTH, HEIGHT) == annotation()
    put(tmp_path, {"b/x.jpg": OTHER})

    with pytest.raises(AnnotationError, match="it may belong to"):
        found(finder, tmp_path / "a")["x.jpg"].read(WIDTH, HEIGHT)


def test_what_comes_at_once_is_noticed(tmp_path: Path) -> None:
    """Files that come in such quick succession that the folder's time does not change are all found."""
    put(tmp_path, {"x.jpg": PICTURE})
    finder, raw = finder_of(tmp_path), os.fsencode(tmp_path)
    for number in range(200):
        (tmp_path / f"{number}.xml").touch()
        assert finder.beside(raw, [b"%d.jpg" % number]), number


@pytest.mark.parametrize(("age", "listings"), [(1.0, 2), (10.0, 1)])
def test_a_folder_that_has_just_changed_is_listed_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, age: float, listings: int
) -> None:
    """A listing is kept only when the folder has rested: two changes may have the same time."""
    put(tmp_path, {"x.jpg": PICTURE, "x.xml": voc()})
    finder = finder_of(tmp_path, wall=lambda: tmp_path.stat().st_mtime + age)
    listed = counted(monkeypatch, os, "scandir")
    for _ in range(2):
        assert finder.beside(os.fsencode(tmp_path), [b"x.jpg"])

    assert len(listed) == listings


def test_the_nearer_picture_has_the_annotation(tmp_path: Path) -> None:
    """A file in s/annotations belongs to s/x.jpg, not to s/inner/x.jpg."""
    put(tmp_path, {"s/x.jpg": PICTURE, "s/inner/x.jpg": OTHER, "s/annotations/x.xml": voc()})
    put(tmp_path, {"s/annotations/instances.json": coco("z.jpg"), "s/z.jpg": PICTURE, "s/inner/z.jpg": OTHER})

    assert {*found(finder_of(tmp_path), tmp_path / "s")} == {"x.jpg", "z.jpg"}
    assert found(finder_of(tmp_path), tmp_path / "s/inner") == {}


def test_a_bare_name_in_a_shared_coco_file_is_refused_where_two_folders_have_it(tmp_path: Path) -> None:
    """With the folder before the name it is certain which picture is meant."""
    put(tmp_path, {"a/x.jpg": PICTURE, "b/x.jpg": OTHER, "a/y.jpg": OTHER, "b/y.png": OTHER})
    put(tmp_path, {"annotations/instances.json": coco("x.jpg", "y.jpg")})
    assert "its 'x.jpg' may be" in fault(tmp_path, "a")
    assert read(tmp_path, "a", "y.jpg") == annotation()

    put(tmp_path, {"annotations/instances.json": coco("a/x.jpg", "y.jpg")})
    assert read(tmp_path, "a") == annotation()
    assert "x.jpg" not in found(finder_of(tmp_path), tmp_path / "b")


def test_two_pictures_of_one_stem_cannot_share_a_file(tmp_path: Path) -> None:
    """x.jpg and x.png: the file may belong to either, while a COCO file tells them apart."""
    put(tmp_path, {"a/x.jpg": PICTURE, "a/x.png": OTHER, "a/x.xml": voc()})
    put(tmp_path, {"b/x.jpg": PICTURE, "b/x.png": OTHER, "b/annotations.json": coco("x.jpg", "x.png")})

    assert "it may belong to" in fault(tmp_path, "a")
    assert read(tmp_path, "b") == annotation()


def test_names_that_are_stored_differently_meet(tmp_path: Path) -> None:
    """An accent as one character or as two is the same name."""
    composed, apart = unicodedata.normalize("NFC", "\u00fcx"), unicodedata.normalize("NFD", "\u00fcx")
    put(tmp_path, {f"a/{apart}.jpg": PICTURE, f"a/{composed}.xml": voc()})
    put(tmp_path, {f"b/{apart}.jpg": PICTURE, "b/annotations.json": coco(f"{composed}.jpg")})

    assert {read(tmp_path, folder, f"{apart}.jpg") for folder in "ab"} == {annotation()}


def test_names_need_not_be_text(tmp_path: Path) -> None:
    """A name of any bytes has its annotation."""
    name = os.fsdecode(b"\xff\xfe")
    put(tmp_path, {f"{name}.jpg": PICTURE, f"{name}.xml": voc(), "annotations.json": coco("other.jpg")})

    assert read(tmp_path, name=f"{name}.jpg") == annotation()


def test_symbolic_links_are_not_followed(tmp_path: Path) -> None:
    """Neither a linked file nor a linked folder of annotations counts."""
    outside = put(tmp_path / "outside", {"x.xml": voc(), "annotations.json": coco("x.jpg")})
    root = put(tmp_path / "root", {"a/x.jpg": PICTURE, "b/x.jpg": PICTURE})
    (root / "a/x.xml").symlink_to(outside / "x.xml")
    (root / "a/annotations.json").symlink_to(outside / "annotations.json")
    (root / "b/annotations").symlink_to(outside)

    assert found(finder_of(root), root / "a") == {}
    assert found(finder_of(root), root / "b") == {}


def test_a_file_that_becomes_a_link_is_not_read(tmp_path: Path) -> None:
    """Whoever can write to the folder cannot have another file read between finding and reading."""
    root = put(tmp_path / "root", {"x.jpg": PICTURE, "x.xml": voc()})
    source = found(finder_of(root), root)["x.jpg"]
    (root / "x.xml").rename(tmp_path / "elsewhere.xml")
    (root / "x.xml").symlink_to(tmp_path / "elsewhere.xml")

    with pytest.raises(PictureError):
        source.read(WIDTH, HEIGHT)


def test_nothing_outside_the_root_is_looked_at(tmp_path: Path) -> None:
    """A folder of annotations beside the root is not the root's."""
    put(tmp_path, {"root/x.jpg": PICTURE, "annotations/x.xml": voc(), "annotations.json": coco("x.jpg")})

    assert found(finder_of(tmp_path / "root"), tmp_path / "root") == {}


def test_pipes_and_devices_are_not_read(tmp_path: Path) -> None:
    """A pipe that is called like an annotation would block whoever opens it."""
    put(tmp_path, {"x.jpg": PICTURE})
    os.mkfifo(tmp_path / "x.xml")

    assert found(finder_of(tmp_path), tmp_path) == {}


@pytest.mark.parametrize("name", ["x.xml", "x.txt", "classes.txt", "annotations.json"])
def test_the_stamp_changes_with_every_file_that_has_a_part(tmp_path: Path, name: str) -> None:
    """A change is noticed by stat alone, also of the file that names the classes."""
    files: dict[str, bytes | str] = {
        "x.xml": voc(voc_object("spot")),
        "x.txt": YOLO,
        "classes.txt": "stripe",
        "annotations.json": coco("x.jpg", "y.jpg"),
    }
    used = {"x.txt", "classes.txt"} if name == "classes.txt" else {name, "classes.txt"}
    put(tmp_path, {"x.jpg": PICTURE, **{key: value for key, value in files.items() if key in used}})
    finder = finder_of(tmp_path)
    first, again = found(finder, tmp_path)["x.jpg"], found(finder, tmp_path)["x.jpg"]
    put(tmp_path, {name: files[name] if name == "x.xml" else f"{files[name]!s} "})
    os.utime(tmp_path / name, ns=(1, 1))

    assert first.stamp == again.stamp
    assert len(first.stamp) == 24
    assert found(finder, tmp_path)["x.jpg"].stamp != first.stamp


def test_a_class_file_that_comes_later_is_noticed(tmp_path: Path) -> None:
    """The picture whose classes nobody named becomes good without its own file being touched."""
    put(tmp_path, {"a/x.jpg": PICTURE, "a/x.txt": YOLO})
    finder = finder_of(tmp_path)
    first = found(finder, tmp_path / "a")["x.jpg"]
    with pytest.raises(AnnotationError, match="no file says what its classes are called"):
        first.read(WIDTH, HEIGHT)
    put(tmp_path, {"data.yaml": "names: [scratch]"})

    second = found(finder, tmp_path / "a")["x.jpg"]
    assert second.stamp != first.stamp
    assert second.read(WIDTH, HEIGHT).boxes[0].label == "scratch"


def test_a_file_that_changes_before_it_is_read_is_not_used(tmp_path: Path) -> None:
    """What is read is what the stamp was made of, also when the new content has the same length."""
    put(tmp_path, {"x.jpg": PICTURE, "x.xml": voc(voc_object("spot"))})
    source = found(finder_of(tmp_path), tmp_path)["x.jpg"]
    put(tmp_path, {"x.xml": voc(voc_object("dent"))})

    with pytest.raises(Changed):
        source.read(WIDTH, HEIGHT)


def test_a_file_that_vanishes_before_it_is_read_is_unreadable(tmp_path: Path) -> None:
    """That is no fault of the annotation."""
    put(tmp_path, {"x.jpg": PICTURE, "x.xml": voc()})
    source = found(finder_of(tmp_path), tmp_path)["x.jpg"]
    (tmp_path / "x.xml").unlink()

    with pytest.raises(Unreadable):
        source.read(WIDTH, HEIGHT)


def test_a_folder_that_may_not_be_read_is_told(tmp_path: Path) -> None:
    """Annotations that cannot be looked at are not the same as none."""
    put(tmp_path, {"x.jpg": PICTURE, "annotations/x.xml": voc()})
    root = os.fsencode(tmp_path)

    def guarded(folder: bytes) -> int:
        if folder.endswith(b"/annotations"):
            raise PermissionError(errno.EACCES, "Permission denied")
        return open_folder(root, folder)

    with pytest.raises(Unreadable, match="cannot be looked into"):
        Finder(root, guarded, lambda name: name.endswith(b".jpg")).beside(root, [b"x.jpg"])


def test_a_folder_that_is_gone_has_nothing(tmp_path: Path) -> None:
    """The folder vanished since it was listed."""
    assert finder_of(tmp_path).beside(os.fsencode(tmp_path) + b"/gone", [b"x.jpg"]) == {}


def test_a_coco_file_is_parsed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A thousand pictures of one file cost one reading, until it changes."""
    names = [f"{number}.jpg" for number in range(1000)]
    put(tmp_path, {"annotations.json": coco(*names), **dict.fromkeys(names, b"")})
    finder, parsed = finder_of(tmp_path), counted(monkeypatch, coco_files, "parse")
    for _ in range(2):
        assert {source.read(WIDTH, HEIGHT) for source in found(finder, tmp_path).values()} == {annotation()}
    assert len(parsed) == 1

    put(tmp_path, {"annotations.json": coco(*names, annotations=[])})
    assert found(finder, tmp_path)["7.jpg"].read(WIDTH, HEIGHT) == Annotation(WIDTH, HEIGHT)
    assert len(parsed) == 2


def test_a_broken_coco_file_spoils_its_folder_only(tmp_path: Path) -> None:
    """Each of its pictures says why; those of another folder do not mind; what is no COCO file is not minded at all."""
    put(
        tmp_path,
        {"a/x.jpg": PICTURE, "a/annotations.json": "{", "b/x.jpg": PICTURE, "b/x.xml": voc(), "b/notes.json": "{"},
    )

    assert "it is cut short" in fault(tmp_path, "a")
    assert read(tmp_path, "b") == annotation()


def test_a_file_of_another_tool_does_not_spoil_what_is_there(tmp_path: Path) -> None:
    """An annotations.json that is no COCO file is told to those pictures only that have nothing else."""
    put(tmp_path, {"annotations.json": "{}", "x.jpg": PICTURE, "x.xml": voc(), "y.jpg": OTHER})

    assert read(tmp_path) == annotation()
    assert "not a COCO file" in fault(tmp_path, name="y.jpg")


def test_pictures_may_be_called_like_coco_files(tmp_path: Path) -> None:
    """A file for one picture does not spoil its neighbours because of what the picture is called."""
    put(tmp_path, {"a/instances_1.jpg": PICTURE, "b/x.jpg": OTHER, "annotations/instances_1.json": sagemaker()})
    put(tmp_path, {"a/c/y.jpg": OTHER, "annotations/x.json": sagemaker()})

    assert read(tmp_path, "a", "instances_1.jpg") == annotation()
    assert read(tmp_path, "b", "x.jpg") == annotation()
    assert found(finder_of(tmp_path), tmp_path / "a/c") == {}


def test_many_files_of_other_kinds_are_not_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A heap of JSON files that belong to no picture is not searched for a COCO file each time."""
    put(tmp_path, {"x.jpg": PICTURE, **{f"note {number}.json": "{}" for number in range(17)}})
    opened = counted(monkeypatch, os, "open")

    assert found(finder_of(tmp_path), tmp_path) == {}
    assert not [path for path in opened if isinstance(path, bytes) and path.endswith(b".json")]


def test_the_stamp_tells_when_the_youngest_file_was_changed(tmp_path: Path) -> None:
    """Whoever waits until files rest can count from there."""
    put(tmp_path, {"x.jpg": PICTURE, "x.txt": YOLO, "classes.txt": "scratch"})
    os.utime(tmp_path / "classes.txt", (2_000_000_000, 2_000_000_000))

    assert found(finder_of(tmp_path), tmp_path)["x.jpg"].newest == 2_000_000_000


def test_each_annotation_takes_one_stat(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And no more, however many pictures there are."""
    put(
        tmp_path,
        {"classes.txt": "scratch", **{f"{number}.{suffix}": "" for number in range(200) for suffix in ("jpg", "txt")}},
    )
    finder = finder_of(tmp_path)
    calls = counted(monkeypatch, os, "stat")

    assert len(found(finder, tmp_path)) == 200
    assert len(calls) <= 200 + 10
