"""The watcher's settings, and what follows from them for names: which are looked at, and which category a folder is.

Nothing here touches the disk.
"""

from __future__ import annotations

import contextlib
import os
import unicodedata
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

from pathspec import GitIgnoreSpec

from image_sync.log import show_path

DEEPEST = 32
"""Folders below a root that are looked at, one inside the other."""

# Left behind by file browsers, cameras, downloads, editors and sync tools. Everything that begins with a dot is
# skipped too, which covers .DS_Store, ._*, .stfolder, .stversions, .nfs*, .fuse_hidden* and .syncthing.*.
_JUNK_PREFIXES = (b".", b"~$", b"~syncthing~")
_JUNK_SUFFIXES = frozenset((b"part", b"partial", b"tmp", b"crdownload", b"swp", b"filepart", b"db", b"ini"))
_JUNK_FOLDERS = frozenset(
    (b"@eadir", b"__macosx", b"#recycle", b"@recycle", b"$recycle.bin", b"system volume information", b"lost+found")
)

_FOREIGN = {
    **dict.fromkeys((b"tif", b"tiff"), "TIFF"),
    **dict.fromkeys((b"heic", b"heif"), "HEIC"),
    **dict.fromkeys((b"cr2", b"cr3", b"nef", b"arw", b"dng", b"orf", b"rw2", b"raf"), "RAW"),
    **{name.lower().encode(): name for name in ("BMP", "WebP", "GIF", "AVIF")},
}


@dataclass(frozen=True)
class Rules:
    """What is taken for a picture, when it is taken to be finished, and how often to look.

    Attributes:
        settle: seconds that a file must rest before it is read.
        rescan: seconds between two full looks at a root whose events are heard.
        poll: seconds between two looks at a root whose events are not heard, and between two checks that a root is
            still there.
        mode: ``events`` believes that the file system tells of changes even where that is doubtful; ``polling`` does
            without; ``auto`` decides for each root.
        recursive: whether folders below a category folder are looked at.
        category_from: ``first``: the first folder below the root names the category; ``parent``: the folder that the
            picture lies in.
        exclude: patterns of .gitignore, seen from the root: what they match is left alone.
        categories: folder name to category name; None: the folder is left alone.
        negatives: name of the folder in a category folder whose pictures show what the category is not: their category
            is ``<category>/<negatives>``; ``_<negatives>_`` beside the categories is for all of them; empty: neither.
        annotations: ``required``: a picture waits until its annotation is there; ``optional``: it goes without if there
            is none; ``none``: they are not looked for.
        ignored_labels: labels whose boxes are left out, composed and folded to one case.
        annotation_format: which files are taken for annotations; ``auto``: all formats.
        suffixes: file types that are wanted, lower case, without the dot.
        validate: ``header`` checks type, dimensions and the end; ``full`` decodes the picture as well.
        max_pixels, max_bytes: a larger picture is refused.
        max_folders: a root with more folders is polled.
        once: for a run that ends when it is idle: believe a file that is older than ``settle`` at one look on every
            file system, and report losses as soon as everything else is done.
    """

    settle: float = 2.0
    rescan: float = 300.0
    poll: float = 10.0
    mode: Literal["auto", "events", "polling"] = "auto"
    recursive: bool = True
    category_from: Literal["first", "parent"] = "first"
    exclude: tuple[str, ...] = ()
    categories: Mapping[str, str | None] = field(default_factory=lambda: MappingProxyType({}))
    negatives: str = ""
    annotations: Literal["required", "optional", "none"] = "none"
    ignored_labels: frozenset[str] = frozenset()
    annotation_format: Literal["auto", "voc", "coco", "yolo", "sagemaker"] = "auto"
    suffixes: frozenset[str] = frozenset({"jpg", "jpeg", "png"})
    validate: Literal["header", "full"] = "header"
    max_pixels: int = 100_000_000
    max_bytes: int = 256 * 1024 * 1024
    max_folders: int = 4000
    once: bool = False


def foreign_format(name: bytes) -> str:
    """The format of a picture that is not taken, by the file's name; empty for every other file."""
    return _FOREIGN.get(name.rpartition(b".")[2].lower(), "")


def not_taken(seen: Mapping[str, int]) -> list[str]:
    """What a person should know of what was passed over, as :meth:`Filter.pass_over` counted it."""
    formats, links = {name: number for name, number in seen.items() if name and number}, seen.get("", 0)
    told = []
    if formats:
        named = ", ".join(f"{number} {name}" for name, number in sorted(formats.items()))
        noun = "file is" if sum(formats.values()) == 1 else "files are"
        told.append(f"{named} {noun} not taken: convert to JPEG or PNG, for example with `magick mogrify -format jpg`")
    if links:
        noun = "symbolic link to a folder is" if links == 1 else "symbolic links to folders are"
        told.append(f"{links} {noun} not followed: move the folder there, or name its parent in `folders`")
    return told


