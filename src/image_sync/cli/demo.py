"""``image-sync demo``: the whole job in about a minute, on a real server and a real daemon of its own."""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from image_sync.cli.scene import Scene
from image_sync.cli.session import ledger_of, platform_of, settings_of
from image_sync.config import Settings
from image_sync.domain import Run, RunState
from image_sync.errors import ImageSyncError, UsageError
from image_sync.ledger import Ledger, exists
from image_sync.platforms.base import Model, Platform

_SUFFIXES = {".jpg", ".jpeg", ".png"}
_FEWEST = 8  # a category: enough for both halves of a training, and one picture to keep back
_TICK = 0.1
_PATIENCE = 120.0
_UPLOAD, _TRAINING = 12, 24
_SHUTTER = 0.15  # seconds between two pictures of the camera that is played
# More and smaller steps than MVI documents: the embedded server would else be done before anybody could watch.
_GENTLE = {"max_iter": 80_000, "learning_rate": 0.000_005, "test_interval": 1000}


def demo(
    images: Annotated[
        Path, typer.Option("--images", metavar="DIR", help="Folder with one folder of pictures per category.")
    ] = Path("images"),
    keep: Annotated[bool, typer.Option("--keep", help="Leave the demo's folder behind, to look around in.")] = False,
) -> None:
    """Show the whole job: pictures are found, counted, uploaded, trained on; the model judges unseen ones."""
    shelf = _pictures(images)
    scene = Scene(Console(highlight=False))
    started = time.monotonic()
    with contextlib.ExitStack() as stack:
        site = Path(tempfile.mkdtemp(prefix="image-sync-demo-"))
        if not keep:
            stack.callback(shutil.rmtree, site, ignore_errors=True)
        url = stack.enter_context(_server(site))
        scene.say(f"embedded server   {url}")
        config = _configure(site, url, sorted(shelf))
        settings = settings_of(config)
        daemon = stack.enter_context(_daemon(site, config))
        scene.say(f"daemon            watches {site / 'pictures'} (process {daemon.pid})")
        wait = _Wait(daemon, site / "daemon.log")
        wait(lambda: exists(settings.state), "the daemon to open its ledger")
        with ledger_of(settings) as ledger, platform_of(settings) as platform, scene:
            unseen = _feed(shelf, site / "pictures", ledger, scene, wait, settings)
            run = _follow(ledger, scene, wait, settings)
            model = _deploy(platform, run, scene)
            right = sum([_judge(platform, model, truth, picture, scene) for truth, picture in unseen])
            uploaded = ledger.tally().confirmed
            stored = sum(1 for _ in platform.listing(run.dataset))
    accuracy = "unknown" if model.accuracy is None else f"{model.accuracy:.3f}"
    scene.say("")
    scene.say(
        f"Done in {time.monotonic() - started:.0f} s: {uploaded} pictures confirmed, {stored} at the server; "
        f"model {model.name} with held-out accuracy {accuracy}; {right} of {len(unseen)} unseen pictures right."
    )
    scene.say(f"Everything is left in {site}." if keep else "The demo's folder is gone again.")
    scene.say("Your own server and pictures: image-sync init")


def _pictures(images: Path) -> dict[str, list[Path]]:
    shelf = {
        folder.name: sorted(path for path in folder.iterdir() if path.suffix.lower() in _SUFFIXES)
        for folder in sorted(images.iterdir() if images.is_dir() else ())
        if folder.is_dir()
    }
    shelf = {name: paths for name, paths in shelf.items() if paths}
    if len(shelf) < 2 or any(len(paths) < _FEWEST for paths in shelf.values()):  # noqa: PLR2004 - MVI's minimum
        raise UsageError(
            f"{images} does not hold two or more folders with at least {_FEWEST} pictures each",
            hint="Run it in a checkout of image-sync, or name a folder of your own: image-sync demo --images DIR",
        )
    return shelf


def _configure(site: Path, url: str, categories: list[str]) -> Path:
    for name in categories:
        (site / "pictures" / name).mkdir(parents=True)
    config = site / "configuration.json"
    document = {
        "credentials": {"endpoint": url},
        "dataset": {"name": "demo"},
        "model": {
            "name": "demo",
            "strategy": _GENTLE,
            "poll": 0.2,
        },
        "threshold": {"upload": _UPLOAD, "training": _TRAINING},
        "time": 2,
        "watch": {"settle": 1},
        "folders": [str(site / "pictures")],
        "state": str(site / "state"),
    }
    config.write_text(json.dumps(document, indent=2), encoding="utf-8")
    config.chmod(0o600)
    return config


