"""Which names count, and what category a folder stands for."""

from __future__ import annotations

import unicodedata

import pytest

from image_sync.watcher.rules import Category, Filter, Rules

ROOT = b"/data/parts"


@pytest.mark.parametrize(
    "name", [b"a.jpg", b"A.JPG", b"a.JpEg", b"a.png", b"a.tar.jpg", b"caf\xe9.jpg", b"-a b\n.png", b"a..jpg", b"~a.jpg"]
)
def test_files_with_a_wanted_suffix_are_wanted(name):
    """A wanted suffix in any case is enough, whatever bytes the name has otherwise."""
    assert Filter(Rules()).file(name)


@pytest.mark.parametrize(
    "name",
    [
        *(b"a", b"jpg", b".jpg", b"a.jpe", b"a.gif", b"a.jpg.part", b"a.jpg.tmp", b"a.jpg.crdownload", b"a.jpg.swp"),
        *(b".a.jpg", b"._a.jpg", b".a.jpg.Xy12", b"~$a.jpg", b"Thumbs.db", b"desktop.ini", b".nfs01.jpg", b"a.jpg~"),
        *(b".syncthing.a.jpg", b"~syncthing~a.jpg", b".fuse_hidden01.jpg", b"a.filepart", b"a.partial", b""),
    ],
)
def test_hidden_temporary_and_other_files_are_not_wanted(name):
    """What programs leave behind, or have not finished, is skipped."""
    assert not Filter(Rules(suffixes=frozenset({"jpg", "jpeg", "png", "db", "ini", "tmp", "part", "jpg~"}))).file(name)


def test_suffixes_are_a_setting():
    """Only the file types that the rules name are wanted."""
    filters = Filter(Rules(suffixes=frozenset({"PNG"})))
    assert filters.file(b"a.png")
    assert not filters.file(b"a.jpg")


@pytest.mark.parametrize("name", [b".git", b".stfolder", b".stversions", b"@eaDir", b"__MACOSX", b"lost+found"])
def test_folders_of_programs_are_not_looked_into(name):
    """Hidden folders and those of file servers and archives are skipped, at any depth."""
    filters = Filter(Rules())
    assert not filters.folder(name)
    assert not filters.admits(ROOT, ROOT + b"/cat/" + name + b"/deeper")


@pytest.mark.parametrize(
    ("folder", "rules", "name"),
    [
        (b"/good", Rules(), "good"),
        (b"/good/2024/may", Rules(), "good"),
        (b"/good/2024/may", Rules(category_from="parent"), "may"),
        (b"/good", Rules(categories={"good": "Accepted"}), "Accepted"),
        (b"/good/a", Rules(categories={"good": "Accepted"}), "Accepted"),
        (b"", Rules(), None),
        (b"", Rules(category_from="parent"), None),
        (b"", Rules(categories={"parts": "Parts"}), "Parts"),
        (b"/a\nb", Rules(categories={"a\nb": "ab"}), "ab"),
        ("/Ä".encode(), Rules(), "Ä"),
        (unicodedata.normalize("NFD", "/Ä").encode(), Rules(), "Ä"),
        (unicodedata.normalize("NFD", "/Ä").encode(), Rules(categories={"Ä": "A"}), "A"),
        ("/Ä".encode(), Rules(categories={unicodedata.normalize("NFD", "Ä"): "A"}), "A"),
    ],
)
def test_the_category_is_named_by_a_folder(folder, rules, name):
    """The first folder below the root (or the parent) names the category, through the map, in composed letters."""
    assert Filter(rules).category(ROOT, ROOT + folder) == Category(name)


@pytest.mark.parametrize(
    ("folder", "says"),
    [(b"/caf\xe9", "caf\\xe9 is not UTF-8"), (b"/a\nb", "a\\nb"), (b"/  ", "blank"), (b"/a\x7f/b", "a\\x7f")],
)
def test_a_folder_name_that_cannot_be_a_category_is_a_fault_with_a_remedy(folder, says):
    """Undecodable and unprintable names are refused in printable words that tell to rename the folder."""
    category = Filter(Rules()).category(ROOT, ROOT + folder)
    assert category.name is None
    assert says in category.fault
    assert "rename the folder" in category.fault
    assert category.fault.isprintable()


def test_a_root_with_an_undecodable_name_has_no_category_of_its_own():
    """Files directly in such a root are uncategorised, not faulty."""
    assert Filter(Rules()).category(b"/caf\xe9", b"/caf\xe9") == Category(None)


def test_depth_is_limited():
    """Folders deeper than 32 below the root are left alone, deeper than one if the rules are not recursive."""
    assert Filter(Rules()).admits(ROOT, ROOT + b"/a" * 32)
    assert not Filter(Rules()).admits(ROOT, ROOT + b"/a" * 33)
    assert Filter(Rules(recursive=False)).admits(ROOT, ROOT + b"/a")
    assert not Filter(Rules(recursive=False)).admits(ROOT, ROOT + b"/a/b")


@pytest.mark.parametrize(
    ("folder", "name", "patterns"),
    [
        (b"/good/trash", b"a.jpg", ("trash/",)),
        (b"/good", b"a_preview.jpg", ("*_preview.jpg",)),
        (b"/good/deep", b"a.jpg", ("/good/**",)),
        (b"/good", b"a.jpg", ("# all but one", "*.jpg", "!b.jpg")),
        (b"/caf\xff", b"a.jpg", ("caf*/",)),
    ],
)
def test_what_a_pattern_of_gitignore_matches_is_left_alone(folder, name, patterns):
    """Seen from the watched folder, comments and exceptions included; whatever bytes the names have."""
    filters = Filter(Rules(exclude=patterns))
    assert filters.excluded(ROOT, ROOT + folder, name)
    assert not filters.excluded(ROOT, ROOT + b"/other", b"b.jpg")
    assert not Filter(Rules()).excluded(ROOT, ROOT + folder, name)


def test_the_folder_of_general_negatives_is_looked_into():
    """Where a platform has one, its name begins with an underscore all the same."""
    assert Filter(Rules(negatives="negative")).admits(ROOT, ROOT + b"/_negative_")
    assert not Filter(Rules(negatives="negative")).admits(ROOT, ROOT + b"/_aside")
    assert not Filter(Rules()).admits(ROOT, ROOT + b"/_negative_")


def test_folders_that_begin_with_an_underscore_or_stand_for_null_are_not_looked_into():
    """So a folder may be set aside without a change of the configuration, or with one."""
    filters = Filter(Rules(categories={"typo": None, "crk": "crack"}))
    assert not filters.admits(ROOT, ROOT + b"/_aside")
    assert not filters.admits(ROOT, ROOT + b"/good/_aside/deeper")
    assert not filters.admits(ROOT, ROOT + b"/typo/deeper")
    assert filters.admits(ROOT, ROOT + b"/good/typo")
    assert filters.admits(ROOT, ROOT + b"/crk")
    assert not Filter(Rules(categories={"typo": None}, category_from="parent")).admits(ROOT, ROOT + b"/good/typo")
