"""``image-sync annotations`` as a person calls it."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from support.annotations import PICTURE, PNG, YOLO, coco, put, sagemaker, voc, voc_object
from support.daemon import PROGRAM, program
from support.pictures import jpeg

FORMATS = ("voc", "coco", "yolo", "sagemaker")


def call(*words: str | Path, limit: int | None = None) -> subprocess.CompletedProcess[str]:
    """What a command line of the group does; never a traceback. ``limit``: bytes that a file may have."""

    def restrict() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit or 0, limit or 0))

    command = ["annotations", *map(str, words)]
    if limit is None:
        done = program(*command)
    else:
        done = subprocess.run(
            [*PROGRAM, *command], capture_output=True, text=True, check=False, timeout=60, preexec_fn=restrict
        )
    assert "Traceback" not in done.stdout + done.stderr, done.stdout + done.stderr
    return done


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Pictures in three folders, each with annotations in another format; one picture has none."""
    root = put(tmp_path / "in", {"v/x.JPG": PICTURE, "v/annotations/x.xml": voc(voc_object(), voc_object("spot"))})
    put(root, {"c/x.png": PNG, "c/y.jpg": jpeg(2, 40, 30), "c/annotations.json": coco("x.png")})
    put(root, {"y/images/x.jpg": jpeg(3, 40, 30), "y/labels/x.txt": YOLO, "y/data.yaml": "names: [scratch]"})
    return root


def test_check_tells_what_is_there(source: Path) -> None:
    """Labels with counts, formats, pictures without annotation; exit 0 when nothing is wrong."""
    done = call("check", source)

    assert done.returncode == 0, done.stderr
    assert "scratch       3          3" in done.stdout
    assert "pictures: 4, of which annotated 3 (1 in COCO, 1 in Pascal VOC, 1 in YOLO), faulty 0" in done.stdout
    assert "without annotation 1 (c/y.jpg)" in done.stdout


def test_check_names_every_fault(source: Path) -> None:
    """File, object, reason and remedy; exit 1; the others are counted all the same."""
    put(source, {"v/bad.jpg": PICTURE, "v/bad.xml": voc(voc_object("far", (1, 1, 90, 9))), "v/lonely.xml": voc()})
    put(source, {"v/cut.jpg": PICTURE[:20], "v/cut.xml": voc(), "v/none.jpg": b"not a picture", "v/none.xml": voc()})

    done = call("check", source)
    data = json.loads(call("check", source, "--json").stdout)

    assert done.returncode == 1
    assert f"{source}/v/bad.xml" in done.stdout
    assert "object 1 ('far') reaches out of the picture" in done.stdout
    assert "annotation files that belong to no picture: 1" in done.stdout
    assert data["labels"] == {"scratch": {"boxes": 3, "pictures": 3}, "spot": {"boxes": 1, "pictures": 1}}
    assert data["faulty"] == 3
    assert data["leftover"] == [f"{source}/v/lonely.xml"]
    assert {Path(fault["file"]).name for fault in data["faults"]} == {"bad.xml", "cut.jpg", "none.jpg"}
    assert all(fault["fault"] and fault["hint"] for fault in data["faults"])


def test_a_fault_of_a_common_file_is_told_once(tmp_path: Path) -> None:
    """A broken COCO file spoils all its pictures and is one thing to mend."""
    put(tmp_path, {"annotations.json": "{", **{f"{number}.jpg": PICTURE for number in range(5)}})

    data = json.loads(call("check", tmp_path, "--json").stdout)

    assert data["faulty"] == 5
    assert [fault["fault"] for fault in data["faults"]] == ["it is cut short"]


@pytest.mark.parametrize("form", FORMATS)
def test_what_was_converted_says_the_same(source: Path, tmp_path: Path, form: str) -> None:
    """Every format can be read again, with the same labels and counts, and nothing is wrong with it."""
    done = call("convert", source, "-o", tmp_path / "out", "--to", form, "--copy")
    again = call("check", tmp_path / "out", "--from", form, "--json")

    assert done.returncode == again.returncode == 0, done.stderr + again.stdout
    data = json.loads(again.stdout)
    assert data["labels"] == {"scratch": {"boxes": 3, "pictures": 3}, "spot": {"boxes": 1, "pictures": 1}}
    assert (data["pictures"], data["annotated"], data["faults"], data["leftover"]) == (3, 3, [], [])
    assert (tmp_path / "out/v/x.JPG").read_bytes() == PICTURE
    assert not list((tmp_path / "out").rglob(".*"))