@contextlib.contextmanager
def _process(command: list[str], log: Path, **options: object) -> Iterator[subprocess.Popen[str]]:
    """A process of our own program that ends with the block; what it logs goes to a file."""
    with log.open("w", encoding="utf-8") as file:
        process = subprocess.Popen(  # noqa: S603 - our own program
            [sys.executable, "-m", "image_sync", *command],
            stdin=subprocess.DEVNULL,
            stderr=file,
            text=True,
            **options,  # type: ignore[call-overload]
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


@contextlib.contextmanager
def _server(site: Path) -> Iterator[str]:
    command = ["serve", "--port", "0", "--data", str(site / "server")]
    with _process(command, site / "server.log", stdout=subprocess.PIPE) as process:
        line = process.stdout.readline() if process.stdout else ""
        if not line.startswith("listening on "):
            process.wait(30)
            raise ImageSyncError(f"the embedded server did not start: {_last_lines(site / 'server.log')}")
        yield line.removeprefix("listening on ").strip()


@contextlib.contextmanager
def _daemon(site: Path, config: Path) -> Iterator[subprocess.Popen[str]]:
    with _process(["run", "-c", str(config)], site / "daemon.log", stdout=subprocess.DEVNULL) as process:
        yield process


class _Wait:
    """Waits for something that the daemon does, as long as it lives and makes progress."""

    def __init__(self, daemon: subprocess.Popen[str], log: Path) -> None:
        self._daemon = daemon
        self._log = log
        self._never = threading.Event()

    def rest(self, seconds: float, show: Callable[[], None]) -> None:
        """Let so much time pass."""
        self._never.wait(seconds)
        show()

    def __call__(self, done: Callable[[], bool], what: str, show: Callable[[], None] = lambda: None) -> None:
        until = time.monotonic() + _PATIENCE
        while not done():
            show()
            if self._daemon.poll() is not None or time.monotonic() > until:
                raise ImageSyncError(f"waited in vain for {what}: {_last_lines(self._log)}")
            self._never.wait(_TICK)
        show()


def _last_lines(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()[-3:]
    return " | ".join(lines) or "it said nothing"


def _feed(
    shelf: dict[str, list[Path]], root: Path, ledger: Ledger, scene: Scene, wait: _Wait, settings: Settings
) -> list[tuple[str, Path]]:
    """Copy the pictures in three waves; the last one of each category is kept back and returned."""
    kept = [(category, paths[-1]) for category, paths in shelf.items()]
    second = -(-_UPLOAD // len(shelf))  # so many of each reach the upload threshold; one less does not
    first = second - 1
    waves = (slice(0, first), slice(first, second), slice(second, -1))
    copied = 0

    def show() -> None:
        scene.counts(ledger.tally(), ledger.census().total.found, settings)

    for number, wave in enumerate(waves, 1):
        for category, paths in shelf.items():
            for path in paths[wave]:
                shutil.copyfile(path, root / category / path.name)
                copied += 1
                wait.rest(_SHUTTER, show)
        scene.say(f"camera            {copied} pictures in {len(shelf)} folders")
        wait(lambda: ledger.census().total.found >= copied, "the pictures to be found", show)  # noqa: B023 - called at once
        scene.found(ledger.tally(), copied, settings)
        if number > 1:
            wait(lambda: ledger.tally().confirmed >= copied, "the pictures to be uploaded", show)  # noqa: B023
            scene.uploaded(ledger.tally(), settings)
    return kept


def _follow(ledger: Ledger, scene: Scene, wait: _Wait, settings: Settings) -> Run:
    def newest() -> Run | None:
        return next(iter(ledger.runs.history(1)), None)

    def ended() -> bool:
        run = newest()
        return run is not None and not run.state.active

    def show() -> None:
        scene.counts(ledger.tally(), ledger.census().total.found, settings)
        run = newest()
        if run is not None:
            scene.training(run)

    wait(ended, "the training to end", show)
    run = newest()
    if run is None or run.state is not RunState.TRAINED:
        raise ImageSyncError(f"the training did not succeed: {'' if run is None else run.reason}")
    scene.trained(run)
    return run


def _deploy(platform: Platform, run: Run, scene: Scene) -> Model:
    model = platform.model_of(run.task_id)
    if model is None:
        raise ImageSyncError(f"the server has no model of training {run.name}")
    platform.deploy(model)
    scene.say(f"deployed          {model.name}")
    return model


def _judge(platform: Platform, model: Model, truth: str, picture: Path, scene: Scene) -> bool:
    answers = platform.predict(model, picture.read_bytes())
    best = answers[0] if answers else None
    verdict = "nothing" if best is None else f"{best.category} ({best.confidence:.2f})"
    right = best is not None and best.category == truth
    scene.say(f"never seen before {truth}/{picture.name}: {verdict}{'' if right else '  <- wrong'}")
    return right
