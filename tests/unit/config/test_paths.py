"""Watched folders and the state folder: what is taken, what is told, what is refused and why."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import pytest

from image_sync.config import load, parse
from support.configuration import document, mistakes, settings, warnings, write


def test_relative_folders_start_at_the_file(tmp_path: Path) -> None:
    """A path is relative to the configuration file's folder, ~ is the home folder, .. is resolved."""
    (tmp_path / "home" / "pics").mkdir(parents=True)
    (tmp_path / "pictures").mkdir()

    assert settings(tmp_path, folders=["pictures"]).folders == (tmp_path / "pictures",)
    assert settings(tmp_path, folders=["./pictures/"]).folders == (tmp_path / "pictures",)
    assert settings(tmp_path, folders=["~/pics"]).folders == (tmp_path / "home" / "pics",)
    assert settings(tmp_path, folders=["home/../pictures"]).folders == (tmp_path / "pictures",)


def test_links_are_shown_as_they_were_written(tmp_path: Path) -> None:
    """A folder behind a symbolic link keeps the link's path, and is still recognised as the same folder."""
    (tmp_path / "pictures").mkdir()
    (tmp_path / "link").symlink_to("pictures")

    assert settings(tmp_path, folders=["link"]).folders == (tmp_path / "link",)
    assert mistakes(tmp_path, folders=["pictures", "link"]) == [
        'folders[1]: "link" is the same folder as folders[0]; remove one of the two'
    ]


