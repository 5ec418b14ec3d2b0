"""The command: what both demos do, from the first picture to the plot of the training."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from image_sync.cli.demo import camera, site
from image_sync.cli.demo.detection import Detection
from image_sync.cli.demo.scene import Scene
from image_sync.cli.demo.site import Daemon
from image_sync.cli.demo.sorting import Sorting
from image_sync.cli.demo.story import Story
from image_sync.cli.present import Measure
from image_sync.cli.session import ledger_of, platform_of, settings_of
from image_sync.config import Settings
from image_sync.domain import ModelOutcome, NextStep, Training, TrainingState
from image_sync.errors import ImageSyncError, UsageError
from image_sync.ledger import Ledger, exists


def demo(
    images: Annotated[
        Path | None,
        typer.Option(
            "--images", metavar="DIR", help="Folder with one folder of pictures per category.", show_default="images"
        ),
    ] = None,
    detection: Annotated[
        bool,
        typer.Option("--detection", help="Show it with boxes: plates are drawn, and a model finds what is on them."),
    ] = False,
    keep: Annotated[bool, typer.Option("--keep", help="Leave the demo's folder behind, to look around in.")] = False,
) -> None:
    """Show the whole job: pictures are found, counted, uploaded, trained on; the model judges unseen ones."""
    if detection and images is not None:
        raise UsageError("--detection draws its own pictures", hint="Leave --images out.")
    if not os.access(".", os.W_OK):
        raise UsageError(
            "this folder cannot be written to, and the demo leaves pictures in it",
            hint="Run it in a folder of your own; --images says where the pictures are.",
        )
    story: Story = Detection() if detection else Sorting(images or Path("images"))
    # Whoever ends us means the server and the daemon, too.
    signal.signal(signal.SIGTERM, lambda number, _frame: sys.exit(128 + number))
    scene = Scene(Console(highlight=False))
    started = time.monotonic()
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(site.folder(keep=keep))
        url = stack.enter_context(site.server(folder))
        scene.say(f"embedded server   {url}")
        waves = story.waves(folder / "stock")
        config = site.configure(folder, url, story)
        settings = settings_of(config)
        daemon = stack.enter_context(site.daemon(folder, config))
        scene.say(f"daemon            watches {folder / 'pictures'} (process {daemon.pid})")
        daemon.wait(lambda: _aimed(settings), "the daemon to open its ledger")
        with ledger_of(settings) as ledger, platform_of(settings) as platform, scene:
            camera.play(waves, folder / "pictures", ledger, daemon, settings, scene)
            run, result = _follow(story, ledger, daemon, settings, scene)
            model = platform.models.of_task(run.task_id)
            if model is None:
                raise ImageSyncError(f"the server has no model of training {run.name}")
            verdict = story.judge(lambda picture: platform.models.predict(model, picture), scene)
            _plot(story, ledger, run, Measure.of(settings), scene)
            uploaded = ledger.tally().confirmed
            stored = sum(1 for _ in platform.pictures.listing(run.dataset))
    scene.say("")
    scene.say(
        f"Done in {time.monotonic() - started:.0f} s: {uploaded} pictures confirmed, {stored} at the server; "
        f"model {run.name} with {result}; {verdict}."
    )
    scene.say(f"Everything is left in {folder}." if keep else "The demo's folder is gone again.")
    scene.say("Your own server and pictures: image-sync init")


def _aimed(settings: Settings) -> bool:
    """Whether the daemon has said in its ledger where pictures go: whoever opens it takes that up once."""
    if not exists(settings.state):
        return False
    with ledger_of(settings) as ledger:
        return ledger.target.id > 0


def _follow(story: Story, ledger: Ledger, daemon: Daemon, settings: Settings, scene: Scene) -> tuple[Training, str]:
    """The training, once it is trained and deployed, and how good it is."""

    def newest() -> Training | None:
        return next(iter(ledger.trainings.history(1)), None)

    def show() -> None:
        scene.counts(ledger.tally(), ledger.census().total, settings)
        run = newest()
        if run is not None:
            scene.training(run, Measure.of(settings))

    daemon.wait(lambda: (run := newest()) is not None and not run.state.active, "the training to end", show)
    run = newest()
    if run is None or run.state is not TrainingState.TRAINED:
        raise ImageSyncError(f"the training did not succeed: {'' if run is None else run.reason}")
    measured = Measure(story.measure, Measure.of(settings).share)
    result = measured.text(run.accuracy, run.pictures) or f"{story.measure} unknown"
    scene.trained(run, result)
    daemon.wait(
        lambda: (run := newest()) is not None and run.owed is NextStep.NOTHING, "the model to be deployed", show
    )
    run = newest() or run
    if run.fate is not ModelOutcome.DEPLOYED:
        raise ImageSyncError(f"the model was not deployed: {run.fate_reason}")
    scene.say(f"deployed          {run.name}: {run.fate_reason}")
    return run, result


def _plot(story: Story, ledger: Ledger, run: Training, measure: Measure, scene: Scene) -> None:
    """Loss and accuracy as a picture that stays; without what draws it, one line that says how to get that."""
    target = Path(f"{story.name}-training.png")
    try:
        from image_sync.cli import charts  # late: the drawing library is an extra

        charts.training(run, ledger.trainings.series(run.id), measure, target)
    except ImageSyncError as error:
        scene.say(f"no plot           {error.what}. {error.hint}")
    else:
        scene.file("plot", target)
