"""Whatever is done to a tree, in the end the catalogue says what the disk says."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from image_sync.domain import Sighting
from support.catalogue import assert_true_to_disk
from support.pictures import jpeg
from support.watching import quick, watching

FOLDERS = ["cat", "dog", "cat/deep", "dog/deep/deeper", ".hidden", ""]
FILES = ["a.jpg", "b.JPG", "c.txt", ".d.jpg"]
CONTENTS = [jpeg(1), jpeg(2), jpeg(3)[:-2], b""]

folders = st.sampled_from(FOLDERS)
files = st.sampled_from(FILES)
actions = st.one_of(
    st.tuples(st.just("write"), folders, files, st.sampled_from(CONTENTS)),
    st.tuples(st.just("delete"), folders, files),
    st.tuples(st.just("move"), folders, files, folders, files),
    st.tuples(st.just("move folder"), folders, folders),
    st.tuples(st.just("delete folder"), folders),
    st.tuples(st.just("link"), folders, files, folders, files),
    st.tuples(
        st.just("work"),
    ),
)


def act(root: Path, action: tuple[Any, ...]) -> None:
    """Do it, if it can be done."""
    kind, *rest = action
    try:
        if kind == "write":
            path = root / rest[0] / rest[1]
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(rest[2])
        elif kind == "delete":
            (root / rest[0] / rest[1]).unlink()
        elif kind == "move":
            (root / rest[0] / rest[1]).rename(root / rest[2] / rest[3])
        elif kind == "move folder" and rest[0] and rest[1]:
            (root / rest[0]).rename(root / rest[1])
        elif kind == "delete folder" and rest[0]:
            shutil.rmtree(root / rest[0])
        elif kind == "link":
            (root / rest[0] / rest[1]).symlink_to(root / rest[2] / rest[3])
    except OSError:
        pass


def on_disk(root: Path) -> set[str]:
    """What should be recorded: regular pictures in visible folders, links not followed."""
    found = set()
    for top, inner, names in os.walk(root):
        inner[:] = [name for name in inner if not name.startswith(".")]
        for name in names:
            path = Path(top) / name
            if name.lower().endswith(".jpg") and not name.startswith(".") and not path.is_symlink():
                found.add(str(path.relative_to(root)))
    return found


def current(sighting: Sighting) -> bool:
    """Whether the file is still as it was seen."""
    found = os.lstat(sighting.folder + b"/" + sighting.name)
    return sighting.stamp == (found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino, "")


@pytest.mark.parametrize("mode", ["events", "polling"])
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(script=st.lists(actions, max_size=25))
def test_the_catalogue_ends_true_to_the_disk(mode, script):
    """Random writes, moves, links and deletions, with work in between: everything there is recorded, nothing else."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "root"
        (root / "keep").mkdir(parents=True)
        rules = quick(settle=0.0, poll=0.05, mode=mode, once=True)
        with watching(root, rules=rules) as watch:
            for action in script:
                if action[0] == "work":
                    watch.spend(0.01)
                act(root, action)
            expected = on_disk(root)
            watch.until(
                lambda: watch.catalogue.paths(root) == expected and all(map(current, watch.catalogue.places.values()))
            )
            assert_true_to_disk(watch.catalogue)
            for sighting in watch.catalogue.places.values():
                content = Path(os.fsdecode(sighting.folder + b"/" + sighting.name)).read_bytes()
                assert bool(sighting.fault) == (content in CONTENTS[2:] and sighting.category is not None)
