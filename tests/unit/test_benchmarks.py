"""The table that ``make bench`` prints, on figures that nobody measured."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from benchmarks.machine import machine
from benchmarks.process import Spoiled, spend
from benchmarks.session import arrived_once
from benchmarks.table import Row, at_least, at_most, load, save, shown, table, under
from benchmarks.trees import Tree, content, make
from image_sync.watcher.image_check import structure

ROWS = (
    Row("backlog", 8000, "pictures/s", "vision", 3200, at_least(2.5), "in a note"),
    Row("backlog", 8000, "pictures/s", "raw stream", 38_000, at_least(0.25)),
    Row("start", 40.5, "ms", "python", 10, at_most(4)),
    Row("memory", 149.96, "MB", goal=under(150)),
    Row("written", 0, "bytes", goal=under(0)),
    Row("training", 1.5, "s"),
)


def test_the_table_says_what_was_reached_and_what_not():
    """Each row has our figure, the peer's, the ratio, the goal and whether it is met; notes follow."""
    assert table(ROWS).splitlines() == [
        "| figure   | ours             | peer                          | ratio   | goal            | met |",
        "| -------- | ---------------- | ----------------------------- | ------- | --------------- | --- |",
        "| backlog  | 8,000 pictures/s | vision: 3,200 pictures/s      | 2.5 x   | at least 2.5 x  | yes |",
        "| backlog  | 8,000 pictures/s | raw stream: 38,000 pictures/s | 0.211 x | at least 0.25 x | NO  |",
        "| start    | 40.5 ms          | python: 10 ms                 | 4.05 x  | at most 4 x     | NO  |",
        "| memory   | 150 MB           |                               |         | at most 150 MB  | yes |",
        "| written  | 0 bytes          |                               |         | at most 0 bytes | yes |",
        "| training | 1.5 s            |                               |         |                 |     |",
        "",
        "- backlog: in a note",
    ]


def test_an_earlier_session_is_compared_row_by_row(tmp_path):
    """What was saved is read back; the last column has the ratio to it, and of the ratios."""
    file = tmp_path / "old.json"
    save(file, {"processor": "slow"}, ROWS)

    where, base = load(file)
    now = [
        Row("backlog", 4000, "pictures/s", "vision", 3200, at_least(2.5)),
        Row("training", 3, "s"),
        Row("new", 1, "s"),
    ]
    lines = table(now, base).splitlines()

    assert where == {"processor": "slow"}
    assert [line.split("|")[-2].strip() for line in lines] == [
        "of base (ratio)",
        "-" * len("of base (ratio)"),
        "0.50 (0.50)",
        "2.00",
        "new",
    ]


@pytest.mark.parametrize("text", ["", "[]", '{"machine": {}}'])
def test_what_is_no_session_is_refused_in_words(tmp_path, text):
    """A base that cannot be used ends the program with a sentence."""
    file = tmp_path / "old.json"
    file.write_text(text)

    with pytest.raises(SystemExit, match="no result of an earlier session"):
        load(file)


def test_figures_have_three_digits_that_count():
    """Large ones have their thousands apart."""
    assert [shown(value, "s") for value in (1234567, 123.4, 12.34, 1.234, 0.01234, 0)] == [
        "1,234,567 s",
        "123 s",
        "12.3 s",
        "1.23 s",
        "0.012 s",
        "0 s",
    ]


@pytest.mark.parametrize("size", [800, 1000, 20_480, 300_000])
def test_pictures_have_their_exact_size_and_are_whole(tmp_path, size):
    """What is measured are JPEGs that pass the check, each with other bytes."""
    raw = content(size, 7)
    (tmp_path / "a.jpg").write_bytes(raw)
    with (tmp_path / "a.jpg").open("rb") as file:
        found = structure(file.fileno(), raw, through=True)

    assert len(raw) == size
    assert found.complete
    assert not found.damage
    assert raw != content(size, 8)


def test_a_tree_has_what_it_says(tmp_path):
    """Pictures are spread over the categories, and folders do not grow without end."""
    tree = make(tmp_path, 10_020, 800)

    found = [path.relative_to(tmp_path) for path in tmp_path.rglob("*.jpg")]

    assert {path.stem for path in found} == tree.names
    assert {path.parts[0] for path in found} == {f"c{number}" for number in range(10)}
    assert max(sum(1 for path in found if path.parent == parent) for parent in {path.parent for path in found}) == 1000


def test_a_picture_that_came_twice_or_not_at_all_spoils_the_figure(tmp_path):
    """Speed counts only when everything arrived, and once."""
    tree = Tree(tmp_path, 2, 800)

    arrived_once(tree, ["p0000000.aa.jpg", "p0000001.bb.jpg"])
    for names in (["p0000000.aa.jpg"], ["p0000000.aa.jpg", "p0000001.bb.jpg", "p0000001.cc.jpg"]):
        with pytest.raises(Spoiled, match="did not arrive"):
            arrived_once(tree, names)


def test_a_process_is_measured(tmp_path):
    """Time, memory, and output of a program; one that fails spoils the figure, and is quoted."""
    spent = spend([sys.executable, "-c", "import time; block = b'x' * 50_000_000; time.sleep(0.3); print('done')"])

    assert spent.output == "done\n"
    assert spent.seconds >= 0.3
    assert spent.peak > 50_000_000
    with pytest.raises(Spoiled, match="no such luck"):
        spend([sys.executable, "-c", "raise SystemExit('no such luck')"])


def test_the_machine_has_a_name(tmp_path):
    """Every table says where it was measured."""
    named = machine(Path("/proc/self"))

    assert named["file system"] == "proc"
    assert all(named.values())