def test_faulty_pictures_are_told_and_the_others_written(source: Path, tmp_path: Path) -> None:
    """Exit 1; nothing is written for the faulty ones."""
    put(source, {"v/bad.jpg": PICTURE, "v/bad.xml": "<annotation>"})

    done = call("convert", source, "-o", tmp_path / "out", "--to", "voc")

    assert done.returncode == 1
    assert "bad.xml" in done.stdout
    assert "3 files, 3 pictures in Pascal VOC" in done.stdout
    assert sorted(path.name for path in (tmp_path / "out").rglob("*.xml")) == ["x.xml"] * 3


def test_nothing_is_overwritten_without_force(source: Path, tmp_path: Path) -> None:
    """One file in the way stops everything before the first is written; --force replaces it."""
    out = put(tmp_path / "out", {"y/images/x.xml": "mine"})

    refused = call("convert", source, "-o", out, "--to", "voc")
    assert refused.returncode == 2
    assert "would be overwritten" in refused.stderr
    assert "--force" in refused.stderr
    assert [path.read_text() for path in out.rglob("*.xml")] == ["mine"]

    assert call("convert", source, "-o", out, "--to", "voc", "--force").returncode == 0
    assert "mine" not in (out / "y/images/x.xml").read_text()


def test_a_link_in_the_way_is_replaced_not_followed(source: Path, tmp_path: Path) -> None:
    """With --force the file that a link points to stays as it is."""
    victim = put(tmp_path, {"victim.xml": "mine"}) / "victim.xml"
    put(tmp_path, {"out/v/other": ""})
    (tmp_path / "out/v/x.xml").symlink_to(victim)

    assert call("convert", source, "-o", tmp_path / "out", "--to", "voc", "--force").returncode == 0
    assert victim.read_text() == "mine"
    assert not (tmp_path / "out/v/x.xml").is_symlink()


def test_nothing_is_left_half_written(source: Path, tmp_path: Path) -> None:
    """A disk that takes no more: an error in words, and each file that is there is whole."""
    put(
        source,
        {"v/large.png": jpeg(1, 400, 400), "v/large.xml": voc(size=None), "v/more.jpg": PICTURE, "v/more.xml": voc()},
    )

    done = call("convert", source, "-o", tmp_path / "out", "--to", "voc", "--copy", limit=20_000)

    assert done.returncode == 1
    assert "cannot be written: File too large" in done.stderr
    assert not list((tmp_path / "out").rglob(".*"))
    assert not list((tmp_path / "out").rglob("large.png"))
    for path in (tmp_path / "out").rglob("*.JPG"):
        assert path.read_bytes() == PICTURE


def test_of_many_faults_the_first_are_shown(tmp_path: Path) -> None:
    """A list that fills the terminal hides what was counted; all are in the JSON."""
    for number in range(30):
        put(tmp_path, {f"{number}.jpg": PICTURE, f"{number}.xml": voc(*[voc_object("far", (1, 1, 90, 9))] * 2)})

    done = call("check", tmp_path)

    assert done.stdout.count("reaches out of the picture") == 20
    assert "... and 40 more; --json lists them all" in done.stdout
    assert len(json.loads(call("check", tmp_path, "--json").stdout)["faults"]) == 60


@pytest.mark.parametrize("target", [".", "out", "v/out"])
def test_the_target_may_not_lie_in_the_source(source: Path, target: str) -> None:
    """Else every picture would have two annotations afterwards."""
    done = call("convert", source, "-o", source / target, "--to", "coco")

    assert done.returncode == 2
    assert "Choose a folder outside" in done.stderr


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["check", "nowhere"], "there is no folder"),
        (["check", "empty"], "there is no picture in"),
        (["check", "pictures"], "none of the 1 pictures in"),
        (["check", "in", "--label-map", "old"], "has no ="),
        (["check", "in", "--label-map", "=new"], "is not understood"),
        (["check", "in", "--label-map", "a=b", "--label-map", "a=c"], "gives a label two new names"),
        (["convert", "in", "--to", "voc"], "--output"),
        (["convert", "in", "-o", "out"], "--to"),
        (["convert", "in", "-o", "out", "--to", "xml"], "xml"),
        (["convert", "in", "-o", "in/v/x.JPG/out", "--to", "voc"], "Choose a folder outside"),
    ],
)
def test_calling_it_wrongly_is_told(source: Path, words: list[str], says: str) -> None:
    """Exit 2, what is wrong and what to do."""
    here = source.parent
    put(here, {"pictures/x.jpg": PICTURE, "empty/notes.md": ""})
    paths = {"nowhere", "empty", "pictures", "in", "out", "in/v/x.JPG/out"}

    done = call(*(here / word if word in paths else word for word in words))

    assert done.returncode == 2
    assert says in done.stderr


