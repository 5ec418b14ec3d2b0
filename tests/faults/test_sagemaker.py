"""SageMaker: the program dies where it hurts, answers are lost; each picture is there once, each training is one."""

from __future__ import annotations

import random
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from image_sync.domain import RunState
from support.daemon import Plant
from support.mvi_server import picture
from support.sagemaker import Aws, as_somebody, somebody

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
    stored = [key for key in aws.listed() if "/train/" in key or "/validation/" in key]
    assert len(stored) == plant.tally().confirmed == 24
    assert (run.state, run.pictures) == (RunState.TRAINED, 24)
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
