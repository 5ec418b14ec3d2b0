"""The program ends anywhere, among faults of every kind: every picture is assigned once, a changed tag trained once."""

from __future__ import annotations

import os
import random
import threading
from collections import Counter
from pathlib import Path

import pytest

from image_sync.domain import TrainingState
from image_sync_server.mobius.server import MobiusServer
from support.daemon import Plant, crashed
from support.mobius import assigned, calls, fault, in_folders, mobius_plant, serving_mobius, tasks
from support.mvi_server import picture
from support.soak_crasher import EXIT

DEEP = os.environ.get("HYPOTHESIS_PROFILE") == "deep"
KINDS = ("dark", "light")
UPLOADS = "image/add|custom/assign"
MISHAPS = (
    "500-before",
    "500-after",
    "lost-answer",
    "reset",
    "late",
    "html",
    "truncated-json",
    "unknown-error",
    "twice",
)
UPLOADED = ("image/add", "positive/dark")
PREPARED = ("custom/delete/dark", "custom/delete/light", "negative/light", "predict_batch")
STARTED = ("custom/train/dark", "custom/train/light", "/status/")
MOMENTS: list[tuple[str, list[tuple[str, int]]]] = [
    # From which request on, and how many steps later: 1 is before it is sent, 2 when its answer is there.
    ("train", [("image/add", 2), ("delete/dark", 1), ("delete/dark", 2), ("negative/light", 4), ("train/light", 3)]),
    ("retrain", [("delete/light", 3), ("negative/dark", 2), ("train/dark", 1), ("train/dark", 2), ("train/light", 6)]),
]
if DEEP:
    MOMENTS = [
        ("train", [(request, step) for step in range(1, 13)]) for request in (*UPLOADED, *PREPARED, *STARTED)
    ] + [("retrain", [(request, step) for step in range(1, 13)]) for request in (*UPLOADED, "predict_batch", *STARTED)]


def put(plant: Plant, start: int, each: int) -> None:
    for kind in KINDS:
        for number in range(start, start + each):
            plant.put(f"{kind}/{number:03}.jpg", picture(kind, number))


def settled(plant: Plant, trainings: int, seconds: float = 60) -> None:
    """Let the program live until so many trainings are over."""
    with plant.running() as daemon:
        plant.wait(lambda p: [run.state for run in p.runs()] == [TrainingState.TRAINED] * trainings, seconds)
        assert daemon.stop() == 0


def accounted(server: MobiusServer, plant: Plant, times: int) -> None:
    """The server holds what the folders hold, each tag knows what it is not, and was trained so often."""
    folders = in_folders(plant.root)
    assert assigned(server) == folders
    assert assigned(server, "negative") == dict(zip(KINDS, (folders[kind] for kind in reversed(KINDS)), strict=True))
    assert tasks(server) == dict.fromkeys(KINDS, times), plant.log()[-6000:]
    assert server.store.trained() == sorted(KINDS)


@pytest.mark.parametrize("seed", range(12) if DEEP else range(2))
def test_killed_at_random_moments_among_faults(tmp_path: Path, seed: int) -> None:
    """SIGKILL again and again while pictures are added, tags prepared and tasks started, with faults all the time."""
    luck, pause = random.Random(seed), threading.Event()
    with serving_mobius(tmp_path / "server", fault_seed=seed) as server:
        plant = mobius_plant(
            tmp_path / "plant",
            server,
            threshold={"training": 24},
            # Longer than a task takes and than anything is late here: what promises of a single training rest on.
            model={"action": luck.choice(("train", "retrain")), "grace": 4},
            upload={"grace": 1, "timeout": 5},
        )
        server.faults.add(*(fault(kind, 0.02, 0.3, path=UPLOADS) for kind in MISHAPS))
        server.faults.add(
            *(fault(kind, 0.06, 0.3, path="custom/(train|delete)") for kind in MISHAPS if kind != "twice")
        )
        put(plant, 0, 12)
        for _ in range(6 if DEEP else 4):
            with plant.running() as daemon:
                pause.wait(luck.uniform(0.7, 2.2))
                daemon.kill()
        server.faults.clear()
        settled(plant, 1)

        accounted(server, plant, 1)


