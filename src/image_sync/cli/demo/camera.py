"""The camera that a demo plays: files that come one after the other into the watched folder."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from image_sync.cli.demo.scene import Scene
from image_sync.cli.demo.site import Daemon
from image_sync.cli.demo.story import Wave
from image_sync.config import Settings
from image_sync.ledger import Ledger

_SHUTTER = 0.15  # seconds between two files


def play(waves: Sequence[Wave], root: Path, ledger: Ledger, daemon: Daemon, settings: Settings, scene: Scene) -> None:
    """Copy the files wave by wave, and after each one wait until the daemon has done with it what it should."""

    def show() -> None:
        scene.counts(ledger.tally(), ledger.census().total, settings)

    for wave in waves:
        for source, place in wave.files:
            target = root / place
            target.parent.mkdir(exist_ok=True)
            shutil.copyfile(source, target)
            daemon.rest(_SHUTTER)
            show()
        scene.say(f"camera            {wave.text}")
        daemon.wait(lambda: _seen(ledger, wave), "the pictures to be found", show)  # noqa: B023 - called at once
        scene.found(ledger.tally(), wave.pictures, wave.waiting, settings)
        if wave.uploads:
            daemon.wait(lambda: _sent(ledger, wave), "the pictures to be uploaded", show)  # noqa: B023
            scene.uploaded(ledger.tally(), settings)


def _seen(ledger: Ledger, wave: Wave) -> bool:
    total = ledger.census().total
    return total.found >= wave.pictures and total.waiting == wave.waiting


def _sent(ledger: Ledger, wave: Wave) -> bool:
    tally = ledger.tally()
    return tally.confirmed >= wave.pictures and not tally.unmarked
