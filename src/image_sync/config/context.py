"""What the values of a configuration are judged by: its file, the environment, and what was read before them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from image_sync.config.document import Key, Place
from image_sync.config.problems import Problem, lines


class Root(NamedTuple):
    """A watched folder that was read already."""

    key: str
    real: Path
    identity: tuple[int, int] | None
    """Device and inode; None while it does not exist."""


@dataclass(slots=True)
class Context:
    """One reading of one configuration file.

    Attributes:
        file: its absolute path, symbolic links not followed: relative paths start from its folder.
        shown: its path as it was given.
        mode: its permission bits, 0 when they are of no interest.
        warnings: what a person should know although the file can be used.
    """

    file: Path = field(default_factory=lambda: Path.cwd() / "configuration.json")
    shown: Path = Path("configuration.json")
    environ: Mapping[str, str] = field(default_factory=dict)
    mode: int = 0
    places: Mapping[Key, Place] = field(default_factory=dict)
    warnings: list[Problem] = field(default_factory=list)
    platform: str = "mvi"
    roots: list[Root] = field(default_factory=list)
    folders_read: int = 0
    has_login: bool = False
    literal_secret: bool = False
    secret_files: list[Path] = field(default_factory=list)
    secrets: bool = True
    """Whether every secret is needed; if not, those that cannot be read here are only named in ``unread``."""
    unread: list[Problem] = field(default_factory=list)

    @property
    def home(self) -> Path:
        """The home folder of whoever runs this."""
        return Path(self.environ.get("HOME") or os.path.expanduser("~"))

    def warn(self, path: Key, text: str) -> None:
        """Remember something that a person should know."""
        self.warnings.append(Problem(path, text))

    def told(self, problems: list[Problem] | None = None) -> tuple[str, ...]:
        """The warnings, or these problems, as lines, in the order of the file."""
        told = lines(self.warnings if problems is None else problems, self.shown, self.places)
        return tuple(text for _, text in sorted(told, key=lambda pair: pair[0]))
