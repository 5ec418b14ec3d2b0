"""The demo of pictures that are sorted into folders: a classification."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from image_sync.cli.demo.scene import Scene
from image_sync.cli.demo.story import UPLOAD, Ask, Wave
from image_sync.errors import UsageError
from image_sync.log import show_path, show_text

_SUFFIXES = {".jpg", ".jpeg", ".png"}
_FEWEST = 8  # a category: enough for both halves of a training, and one picture to keep back
# More and smaller steps than MVI documents: the embedded server would else be done before anybody could watch.
_GENTLE = {"max_iter": 80_000, "learning_rate": 0.000_005, "test_interval": 1000}


class Sorting:
    """Three waves of a folder's pictures; the last one of each category is kept back.

    Args:
        images: a folder with a folder of pictures for each category.

    Raises:
        UsageError: it holds too little.
    """

    name = "demo"
    model: Mapping[str, object] = {"strategy": _GENTLE}
    measure = "accuracy"

    def __init__(self, images: Path) -> None:
        self._shelf = _pictures(images)

    def waves(self, _stock: Path) -> list[Wave]:
        """Short of the upload threshold, right at it, and the rest."""
        second = _at_once(self._shelf)
        first = second - 1
        waves, count = [], 0
        for number, part in enumerate((slice(0, first), slice(first, second), slice(second, -1))):
            files = [
                (path, Path(category, path.name)) for category, paths in self._shelf.items() for path in paths[part]
            ]
            count += len(files)
            waves.append(Wave(f"{count} pictures in {len(self._shelf)} folders", files, count, uploads=number > 0))
        return waves

    def judge(self, ask: Ask, scene: Scene) -> str:
        """Whether the surest category of each picture kept back is the one of its folder."""
        right = 0
        for category, paths in self._shelf.items():
            best = next(iter(ask(paths[-1].read_bytes())), None)
            good = best is not None and best.category == category
            right += good
            verdict = "nothing" if best is None else f"{show_text(best.category)} ({best.confidence:.2f})"
            shown = show_path(str(Path(category, paths[-1].name)))
            scene.say(f"never seen before {shown}: {verdict}{'' if good else '  <- wrong'}")
        return f"{right} of {len(self._shelf)} unseen pictures right"


def _pictures(images: Path) -> dict[str, list[Path]]:
    shown = show_path(str(images))
    try:
        shelf = {
            folder.name: sorted(path for path in folder.iterdir() if path.suffix.lower() in _SUFFIXES)
            for folder in sorted(images.iterdir() if images.is_dir() else ())
            if folder.is_dir()
        }
    except OSError as error:
        raise UsageError(f"{shown} cannot be listed: {error.strerror}", hint="Check the right to read it.") from error
    shelf = {name: paths for name, paths in shelf.items() if paths}
    if len(shelf) < 2 or any(len(paths) < _FEWEST for paths in shelf.values()):  # noqa: PLR2004 - MVI's minimum
        raise UsageError(
            f"{shown} does not hold two or more folders with at least {_FEWEST} pictures each",
            hint="Run it in a checkout of image-sync, or name a folder of your own: image-sync demo --images DIR",
        )
    least = len(shelf) * (_at_once(shelf) + 1) + UPLOAD
    held = sum(map(len, shelf.values()))
    if held < least:
        raise UsageError(
            f"{shown} holds {held} pictures, too few for three waves",
            hint=f"Give {least} or more: the last wave must reach the upload threshold of {UPLOAD} once more.",
        )
    return shelf


def _at_once(shelf: Mapping[str, object]) -> int:
    """So many pictures of each category reach the upload threshold; one less does not."""
    return -(-UPLOAD // len(shelf))