@pytest.mark.parametrize(("action", "moments"), MOMENTS)
def test_ended_at_chosen_moments(tmp_path: Path, action: str, moments: list[tuple[str, int]]) -> None:
    """The process exits around a call, before or after what is written down of it; every life adds a training."""
    with serving_mobius(tmp_path / "server") as server:
        plant = mobius_plant(
            tmp_path / "plant", server, threshold={"training": 8}, model={"action": action, "grace": 2}
        )
        for number, (request, step) in enumerate(moments, 1):
            put(plant, 10 * number, 4)
            assert crashed(plant, step, request) == EXIT
            assert plant.call("run", "--once").returncode == 0

            accounted(server, plant, number)
        assert len(plant.runs()) == len(moments)


@pytest.mark.parametrize("kind", MISHAPS[:-1] if DEEP else ("lost-answer", "reset", "late"))
def test_a_start_that_goes_wrong_is_made_good_once(tmp_path: Path, kind: str) -> None:
    """Whatever becomes of the first `custom/train` and the first `custom/delete`: two tags, two tasks."""
    late = 3.0 if kind == "late" else 1.0  # after a call that is repeated in haste, before the grace time is over
    with serving_mobius(tmp_path / "server") as server:
        plant = mobius_plant(tmp_path / "plant", server, threshold={"training": 8}, model={"grace": late + 1})
        server.faults.add(*(fault(kind, 1.0, late, path=path, count=1) for path in ("custom/train", "custom/delete")))
        put(plant, 0, 4)
        settled(plant, 1)

        assert server.faults.counts == Counter({kind: 2})
        accounted(server, plant, 1)


def test_a_server_that_forgets_its_tasks(tmp_path: Path) -> None:
    """Restarted in the middle of a training: what was finished counts, the rest has failed and is trained once more."""
    with serving_mobius(tmp_path / "server") as server:
        plant = mobius_plant(tmp_path / "plant", server, threshold={"training": 8})
        put(plant, 0, 4)
        server.tasks.gate.clear()
        with plant.running() as daemon:
            plant.wait(lambda p: [run.state for run in p.runs()] == [TrainingState.RUNNING])
            assert daemon.stop() == 0
        # Nobody looks while the server is made to look as if it had been restarted between the two.
        _, second = server.tasks.all.values()
        server.tasks.gate.set()
        plant.wait(lambda _: second.status == "success")
        server.tasks.all.clear()
        server.store.reset(second.tag)
        with plant.running() as daemon:
            plant.wait(lambda p: bool(p.events("training.failed")))
            assert daemon.stop() == 0
        (told,) = plant.events("training.failed")
        assert told["reason"].startswith(f"tag {second.tag}: the Mobius SDK no longer knows its task")
        assert told["tried_again"]
        assert plant.call("train", "--follow").returncode == 0
        assert tasks(server) == {second.tag: 1}
        assert assigned(server) == in_folders(plant.root)


def test_the_server_is_away_while_a_training_starts(tmp_path: Path) -> None:
    """The first tag is started, then nobody answers: the rest is started when somebody does, the first not again."""
    with serving_mobius(tmp_path / "server") as server:
        plant = mobius_plant(tmp_path / "plant", server, threshold={"training": 8}, model={"grace": 2})
        server.faults.add(fault("html", path="custom/(delete|assign|train).*light", count=40))
        put(plant, 0, 4)
        with plant.running() as daemon:
            plant.wait(lambda p: bool(p.events("mobius.tag_started") and p.events("mobius.start_doubtful")), 30)
            server.faults.clear()
            plant.wait(lambda p: [run.state for run in p.runs()] == [TrainingState.TRAINED], 60)
            assert daemon.stop() == 0

        accounted(server, plant, 1)
        assert calls(server, "custom/train")
