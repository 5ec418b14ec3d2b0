"""SageMaker: the program dies where it hurts, answers are lost; each picture is there once, each training is one."""

from __future__ import annotations

import hashlib
import os
import random
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from image_sync.cli.session import ledger_of, settings_of
from image_sync.domain import TrainingState
from support.daemon import Plant
from support.mvi_server import picture
from support.resources import LONG
from support.sagemaker import Aws, as_somebody, somebody
from support.soak_crasher import EXIT

KILLS = [
    ("PUT .*/dataset.json", "kill after"),
    ("PUT .*/classes.json", "kill"),
    ("PUT .*/train/", "kill after"),
    ("PUT .*/train.lst", "kill"),
    ("PUT .*/snapshot.json", "kill"),
    ("CreateTrainingJob", "kill"),
    ("CreateTrainingJob", "kill after"),
    ("DescribeTrainingJob", "kill after"),
]
"""Requests and the moment at which the program dies, in the order of the work: each is reached after the last."""

SENT = "PUT (?!.*/moved/).*/(train|validation)/"
LIVES = 25 if LONG else 3
ENDS = tuple(range(2, 140, 3)) if LONG else (24, 50)
"""Steps at which the program ends by itself: one after the other, each on what the last one left."""


@pytest.fixture
def aws() -> Iterator[Aws]:
    with somebody(), Aws() as running:
        yield running


@pytest.fixture
def plant(aws: Aws, tmp_path: Path) -> Plant:
    """Twelve pictures of two categories; a training of all of them is due."""
    made = Plant(tmp_path / "plant", "http://127.0.0.1:9")
    made.environ = as_somebody(made.environ)
    del made.document["credentials"]
    made.document["model"] |= {"strategy": {"epochs": 2}, "grace": 0.5}
    made.document["upload"] = {"grace": 0.5, "batch_files": 4, "parallel": 1}
    made.configure(platform="sagemaker", sagemaker=aws.section(), threshold={"training": 24})
    for number in range(24):
        kind = ("dark", "light")[number % 2]
        made.put(f"{kind}/{number}.jpg", picture(kind, number))
    return made


def all_is_well(aws: Aws, plant: Plant) -> None:
    """Each picture is one object, known to the ledger; one job was made for one run; the model is there."""
    (run,) = plant.runs()
    assert len(stored(aws)) == plant.tally().confirmed == 24
    assert (run.state, run.pictures) == (TrainingState.TRAINED, 24)
    assert list(aws.control.jobs) == [run.task_id]
    assert plant.census().total.refused == 0


def test_killed_at_its_requests_it_loses_and_doubles_nothing(aws: Aws, plant: Plant) -> None:
    """SIGKILL before or after requests of every kind, one run after the other; then it ends well."""
    for label, kind in KILLS:
        aws.happen(kind, label)
        with plant.running("--once") as daemon:
            aws.kill = daemon.process.kill
            code = daemon.wait(40)
        assert code == -signal.SIGKILL, (label, kind, plant.log()[-3000:])
        assert not any(one.times for one in aws.faults), (label, kind)

    done = plant.call("run", "--once")

    assert done.returncode == 0, done.stderr
    all_is_well(aws, plant)
    assert "training.adopted" in done.stderr


def test_in_bad_weather_everything_arrives_once(aws: Aws, plant: Plant) -> None:
    """One request in twenty is turned away, dropped, or carried out without an answer; in the end all is right."""
    aws.weather = (0.05, random.Random(7))
    plant.call("run", "--once", timeout=100)
    aws.weather = None

    done = plant.call("run", "--once")

    assert done.returncode == 0, done.stderr
    all_is_well(aws, plant)


def test_a_ledger_that_is_lost_repeats_nothing(aws: Aws, plant: Plant) -> None:
    """Everything that lies in the bucket is recognised: nothing is sent, and no training of the same is started."""
    assert plant.call("run", "--once").returncode == 0
    plant.configure(state=str(plant.folder / "another-state"))
    aws.seen.clear()

    done = plant.call("run", "--once")

    assert done.returncode == 0, done.stderr
    assert [label for label in aws.seen if label.startswith("PUT")] == []
    assert len(aws.control.jobs) == 1


def stored(aws: Aws) -> list[str]:
    """The keys of all pictures."""
    return [key for key in aws.listed() if re.search("/(train|validation)/", key) and "/moved/" not in key]


def in_bucket(aws: Aws) -> list[tuple[str, str]]:
    """(SHA-256 of the file that was sent, category) of every stored picture, sorted."""
    platform = aws.platform()
    try:
        dataset = platform.pictures.find_dataset("plates")
        assert dataset is not None
        root = f"image-sync/{dataset.id}"
        rows = list(platform.pictures.listing(dataset))
        return sorted((platform.api.head(f"{root}/{one.remote_id}").metadata["sha256"], one.category) for one in rows)
    finally:
        platform.close()


