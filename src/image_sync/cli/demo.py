"""``image-sync demo``: the whole job on this machine, with pictures that are sorted or with boxes drawn in them.

A stand-in server and a daemon run in a folder of their own, both as real processes. A camera is played: files come
wave by wave into the watched folder. The trained model then judges pictures that it has never seen.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import typer
from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table
from rich.text import Text

from image_sync.annotations import voc
from image_sync.annotations.checks import Draft
from image_sync.cli.present import Measure
from image_sync.cli.session import ledger_of, platform_of, settings_of
from image_sync.config import Settings
from image_sync.domain import Box, ModelOutcome, NextStep, Training, TrainingState
from image_sync.errors import ImageSyncError, UsageError
from image_sync.ledger import Ledger, exists
from image_sync.log import show_path, show_text
from image_sync.platforms.base import Prediction

UPLOAD, TRAINING = 12, 24
"""The thresholds of both demos."""
OVERLAP = 0.5
"""What is found counts as right from this intersection over union with what is marked."""
Ask = Callable[[bytes], list[Prediction]]
"""What the deployed model says of a picture."""
_TICK, _SHUTTER = 0.1, 0.15  # seconds between two looks, and between two files
_PATIENCE = 120.0
_LAST_LINES = 3
_SUFFIXES = {".jpg", ".jpeg", ".png"}
_FEWEST = 8  # a category: enough for both halves of a training, and one picture to keep back
_LATE = 4  # plates of the first wave that come without their boxes
_UNSEEN = 12  # plates that are kept back
_SURE = 0.6  # the stand-in server's detector is this sure of most of what it finds, and of little that is not there
_SIZE = (200, 150)  # of a plate
_DRAWN, _ENLARGED = 2, 4  # plates that stay, and how many times as large
_HERE = Path(__file__)
_PLATES = (_HERE.with_name("plates"), _HERE.parents[3] / "images" / "_plates")
"""The plates with their boxes: where the wheel puts them, and where they lie in a checkout."""


def demo(
    images: Annotated[
        Path | None,
        typer.Option(
            "--images", metavar="DIR", help="Folder with one folder of pictures per category.", show_default="images"
        ),
    ] = None,
    detection: Annotated[
        bool,
        typer.Option("--detection", help="Show it with boxes: a model learns to find what lies on metal plates."),
    ] = False,
    keep: Annotated[bool, typer.Option("--keep", help="Leave the demo's folder behind, to look around in.")] = False,
) -> None:
    """Show the whole job: pictures are found, counted, uploaded, trained on; the model judges unseen ones."""
    if detection and images is not None:
        raise UsageError("--detection brings its own pictures", hint="Leave --images out.")
    if not os.access(".", os.W_OK):
        raise UsageError(
            "this folder cannot be written to, and the demo leaves pictures in it",
            hint="Run it in a folder of your own; --images says where the pictures are.",
        )
    story = Detection() if detection else Sorting(images or Path("images"))
    # Whoever ends us means the server and the daemon, too.
    signal.signal(signal.SIGTERM, lambda number, _frame: sys.exit(128 + number))
    show = Show(Console(highlight=False))
    started = time.monotonic()
    with contextlib.ExitStack() as stack:
        folder = Path(tempfile.mkdtemp(prefix="image-sync-demo-"))
        if not keep:
            stack.callback(shutil.rmtree, folder, ignore_errors=True)
        url = stack.enter_context(_server(folder))
        show.say(f"embedded server   {url}")
        config = _configure(folder, url, story)
        settings = settings_of(config)
        log = folder / "daemon.log"
        daemon = Daemon(stack.enter_context(_process(["run", "-c", str(config)], log)), log)
        show.say(f"daemon            watches {folder / 'pictures'} (process {daemon.pid})")
        daemon.wait(lambda: _has_target(settings), "the daemon to open its ledger")
        with ledger_of(settings) as ledger, platform_of(settings) as platform, show.bars:
            _play(story.waves(), folder / "pictures", ledger, daemon, show)
            run, result = _follow(story, ledger, daemon, Measure.of(settings), show)
            model = platform.models.of_task(run.task_id)
            if model is None:
                raise ImageSyncError(f"the server has no model of training {run.name}")
            verdict = story.judge(lambda picture: platform.models.predict(model, picture), show)
            _plot(story, ledger, run, Measure.of(settings), show)
            uploaded = ledger.tally().confirmed
            stored = sum(1 for _ in platform.pictures.listing(run.dataset))
    show.say("")
    show.say(
        f"Done in {time.monotonic() - started:.0f} s: {uploaded} pictures confirmed, {stored} at the server; "
        f"model {run.name} with {result}; {verdict}."
    )
    show.say(f"Everything is left in {folder}." if keep else "The demo's folder is gone again.")
    show.say("Your own server and pictures: image-sync init")


@dataclass(frozen=True, slots=True)
class Wave:
    """Files that come one after the other, and what is true of the watched folder once they are there."""

    text: str
    files: Sequence[tuple[Path, Path]]
    """Where each lies, and where below the watched folder it is to lie."""
    pictures: int
    """So many are there, all waves together; ``waiting`` of them wait for their annotation."""
    waiting: int = 0
    uploads: bool = True
    """Whether they reach the upload threshold."""


class Sorting:
    """Three waves of a folder's pictures; the last one of each category is kept back.

    Args:
        images: a folder with a folder of pictures for each category.

    Raises:
        UsageError: it holds too little.
    """

    name = "demo"
    # More and smaller steps than MVI documents: the stand-in server would else be done before anybody could watch.
    model: Mapping[str, object] = {"strategy": {"max_iter": 80_000, "learning_rate": 5e-6, "test_interval": 1000}}
    measure = "accuracy"

    def __init__(self, images: Path) -> None:
        shown = show_path(str(images))
        try:
            shelf = {
                folder.name: sorted(path for path in folder.iterdir() if path.suffix.lower() in _SUFFIXES)
                for folder in sorted(images.iterdir() if images.is_dir() else ())
                if folder.is_dir() and folder.name[0] not in "._"
            }
        except OSError as error:
            raise UsageError(
                f"{shown} cannot be listed: {error.strerror}", hint="Check the right to read it."
            ) from error
        shelf = {name: paths for name, paths in shelf.items() if paths}
        if len(shelf) < 2 or any(len(paths) < _FEWEST for paths in shelf.values()):  # noqa: PLR2004 - MVI's minimum
            raise UsageError(
                f"{shown} does not hold two or more folders with at least {_FEWEST} pictures each",
                hint="Run it in a checkout of image-sync, or name a folder of your own: image-sync demo --images DIR",
            )
        self._at_once = -(-UPLOAD // len(shelf))
        """So many pictures of each category reach the upload threshold; one less does not."""
        least, held = len(shelf) * (self._at_once + 1) + UPLOAD, sum(map(len, shelf.values()))
        if held < least:
            raise UsageError(
                f"{shown} holds {held} pictures, too few for three waves",
                hint=f"Give {least} or more: the last wave must reach the upload threshold of {UPLOAD} once more.",
            )
        self._shelf = shelf

    def waves(self) -> list[Wave]:
        """Short of the upload threshold, right at it, and the rest."""
        second = self._at_once
        waves, count = [], 0
        for number, part in enumerate((slice(0, second - 1), slice(second - 1, second), slice(second, -1))):
            files = [
                (path, Path(category, path.name)) for category, paths in self._shelf.items() for path in paths[part]
            ]
            count += len(files)
            waves.append(Wave(f"{count} pictures in {len(self._shelf)} folders", files, count, uploads=number > 0))
        return waves

    def judge(self, ask: Ask, show: Show) -> str:
        """Whether the surest category of each picture kept back is the one of its folder."""
        right = 0
        for category, paths in self._shelf.items():
            best = next(iter(ask(paths[-1].read_bytes())), None)
            good = best is not None and best.category == category
            right += good
            verdict = "nothing" if best is None else f"{show_text(best.category)} ({best.confidence:.2f})"
            shown = show_path(str(Path(category, paths[-1].name)))
            show.say(f"never seen before {shown}: {verdict}{'' if good else '  <- wrong'}")
        return f"{right} of {len(self._shelf)} unseen pictures right"


class Detection:
    """Plates with Pascal VOC files beside them, some of which come late; others are kept back.

    Raises:
        UsageError: they are not installed.
    """

    name = "demo-detection"
    # Smaller steps than MVI documents, and more of them: they take seconds that can be watched.
    model: Mapping[str, object] = {
        "nn_arch": "frcnn",
        "strategy": {"max_iter": 20_000, "learning_rate": 0.0002},
    }
    measure = "held-out mean average precision"

    def __init__(self) -> None:
        plates = sorted(path for folder in _PLATES if folder.is_dir() for path in folder.glob("*.jpg"))
        if not plates:
            raise UsageError("the plates of this demo are not installed", hint="Run it in a checkout of image-sync.")
        self._plates, self._unseen = plates[:-_UNSEEN], plates[-_UNSEEN:]

    def waves(self) -> list[Wave]:
        """As many as the upload threshold, some without boxes; the boxes they lack; the rest."""
        plates = self._plates
        prompt, late, rest = plates[: UPLOAD - _LATE], plates[UPLOAD - _LATE : UPLOAD], plates[UPLOAD:]
        return [
            Wave(
                f"{UPLOAD} plates, {_LATE} of them without a file of boxes beside them",
                [*_with_boxes(prompt), *_flat(late)],
                UPLOAD,
                waiting=_LATE,
                uploads=False,
            ),
            Wave(f"the {_LATE} files of boxes that were missing", _flat(map(_boxes, late)), UPLOAD),
            Wave(f"{len(plates)} plates, each with its boxes", _with_boxes(rest), len(plates)),
        ]

    def judge(self, ask: Ask, show: Show) -> str:
        """What is marked, found and right on other plates; two of them stay as pictures with the boxes found."""
        files = [_boxes(path) for path in self._unseen]
        truth = [voc.read(file.read_bytes(), Draft(bytes(file), *_SIZE)).boxes for file in files]
        found = [[one for one in ask(path.read_bytes()) if one.confidence >= _SURE] for path in self._unseen]
        scores = {label: Score() for label in sorted({one.label for boxes in truth for one in boxes})}
        for boxes, answers in zip(truth, found, strict=True):
            count(scores, boxes, answers)
        show.say(f"never seen before {_UNSEEN} plates: what the model is at least {_SURE:.0%} sure of")
        show.scores(scores, f"right at IoU {OVERLAP}")
        fullest = sorted(range(_UNSEEN), key=lambda number: -len(truth[number]))[:_DRAWN]
        for number, at in enumerate(fullest, 1):
            target = Path(f"{self.name}-{number}.png")
            _draw(self._unseen[at], found[at], target)
            show.file("boxes found", target)
        total = sum(scores.values(), Score())
        return (
            f"{total.right} of {total.marked} objects on unseen plates found, {total.found - total.right} false alarms"
        )


def _flat(files: Iterable[Path]) -> list[tuple[Path, Path]]:
    return [(path, Path(path.name)) for path in files]


def _with_boxes(pictures: Iterable[Path]) -> list[tuple[Path, Path]]:
    """The boxes first: whoever watches the folder finds them when the picture comes."""
    return _flat(file for picture in pictures for file in (_boxes(picture), picture))


def _boxes(picture: Path) -> Path:
    return picture.with_suffix(".xml")


def _draw(picture: Path, found: list[Prediction], target: Path) -> None:
    """The plate several times as large, so that what is written at the boxes leaves them to be seen."""
    from PIL import Image  # late: the other demo does without

    from image_sync.cli.draw_boxes import draw

    with Image.open(picture) as opened:
        size = (opened.width * _ENLARGED, opened.height * _ENLARGED)
        large = io.BytesIO()
        opened.resize(size, Image.Resampling.LANCZOS).save(large, "PNG")
    drawn = draw(large.getvalue(), [_enlarged(one) for one in found])
    try:
        drawn.save(target)
    except OSError as error:
        raise ImageSyncError(
            f"{target} cannot be written: {error.strerror or error}", hint="Run the demo in a folder of your own."
        ) from error


def _enlarged(one: Prediction) -> Prediction:
    if one.box is None:
        return one
    sides = {side: getattr(one.box, side) * _ENLARGED for side in ("left", "top", "right", "bottom")}
    return replace(one, box=replace(one.box, **sides, polygon=()))


@dataclass(frozen=True, slots=True)
class Score:
    """How many objects are marked in pictures, how many a model finds, and how many of those are right."""

    marked: int = 0
    found: int = 0
    right: int = 0

    def __add__(self, other: Score) -> Score:
        return Score(self.marked + other.marked, self.found + other.found, self.right + other.right)


def count(scores: dict[str, Score], truth: Sequence[Box], answers: Sequence[Prediction]) -> None:
    """Add one picture to the scores: the surest answers choose first, and each box is found once at most."""
    open_boxes = list(truth)
    for marked in truth:
        scores[marked.label] += Score(marked=1)
    for answer in sorted(answers, key=lambda one: -one.confidence):
        scores.setdefault(answer.category, Score())
        alike = [one for one in open_boxes if one.label == answer.category]
        best = max(alike, key=lambda one: overlap(one, answer.box), default=None)
        right = best is not None and overlap(best, answer.box) >= OVERLAP
        if best is not None and right:
            open_boxes.remove(best)
        scores[answer.category] += Score(found=1, right=int(right))


def overlap(one: Box, other: Box | None) -> float:
    """The area that two boxes share, as part of the area that they cover together (IoU); 0 without another one."""
    if other is None:
        return 0.0
    across = min(one.right, other.right) - max(one.left, other.left)
    down = min(one.bottom, other.bottom) - max(one.top, other.top)
    shared = max(across, 0.0) * max(down, 0.0)
    both = sum((side.right - side.left) * (side.bottom - side.top) for side in (one, other)) - shared
    return shared / both if both > 0 else 0.0


class Show:
    """Lines above, bars below. On no terminal there are only lines."""

    def __init__(self, console: Console) -> None:
        self._console = console
        columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[note]}"))
        self.bars = Progress(
            TextColumn("{task.description:17}"), *columns, console=console, disable=not console.is_terminal
        )
        self._found = self.bars.add_task("upload threshold", total=UPLOAD, note="")
        self._uploaded = self.bars.add_task("uploaded", total=None, note="")
        self._counted = self.bars.add_task("training threshold", total=TRAINING, note="")
        self._trained = self.bars.add_task("training", total=None, note="waits", visible=False)
        self._told = -1

    def say(self, text: str) -> None:
        """A line that stays."""
        self._console.print(Text(text), soft_wrap=True)

    def file(self, what: str, path: Path) -> None:
        """A file that stays when the demo is over."""
        self.say(f"{what:17} {show_path(str(path))}")

    def counts(self, ledger: Ledger) -> None:
        """Where everything stands now."""
        tally = ledger.tally()
        waiting = tally.ready + tally.cleared
        self.bars.update(self._found, completed=min(waiting, UPLOAD), note=_short(waiting, UPLOAD))
        self.bars.update(self._uploaded, total=ledger.census().total.found, completed=tally.confirmed)
        note = _short(tally.untrained, TRAINING) if tally.last is None else "started"
        self.bars.update(self._counted, completed=min(tally.untrained, TRAINING), note=note)

    def found(self, ledger: Ledger, wave: Wave) -> None:
        """The pictures of a wave were found."""
        tally = ledger.tally()
        ready = max(wave.pictures - wave.waiting - tally.confirmed, 0)
        self.say(
            f"found             {wave.pictures} pictures: upload {_of(ready, UPLOAD)}, "
            f"training {_of(tally.untrained, TRAINING)}"
        )
        if wave.waiting:
            self.say(f"waiting           {wave.waiting} of them wait for their annotations")

    def uploaded(self, ledger: Ledger) -> None:
        """Pictures were confirmed by the server."""
        tally = ledger.tally()
        started = tally.active is not None or tally.last is not None
        counts = tally.confirmed if started else tally.untrained
        self.say(f"uploaded          {tally.confirmed} pictures: training {_of(counts, TRAINING)}")
        if tally.labelled:
            labels = ", ".join(f"{label} in {pictures}" for label, pictures in sorted(tally.labelled.items()))
            self.say(f"labels            {labels} pictures")

    def training(self, run: Training, measure: Measure) -> None:
        """How far the training is."""
        figures = measure.figures(run)
        self.bars.update(
            self._trained,
            visible=True,
            total=run.iterations or None,
            completed=run.iteration,
            note=figures or "is being prepared",
        )
        step = run.iteration * 5 // run.iterations if run.iterations else -1
        if not self._console.is_terminal and step > self._told:
            self._told = step
            self.say(f"training          iteration {run.iteration} of {run.iterations}  {figures}")

    def scores(self, scores: Mapping[str, Score], right: str) -> None:
        """A row for each label, and what they come to."""
        table = Table(box=box.SIMPLE, show_footer=True, pad_edge=False)
        total = sum(scores.values(), Score())
        table.add_column("label", footer="all")
        for name, figure in (("marked", total.marked), ("found", total.found), (right, total.right)):
            table.add_column(name, justify="right", footer=str(figure))
        for label, score in scores.items():
            table.add_row(Text(show_text(label)), str(score.marked), str(score.found), str(score.right))
        self._console.print(table)


def _short(have: int, need: int) -> str:
    return "reached" if have >= need else f"short by {need - have}"


def _of(have: int, need: int) -> str:
    return f"{have} / {need}" if have >= need else f"{have} / {need}, short by {need - have}"


class Daemon:
    """The daemon, as one who waits for what it does sees it."""

    def __init__(self, process: subprocess.Popen[str], log: Path) -> None:
        self._process = process
        self._log = log
        self._never = threading.Event()
        self.pid = process.pid

    def rest(self, seconds: float) -> None:
        """Let so much time pass."""
        self._never.wait(seconds)

    def wait(self, done: Callable[[], bool], what: str, look: Callable[[], None] = lambda: None) -> None:
        """Until it is done, and show how far it is. Raises ImageSyncError: the daemon has ended, or takes too long."""
        until = time.monotonic() + _PATIENCE
        while not done():
            look()
            if self._process.poll() is not None or time.monotonic() > until:
                raise ImageSyncError(f"waited in vain for {what}: {_end_of(self._log)}")
            self.rest(_TICK)
        look()


@contextlib.contextmanager
def _server(folder: Path) -> Iterator[str]:
    """The embedded server; its address."""
    command = ["serve", "--port", "0", "--data", str(folder / "server")]
    with _process(command, folder / "server.log", stdout=subprocess.PIPE) as process:
        line = process.stdout.readline() if process.stdout else ""
        if not line.startswith("listening on "):
            process.wait(30)
            raise ImageSyncError(f"the embedded server did not start: {_end_of(folder / 'server.log')}")
        yield line.removeprefix("listening on ").strip()


@contextlib.contextmanager
def _process(command: list[str], log: Path, *, stdout: int = subprocess.DEVNULL) -> Iterator[subprocess.Popen[str]]:
    """A process of our own program that ends with the block; what it logs goes to a file."""
    with log.open("w", encoding="utf-8") as file:
        process = subprocess.Popen(  # noqa: S603 - our own program
            [sys.executable, "-m", "image_sync", *command],
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=file,
            text=True,
        )
        try:
            yield process
        finally:
            process.terminate()
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _end_of(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()[-_LAST_LINES:]
    return " | ".join(lines) or "it said nothing"


def _configure(folder: Path, url: str, story: Sorting | Detection) -> Path:
    """The watched folder, still empty, and the configuration."""
    (folder / "pictures").mkdir()
    config = folder / "configuration.json"
    document = {
        "credentials": {"endpoint": url},
        "dataset": {"name": story.name},
        "model": {"name": story.name, "poll": 0.2, "deploy": "better", **story.model},
        "threshold": {"upload": UPLOAD, "training": TRAINING},
        "time": 2,
        "watch": {"settle": 1},
        "upload": {"grace": 5},  # the server is on this machine: a lost answer need not be waited for for minutes
        "folders": [str(folder / "pictures")],
        "state": str(folder / "state"),
    }
    config.write_text(json.dumps(document, indent=2), encoding="utf-8")
    config.chmod(0o600)
    return config


def _has_target(settings: Settings) -> bool:
    """Whether the daemon has said in its ledger where pictures go: whoever opens it takes that up once."""
    if not exists(settings.state):
        return False
    with ledger_of(settings) as ledger:
        return ledger.target.id > 0


def _play(waves: Sequence[Wave], root: Path, ledger: Ledger, daemon: Daemon, show: Show) -> None:
    """Copy the files wave by wave, and after each one wait until the daemon has done with it what it should."""

    def seen() -> bool:
        total = ledger.census().total
        return total.found >= wave.pictures and total.waiting == wave.waiting

    def sent() -> bool:
        tally = ledger.tally()
        return tally.confirmed >= wave.pictures and not tally.unmarked

    for wave in waves:
        for source, place in wave.files:
            target = root / place
            target.parent.mkdir(exist_ok=True)
            shutil.copyfile(source, target)
            daemon.rest(_SHUTTER)
            show.counts(ledger)
        show.say(f"camera            {wave.text}")
        daemon.wait(seen, "the pictures to be found", lambda: show.counts(ledger))
        show.found(ledger, wave)
        if wave.uploads:
            daemon.wait(sent, "the pictures to be uploaded", lambda: show.counts(ledger))
            show.uploaded(ledger)


def _follow(
    story: Sorting | Detection, ledger: Ledger, daemon: Daemon, measure: Measure, show: Show
) -> tuple[Training, str]:
    """The training, once it is trained and deployed, and how good it is."""

    def newest() -> Training | None:
        return next(iter(ledger.trainings.history(1)), None)

    def look() -> None:
        show.counts(ledger)
        run = newest()
        if run is not None:
            show.training(run, measure)

    daemon.wait(lambda: (run := newest()) is not None and not run.state.active, "the training to end", look)
    run = newest()
    if run is None or run.state is not TrainingState.TRAINED:
        raise ImageSyncError(f"the training did not succeed: {'' if run is None else run.reason}")
    result = Measure(story.measure, measure.share).text(run.accuracy, run.pictures) or f"{story.measure} unknown"
    show.say(f"trained           {run.name}: {run.pictures} pictures, {result}")
    daemon.wait(
        lambda: (run := newest()) is not None and run.owed is NextStep.NOTHING, "the model to be deployed", look
    )
    run = newest() or run
    if run.fate is not ModelOutcome.DEPLOYED:
        raise ImageSyncError(f"the model was not deployed: {run.fate_reason}")
    show.say(f"deployed          {run.name}: {run.fate_reason}")
    return run, result


def _plot(story: Sorting | Detection, ledger: Ledger, run: Training, measure: Measure, show: Show) -> None:
    """Loss and accuracy as a picture that stays; without what draws it, one line that says how to get that."""
    target = Path(f"{story.name}-training.png")
    try:
        from image_sync.cli import charts  # late: the drawing library is an extra

        charts.training(run, ledger.trainings.series(run.id), measure, target)
    except ImageSyncError as error:
        show.say(f"no plot           {error.what}. {error.hint}")
    else:
        show.file("plot", target)