def test_a_target_that_cannot_be_a_folder_is_told(source: Path, tmp_path: Path) -> None:
    """A file stands where the folder should be."""
    put(tmp_path, {"file": ""})

    done = call("convert", source, "-o", tmp_path / "file", "--to", "voc")

    assert done.returncode == 1
    assert "cannot be written" in done.stderr


def test_one_format_can_be_chosen(tmp_path: Path) -> None:
    """A picture with two formats is refused, and read with --from."""
    root = put(tmp_path, {"x.jpg": PICTURE, "x.xml": voc(voc_object("spot")), "x.json": sagemaker()})

    told = call("check", root).stdout
    assert "has several annotations: Pascal VOC in" in told
    assert "belong to no picture" not in told
    assert json.loads(call("check", root, "--from", "sagemaker", "--json").stdout)["labels"].keys() == {"scratch"}


def test_what_the_format_has_no_place_for_is_told(tmp_path: Path) -> None:
    """Outlines and marks that get lost, labels that look alike, pictures that show nothing."""
    points = "".join(f"<point><value>{x}</value><value>{y}</value></point>" for x, y in ((4, 6), (20, 6), (20, 16)))
    outlined = voc_object("Scratch", behind=f"<segment_polygons><polygon>{points}</polygon></segment_polygons>")
    hard = voc_object(behind="<difficult>1</difficult>")
    root = put(
        tmp_path / "in",
        {"x.jpg": PICTURE, "x.xml": voc(outlined, hard), "y.jpg": jpeg(2), "y.xml": voc("<a/>", size=None)},
    )

    done = call("convert", root, "-o", tmp_path / "out", "--to", "sagemaker")

    assert "outlines that became boxes, since SageMaker has none: 1" in done.stdout
    assert "objects no longer marked as difficult, since SageMaker has no such mark: 1" in done.stdout
    assert "these labels look alike: Scratch, scratch" in done.stdout
    assert "annotated pictures that show no object: 1" in done.stdout
    assert "1 files, 1 pictures in SageMaker" in done.stdout


def test_names_of_any_bytes_do_no_harm(tmp_path: Path) -> None:
    """A name that is not text, or drives a terminal, is shown escaped; YOLO holds it, the others say they cannot."""
    name = os.fsdecode(b"\xff\x1b[31m")
    root = put(tmp_path / "in", {f"{name}.jpg": PICTURE, f"{name}.xml": voc()})

    told = call("convert", root, "-o", tmp_path / "voc", "--to", "voc")
    kept = call("convert", root, "-o", tmp_path / "yolo", "--to", "yolo")

    assert told.returncode == 1
    assert "Pascal VOC files cannot hold the picture's name" in told.stdout
    assert "\x1b" not in told.stdout
    assert kept.returncode == 0
    assert (tmp_path / "yolo" / f"{name}.txt").exists()


@pytest.mark.skipif(sys.platform != "linux", reason="umask of a process is read from /proc")
def test_what_is_written_can_be_read_by_others(source: Path, tmp_path: Path) -> None:
    """A data set is shared: files have the rights that the user's umask gives."""
    call("convert", source, "-o", tmp_path / "out", "--to", "coco", "--copy")

    umask = int(next(line for line in Path("/proc/self/status").read_text().splitlines() if "Umask" in line)[6:], 8)
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "out").rglob("*.*")} == {0o666 & ~umask}


@pytest.mark.parametrize(
    ("options", "train", "val"), [((), ".", "."), (("--copy", "--validation", "0.5"), "train", "validation")]
)
def test_yolo_comes_with_the_file_that_its_trainers_ask_for(
    tmp_path: Path, options: tuple[str, ...], train: str, val: str
) -> None:
    """data.yaml names the folders, which hold a picture and its text each, and the classes by number."""
    yaml: Any = pytest.importorskip("yaml")
    odd = 'it\'s: "ä" #1'
    files: dict[str, Any] = {f"{number}.jpg": jpeg(number, 40, 30) for number in range(12)}
    files |= {f"{number}.xml": voc(voc_object(("Scratch", odd)[number % 2]), size=None) for number in range(12)}
    root, out = put(tmp_path / "in", files), tmp_path / "out"

    call("convert", root, "-o", out, "--to", "yolo", *options)

    found = yaml.safe_load((out / "data.yaml").read_text(encoding="utf-8"))
    assert found == {"train": train, "val": val, "names": {0: "Scratch", 1: odd}}
    for part in {train, val}:
        assert list((out / part).glob("*.txt"))
    back = call("check", out, "--from", "yolo", "--json") if options else None
    assert back is None or json.loads(back.stdout)["labels"].keys() == {"Scratch", odd}