class Category(NamedTuple):
    """What a folder stands for: a name, or none, or (``fault``) a name that no category can have."""

    name: str | None
    fault: str = ""


class Filter:
    """The rules, made ready for asking many names."""

    def __init__(self, rules: Rules) -> None:
        wanted = {suffix.lower().encode() for suffix in rules.suffixes} - _JUNK_SUFFIXES
        if b"jpg" in wanted:
            wanted.add(b"jfif")  # a JPEG by another name, as browsers save it
        self._suffixes = frozenset(suffix for suffix in wanted if not suffix.endswith(b"~"))
        self._depth = DEEPEST if rules.recursive else 1
        self._from_first = rules.category_from == "first"
        self._negatives = rules.negatives.encode()
        self._underscored = {f"_{rules.negatives}_".encode()} if rules.negatives else set()
        """Folders that begin with an underscore and are looked into all the same."""
        # Pictures with annotations need no category: what is marked in them says what they show.
        self._rootless = Category("" if rules.annotations != "none" else None)
        self._categories = {_composed(key): value and _composed(value) for key, value in rules.categories.items()}
        self._ignored = frozenset(key for key, value in self._categories.items() if value is None)
        self._spec = GitIgnoreSpec.from_lines(rules.exclude) if rules.exclude else None
        self.selective = self._spec is not None
        """Whether there are patterns of what is left alone."""

    def file(self, name: bytes) -> bool:
        """Whether a file of this name is wanted."""
        lower = name.lower()
        dot = lower.rfind(b".")
        return dot > 0 and lower[dot + 1 :] in self._suffixes and not lower.startswith(_JUNK_PREFIXES)

    def pass_over(self, seen: Counter[str], entry: os.DirEntry[Any]) -> None:
        """Count a picture whose format is not taken under that format, a link to a folder under the empty one."""
        name = os.fsencode(entry.name)
        if entry.is_symlink():
            with contextlib.suppress(OSError):  # a link that leads to itself
                seen[""] += self.folder(name) and entry.is_dir()
        elif kind := foreign_format(name):
            seen[kind] += not name.startswith(b".")

    def folder(self, name: bytes) -> bool:
        """Whether a folder of this name is looked into."""
        left_alone = name.startswith((b".", b"_")) and name not in self._underscored
        return not left_alone and name.lower() not in _JUNK_FOLDERS

    def excluded(self, root: bytes, folder: bytes, name: bytes = b"") -> bool:
        """Whether a pattern says that this file in the folder, or the folder itself, is left alone."""
        if self._spec is None:
            return False
        below = folder[len(root) :].strip(b"/")
        path = os.fsdecode(below + b"/" + name if below else name)
        return path != "" and self._spec.match_file(path)

    def too_deep(self, root: bytes, folder: bytes) -> bool:
        """Whether the folder lies deeper below the root than the rules allow."""
        return len(_steps(root, folder)) > self._depth

    def admits(self, root: bytes, folder: bytes) -> bool:
        """Whether this folder, at or below the root, is looked at."""
        steps = _steps(root, folder)
        if len(steps) > self._depth or not all(map(self.folder, steps)):
            return False
        named = steps[:1] if self._from_first else steps
        if self._ignored and any(_composed(os.fsdecode(step)) in self._ignored for step in named):
            return False
        return self._spec is None or not self.excluded(root, folder)

    def category(self, root: bytes, folder: bytes) -> Category:
        """The category of the pictures that lie in this folder, at or below the root."""
        steps = _steps(root, folder)
        at = 1 if self._from_first else len(steps) - 1
        if self._negatives and at > 0 and steps[at : at + 1] == [self._negatives]:
            named = self._named(steps[:at], steps[at - 1])
            return named if named.name is None else Category(f"{named.name}/{self._negatives.decode()}")
        return self._named(steps, (steps[0] if self._from_first else steps[-1]) if steps else root.rpartition(b"/")[2])

    def _named(self, steps: list[bytes], raw: bytes) -> Category:
        try:
            name = _composed(raw.decode())
        except UnicodeDecodeError:
            if not steps:
                return self._rootless
            return Category(
                None, f"the folder name {show_path(raw)} is not UTF-8 and cannot name a category: rename the folder"
            )
        if name in self._categories:
            return Category(self._categories[name])
        if not steps:
            return self._rootless
        if not name.strip() or any(unicodedata.category(char) == "Cc" for char in name):
            return Category(
                None,
                f"the folder name '{show_path(raw)}' is blank or has control characters and cannot name a category: "
                "rename the folder, or give it a name in 'categories'",
            )
        return Category(name)


def _steps(root: bytes, folder: bytes) -> list[bytes]:
    below = folder[len(root) :].strip(b"/")
    return below.split(b"/") if below else []


def _composed(name: str) -> str:
    # Systems differ in whether they store an accented letter as one character or two; the person sees one name.
    return unicodedata.normalize("NFC", name)