def in_folders(plant: Plant) -> list[tuple[str, str]]:
    """(SHA-256, category) of every file, sorted."""
    files = plant.root.glob("*/*.jpg")
    return sorted((hashlib.sha256(file.read_bytes()).hexdigest(), file.parent.name) for file in files)


def judged(aws: Aws, plant: Plant) -> None:
    """The bucket holds what the folders hold, once and under its category; each training is one job, each was due."""
    there, here = in_bucket(aws), in_folders(plant)
    assert there == here, f"{len(there)} for {len(here)}: {sorted(set(there) ^ set(here))}"
    runs = [run for run in plant.runs() if run.state is not TrainingState.REFUSED]
    assert {run.state for run in runs} == {TrainingState.TRAINED}
    assert sorted(aws.control.jobs) == sorted(run.task_id for run in runs)
    threshold = plant.document["threshold"]["training"]
    with ledger_of(settings_of(plant.config)) as ledger, ledger._context.db.reading() as tx:
        counted = (
            tx.exec_driver_sql("SELECT count(*) FROM picture WHERE training_id > 0 GROUP BY training_id")
            .scalars()
            .all()
        )
    assert len(counted) == len(runs)
    assert min(counted) >= threshold
    assert plant.tally().untrained < threshold


@pytest.mark.timeout(1200 if LONG else 120)
@pytest.mark.parametrize("seed", range(8) if LONG else [3])
def test_killed_at_random_moments_in_bad_weather_while_people_work(aws: Aws, plant: Plant, seed: int) -> None:
    """SIGKILL again and again, requests fail all the time, files are added and moved to and fro."""
    luck, pause = random.Random(seed), threading.Event()
    plant.configure(threshold={"training": 10}, watch={"rescan": 1})
    aws.weather = (0.04, random.Random(seed))
    for life in range(LIVES):
        with plant.running() as daemon:
            pause.wait(luck.uniform(0.9, 2.2))
            for number in range(4):
                kind = luck.choice(("dark", "light"))
                plant.put(f"{kind}/new-{life}-{number}.jpg", picture(kind, 1000 + 4 * life + number))
            for path in luck.sample(sorted(plant.root.glob("*/*.jpg")), 3):
                other = "light" if path.parent.name == "dark" else "dark"
                path.rename(plant.root / other / path.name)
            pause.wait(luck.uniform(0.2, 1.2))
            daemon.kill()
    aws.weather = None

    for _ in range(2):  # the second one moves on what the first one only found out
        done = plant.call("run", "--once", timeout=100)
        assert done.returncode == 0, done.stderr

    judged(aws, plant)


@pytest.mark.timeout(1200 if LONG else 120)
def test_ended_at_chosen_steps(aws: Aws, plant: Plant) -> None:
    """The program exits at the n-th transaction of the ledger or call of the platform, again and again."""
    plant.configure(threshold={"training": 12})
    environ = {**plant.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    command = [sys.executable, "-m", "support.soak_crasher", "run", "--once", "-c", str(plant.config)]
    codes = []
    for number, end in enumerate(ENDS):
        for kind in ("dark", "light"):
            plant.put(f"{kind}/more-{number}.jpg", picture(kind, 2000 + number))
        done = subprocess.run(
            command, env={**environ, "CRASH_AT": str(end)}, capture_output=True, timeout=60, check=False
        )
        codes.append(done.returncode)
    assert set(codes) <= {EXIT, os.EX_OK}, codes
    assert EXIT in codes

    last = plant.call("run", "--once", timeout=100)

    assert last.returncode == 0, last.stderr
    judged(aws, plant)


def test_many_answers_are_lost_and_the_files_are_moved_meanwhile(aws: Aws, plant: Plant) -> None:
    """More batches in doubt than are asked about one by one: what arrived is found, and only told its new category."""
    plant.configure(threshold={"training": 10**6}, upload={"batch_files": 1, "parallel": 16})
    gate = threading.Event()
    aws.kill = gate.wait  # nothing dies: answers are held back
    aws.happen("kill after", SENT, times=10**6)
    with plant.running() as daemon:
        plant.wait(lambda _: len(stored(aws)) >= 10)
        daemon.kill()
    gate.set()
    aws.faults.clear()
    arrived = {key.rpartition("/")[2] for key in stored(aws)}
    for path in sorted(plant.root.glob("*/*.jpg")):
        if any(name.startswith(f"{path.stem}.") for name in arrived):
            other = "light" if path.parent.name == "dark" else "dark"
            path.rename(plant.root / other / path.name)
    aws.seen.clear()

    for _ in range(2):
        assert plant.call("run", "--once").returncode == 0

    assert in_bucket(aws) == in_folders(plant)
    sent = [label.partition("?")[0].rpartition("/")[2] for label in aws.seen if re.match(SENT, label)]
    assert not arrived.intersection(sent)