def test_a_folder_under_two_names_is_found_by_its_inode(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder mounted at two places has one device and inode: it would be counted twice."""
    (tmp_path / "other").mkdir()
    same = (tmp_path / "other").stat()
    monkeypatch.setattr(Path, "stat", lambda *_args, **_kwargs: same)  # a bind mount needs a privilege

    (mistake,) = mistakes(tmp_path, folders=["other", "mounted"])

    assert mistake == 'folders[1]: "mounted" is the same folder as folders[0]; remove one of the two'


WRONG = [
    ([], "folders: is empty; write, for example, "),
    ("/data", 'folders: "/data" is not a list; write, for example, ["/data/pictures"]'),
    ([3], "folders[0]: 3 is not text"),
    ([""], 'folders[0]: "" is empty'),
    (["<path to root image folder>"], "folders[0]: "),
    (["a\nb"], "folders[0]: holds the character U+000A"),
    (["\ud800"], "folders[0]: holds the character U+D800"),
    (["/"], 'folders[0]: "/" holds far more than pictures'),
    (["//"], 'folders[0]: "//" holds far more than pictures'),
    (["/etc"], 'folders[0]: "/etc" belongs to the operating system'),
    (["/etc/image-sync"], "folders[0]: "),
    (["/proc/self"], "folders[0]: "),
    (["~"], 'folders[0]: "~" is your home folder'),
    (["home"], 'folders[0]: "home" is your home folder'),
    (["~no-such-user-here/x"], "folders[0]: "),
    (["configuration.json"], 'folders[0]: "configuration.json" is a file'),
    (["a", "a"], 'folders[1]: "a" is the same folder as folders[0]'),
    (["a", "./a/"], 'folders[1]: "./a/" is the same folder as folders[0]'),
    (["a", "a/b"], 'folders[1]: "a/b" lies inside folders[0]'),
    (["a/b", "a"], 'folders[1]: "a" contains folders[0]'),
]


@pytest.mark.parametrize(("folders", "expected"), WRONG)
def test_folders_that_are_refused(tmp_path: Path, folders: object, expected: str) -> None:
    """A folder that must not or cannot be watched is refused with the reason."""
    (mistake,) = mistakes(tmp_path, folders=folders)

    assert mistake.startswith(expected)


def test_folders_are_required(tmp_path: Path) -> None:
    """Without a folder there is nothing to watch."""
    assert mistakes(tmp_path, folders=...) == ['folders: is missing; write, for example, ["/data/pictures"]']


def test_a_link_to_a_system_folder_is_refused(tmp_path: Path) -> None:
    """What a link leads to counts, not its name."""
    (tmp_path / "innocent").symlink_to("/etc")

    (mistake,) = mistakes(tmp_path, folders=["innocent"])

    assert "belongs to the operating system" in mistake


def test_a_folder_that_does_not_exist_yet_is_told(tmp_path: Path) -> None:
    """A share that is not mounted yet is no reason not to start; the line of the right folder is named."""
    text = json.dumps(document(tmp_path, folders=["pictures", "later"]), indent=1)

    loaded = load(path := write(tmp_path, text), {})

    line = 1 + text[: text.index('"later"')].count("\n")
    assert loaded.warnings == (
        f"{path}:{line}: folders[1]: {tmp_path}/later does not exist yet; it is watched as soon as it does",
    )


def test_a_folder_with_the_configuration_in_it_is_told(tmp_path: Path) -> None:
    """Only pictures are uploaded, so this is allowed, with a warning."""
    (warning,) = warnings(tmp_path, folders=["."], state=str(tmp_path.parent / f"{tmp_path.name}-state"))

    assert "holds this configuration file" in warning


STATE_WRONG = [
    ("pictures", "lies inside folders[0]"),
    ("pictures/state", "lies inside folders[0]"),
    (".", "contains folders[0]"),
    ("configuration.json", "is a file"),
    ("<state>", "is a placeholder"),
    ("mysql://host/db", "is not a PostgreSQL URL"),
    ("postgresql://host", "names no database"),
    ("postgresql://host:99999/db", "is not a database URL"),
    (3, "is not text"),
]


@pytest.mark.parametrize(("state", "expected"), STATE_WRONG)
def test_states_that_are_refused(tmp_path: Path, state: object, expected: str) -> None:
    """The memory of image-sync lies apart from the pictures."""
    (mistake,) = mistakes(tmp_path, state=state)

    assert mistake.startswith("state: ")
    assert expected in mistake


def test_a_database_is_kept_as_it_is_written(tmp_path: Path) -> None:
    """A PostgreSQL URL stays a text, and may be kept elsewhere, as it holds a password."""
    url = "postgresql://sync:pw@db:5432/ledger?sslmode=require"

    assert settings(tmp_path, state=url).state == url
    assert settings(tmp_path, {"URL": url}, state={"env": "URL"}).state == url


def test_the_default_state_has_an_order(tmp_path: Path) -> None:
    """The key, then systemd's folder, then XDG's, then the home folder's; each file has a state of its own."""
    file = tmp_path / "configuration.json"
    name = f"configuration-{hashlib.sha256(os.fsencode(file)).hexdigest()[:8]}"
    systemd = {"STATE_DIRECTORY": "/var/lib/image-sync:/var/lib/other", "XDG_STATE_HOME": "/xdg"}

    assert settings(tmp_path, systemd, state="here").state == tmp_path / "here"
    assert settings(tmp_path, systemd, state=None).state == Path("/var/lib/image-sync")
    assert settings(tmp_path, {"XDG_STATE_HOME": "/xdg"}, state=...).state == Path("/xdg/image-sync", name)
    assert settings(tmp_path, {"XDG_STATE_HOME": "rel"}, state=...).state == (
        tmp_path / "home/.local/state/image-sync" / name
    )


def test_the_state_of_a_system_wide_file(tmp_path: Path) -> None:
    """Files in /etc/image-sync keep their state below /var/lib/image-sync."""
    data = json.dumps(document(tmp_path, state=None)).encode()

    assert parse(data, Path("/etc/image-sync/line1.json"), {}).state == Path("/var/lib/image-sync/line1")


def test_a_default_state_inside_a_watched_folder_is_refused(tmp_path: Path) -> None:
    """Even the default must lie apart; the message says that it is the default."""
    (mistake,) = mistakes(tmp_path, {"STATE_DIRECTORY": str(tmp_path / "pictures" / "s")}, state=...)

    assert mistake.startswith(f"state: the default state folder {tmp_path}/pictures/s lies inside folders[0]")
