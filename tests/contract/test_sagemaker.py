"""SageMaker beyond the common promises: jobs that are adopted, moved on, continued from; one endpoint; detection."""

from __future__ import annotations

import hashlib
import io
import json
import random
import tarfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from structlog.testing import capture_logs

from image_sync.config.sagemaker import SageMaker
from image_sync.domain import Annotation, Batch, Box, DatasetRef, Picture, RemotePicture
from image_sync.errors import Ambiguous, NotFound, PlatformError, Refused, Transient, Unauthorised, Unsupported
from image_sync.platforms.base import Model, Phase, Progress, TrainingPlan
from image_sync.platforms.sagemaker import models as models_module
from image_sync.platforms.sagemaker import pictures as pictures_module
from image_sync.platforms.sagemaker.access import steps
from image_sync.platforms.sagemaker.api import Api
from image_sync.platforms.sagemaker.outcomes import NoRoom
from image_sync.platforms.sagemaker.platform import SageMakerPlatform
from image_sync_contract import held, read_held
from support.pictures import encoded
from support.sagemaker import BUCKET, Aws, somebody

COLOURS = {"red": (200, 30, 30), "blue": (30, 30, 200), "green": (30, 180, 30)}


@pytest.fixture(scope="module")
def running() -> Iterator[Aws]:
    with somebody(), Aws() as made:
        yield made


@pytest.fixture
def aws(running: Aws) -> Iterator[Aws]:
    """One for all tests, without the faults of the last one."""
    yield running
    running.faults.clear()
    running.seen.clear()
    running.control.requests.clear()
    running.control.quotas.clear()
    running.control.held.clear()
    assert (running.control.failing, running.control.failing_endpoints) == ([], [])


@pytest.fixture
def platform(aws: Aws) -> Iterator[SageMakerPlatform]:
    made = aws.platform()
    with capture_logs():
        yield made
    made.close()


@pytest.fixture
def dataset(platform: SageMakerPlatform, request: pytest.FixtureRequest) -> DatasetRef:
    """A dataset of this test's own."""
    return platform.pictures.ensure_dataset(f"{request.node.name} {time.time_ns()}")


def drawn(colour: tuple[int, int, int], seed: int, mode: str = "RGB", kind: str = "JPEG", size: int = 24) -> bytes:
    """A picture of a colour; each seed gives other bytes."""
    image = Image.new("RGB", (size, size), colour)
    for at in range(12):
        image.putpixel((at, seed % size), tuple((channel + seed * 7 + at) % 256 for channel in colour))
    image.putpixel((0, 0), (seed % 256, seed // 256 % 256, 7))
    return encoded(image.convert(mode), kind)


def item(
    content: bytes, suffix: str = "jpg", annotation: Annotation | None = None, key: str = "", path: bytes = b""
) -> Picture:
    sha256 = hashlib.sha256(content).hexdigest()
    return held(key or f"p.{sha256[:16]}.{suffix}", len(content), sha256, lambda: content, annotation, path)


def ship(platform: SageMakerPlatform, dataset: DatasetRef, category: str, items: list[Picture]) -> list[str]:
    """Upload them; their remote ids."""
    batch = Batch(f"{time.time_ns():032x}", dataset, category, tuple(items), time.time())
    return [outcome.remote_id for outcome in platform.pictures.upload(batch, read_held)]


def filled(platform: SageMakerPlatform, dataset: DatasetRef, *categories: str, count: int = 12) -> None:
    for category in categories or ("red", "blue"):
        ship(platform, dataset, category, [item(drawn(COLOURS[category], seed)) for seed in range(count)])


def plan(dataset: DatasetRef, name: str = "m-1", **changes: Any) -> TrainingPlan:
    return replace(TrainingPlan(name, dataset, strategy={"epochs": 4}), **changes)


def ended(platform: SageMakerPlatform, task: str) -> Progress:
    """Its progress once it has ended."""
    for _ in range(50):
        progress = platform.trainings.progress(task)
        if progress.phase in {Phase.TRAINED, Phase.FAILED}:
            return progress
    raise AssertionError(progress)


def trained(platform: SageMakerPlatform, dataset: DatasetRef, name: str = "m-1", **changes: Any) -> Model:
    task = platform.trainings.start(plan(dataset, name, **changes))
    assert ended(platform, task).phase is Phase.TRAINED, platform.trainings.progress(task)
    model = platform.models.of_task(task)
    assert model is not None
    return model


# -- pictures


def test_each_picture_is_one_object_that_says_what_it_is(
    aws: Aws, platform: SageMakerPlatform, dataset: DatasetRef
) -> None:
    """Key by category and content, SHA-256, key and batch in the metadata, type by content; a repeat stores nothing."""
    one = item(drawn(COLOURS["red"], 1))
    (remote_id,) = ship(platform, dataset, "red & more", [one])
    aws.seen.clear()
    again = ship(platform, dataset, "red & more", [one])

    stored = platform.api.client("s3").head_object(Bucket=BUCKET, Key=f"image-sync/{dataset.id}/{remote_id}")
    assert again == [remote_id]
    assert stored["ContentType"] == "image/jpeg"
    assert stored["Metadata"].pop("batch")
    assert stored["Metadata"] == {"sha256": one.sha256, "key": one.key, "source": "image-sync"}
    assert sum(label.startswith("PUT") for label in aws.seen) == 1  # asked for, and refused as being there


@pytest.mark.parametrize(
    ("mode", "kind"), [("L", "JPEG"), ("CMYK", "JPEG"), ("RGBA", "PNG"), ("P", "PNG"), ("LA", "PNG"), ("1", "PNG")]
)
def test_pictures_get_three_channels(
    aws: Aws, platform: SageMakerPlatform, dataset: DatasetRef, mode: str, kind: str
) -> None:
    """Grey, palette, alpha and CMYK become RGB in the same format; the remote id, and so the ledger, says so."""
    content = drawn(COLOURS["green"], 1, mode, kind)
    suffix = "jpg" if kind == "JPEG" else "png"
    one = item(content, suffix)

    (remote_id,) = ship(platform, dataset, "green", [one])

    stored = Image.open(io.BytesIO(aws.content(f"image-sync/{dataset.id}/{remote_id}")))
    (row,) = platform.pictures.listing(dataset)
    assert (stored.mode, stored.format) == ("RGB", kind)
    assert remote_id.endswith(f"%rgb.{suffix}")
    assert (row.key, row.size, row.category) == (one.key, None, "green")


def test_a_deep_grey_picture_keeps_its_light(aws: Aws, platform: SageMakerPlatform, dataset: DatasetRef) -> None:
    """Sixteen bits become eight by their high half, not by cutting off what is bright."""
    image = Image.new("I;16", (8, 8))
    for x in range(8):
        for y in range(8):
            image.putpixel((x, y), 0x8000 + x)
    (remote_id,) = ship(platform, dataset, "deep", [item(encoded(image, "PNG"), "png")])

    stored = Image.open(io.BytesIO(aws.content(f"image-sync/{dataset.id}/{remote_id}")))
    assert stored.getpixel((3, 3)) == (128, 128, 128)


def test_what_is_no_picture_is_refused_alone(platform: SageMakerPlatform, dataset: DatasetRef) -> None:
    """The others of its batch are stored."""
    items = (item(b"\xff\xd8 no picture"), item(drawn(COLOURS["red"], 2)))
    bad, good = platform.pictures.upload(Batch("ab" * 16, dataset, "red", items, time.time()), read_held)

    assert "is not a JPEG or PNG" in bad.refused
    assert good.remote_id
    assert platform.pictures.count(dataset) == 1


def test_plain_names_of_different_pictures_do_not_hide_each_other(
    platform: SageMakerPlatform, dataset: DatasetRef
) -> None:
    """Two folders of a category may both hold a 1.jpg: both are stored, under what tells them apart."""
    a, b = (item(drawn(COLOURS["red"], seed), key="1.jpeg") for seed in (1, 2))
    first, second = ship(platform, dataset, "red", [a]) + ship(platform, dataset, "red", [b])

    assert first != second
    assert [row.key for row in platform.pictures.listing(dataset)] == ["1.jpeg", "1.jpeg"]
    assert platform.pictures.find(Batch("b", dataset, "red", (b,), 0.0)) == {"1.jpeg": second}


def test_a_large_picture_goes_in_parts(
    aws: Aws, platform: SageMakerPlatform, dataset: DatasetRef, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Above a size it is a multipart upload with the same condition; one that fails leaves nothing half done."""
    monkeypatch.setattr(pictures_module, "_LARGE", 1000)
    monkeypatch.setattr(pictures_module, "_PIECE", 5 * 2**20)
    noise = Image.frombytes("RGB", (1400, 1400), random.Random(1).randbytes(1400 * 1400 * 3))
    large = item(encoded(noise, "PNG", compress_level=0), "png")
    assert large.size > 5 * 2**20
    aws.happen("refuse", "PUT .*partNumber=2")

    with pytest.raises(Transient):
        ship(platform, dataset, "red", [large])
    assert aws.backend.list_multipart_uploads(BUCKET) == {}
    (remote_id,) = ship(platform, dataset, "red", [large])
    again = ship(platform, dataset, "red", [large])

    assert again == [remote_id]
    assert aws.backend.get_object(BUCKET, f"image-sync/{dataset.id}/{remote_id}").checksum_algorithm == "CRC32"
    assert aws.content(f"image-sync/{dataset.id}/{remote_id}") == read_held(large)
    assert aws.backend.list_multipart_uploads(BUCKET) == {}


def test_a_moved_picture_stays_where_a_job_may_be_reading_it(
    aws: Aws, platform: SageMakerPlatform, dataset: DatasetRef
) -> None:
    """A new category is a mark beside the picture; the last one counts, and going back leaves none behind."""
    one = item(drawn(COLOURS["red"], 1))
    (remote_id,) = ship(platform, dataset, "red", [one])
    for category in ("blue", "green"):
        platform.pictures.relabel(dataset, remote_id, category)
    assert [(row.remote_id, row.category) for row in platform.pictures.listing(dataset)] == [(remote_id, "green")]
    assert len(aws.listed(f"image-sync/{dataset.id}/moved/")) == 1

    assert ship(platform, dataset, "red", [one]) == [remote_id]  # a ledger that was lost sends it anew
    assert [row.category for row in platform.pictures.listing(dataset)] == ["red"]
    platform.pictures.relabel(dataset, remote_id, "blue")
    platform.pictures.remove(dataset, remote_id)
    assert [key for key in aws.listed(f"image-sync/{dataset.id}/") if remote_id in key] == []


def test_a_dataset_keeps_its_split(aws: Aws, platform: SageMakerPlatform, dataset: DatasetRef) -> None:
    """Another split in the configuration moves no picture to the other side: the first one is stored."""
    items = [item(drawn(COLOURS["red"], seed)) for seed in range(40)]
    first = ship(platform, dataset, "red", items)
    other = aws.platform(split=0.3)

    again = ship(other, dataset, "red", items)
    other.close()

    assert again == first
    assert 0 < sum(remote_id.startswith("validation/") for remote_id in first) < 20


def test_two_machines_add_categories_at_once(aws: Aws, dataset: DatasetRef) -> None:
    """None is lost and each has one number, whoever was quicker."""
    platforms = [aws.platform() for _ in range(4)]
    names = [f"c{number}" for number in range(12)]

    def work(mine: SageMakerPlatform, some: list[str]) -> None:
        for name in some:
            mine.pictures._datasets.place(dataset).classes.ensure([name])

    threads = [threading.Thread(target=work, args=(one, names[at::4])) for at, one in enumerate(platforms)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    stored = json.loads(aws.content(f"image-sync/{dataset.id}/classes.json"))
    for one in platforms:
        one.close()

    assert sorted(one["name"] for one in stored["classes"]) == sorted(names)


# -- trainings


def test_lists_are_frozen_and_know_only_what_the_ledger_knows(
    aws: Aws, platform: SageMakerPlatform, dataset: DatasetRef
) -> None:
    """What the plan names is listed, under the ledger's categories; what was uploaded meanwhile is not."""
    filled(platform, dataset)
    known = [
        RemotePicture(row.remote_id, row.key, "blue" if row.category == "red" else "red")
        for row in platform.pictures.listing(dataset)
    ]
    ship(platform, dataset, "red", [item(drawn(COLOURS["red"], 99))])
    gone = RemotePicture("train/red-00000000/gone.jpg", "gone.jpg", "red")

    task = platform.trainings.start(plan(dataset, contents=lambda: [*known, gone]))

    (body,) = aws.control.made()
    lists = {key.rpartition("/")[2]: aws.content(key) for key in aws.listed(f"image-sync/{dataset.id}/jobs/{task}/")}
    rows = [line.split("\t") for line in (lists["train.lst"] + lists["validation.lst"]).decode().splitlines()]
    classes = json.loads(lists["snapshot.json"])["classes"]
    assert len(rows) == 24
    paths = [path.removeprefix("train/").removeprefix("validation/") for _, _, path in rows]
    assert {path[:4]: classes[int(row[1])] for path, row in zip(paths, rows, strict=True)} == {
        "red-": "blue",
        "blue": "red",
    }
    assert int(body["HyperParameters"]["num_training_samples"]) == len(lists["train.lst"].splitlines())
    uris = [channel["DataSource"]["S3DataSource"]["S3Uri"] for channel in body["InputDataConfig"]]
    assert all(uri.endswith(("/", ".manifest")) for uri in uris)


def test_a_start_that_is_repeated_starts_nothing(aws: Aws, platform: SageMakerPlatform, dataset: DatasetRef) -> None:
    """The name decides: asked again by another process, the same job is the answer, and one job was made."""
    filled(platform, dataset)
    task = platform.trainings.start(plan(dataset))
    other = aws.platform()
    ship(other, dataset, "red", [item(drawn(COLOURS["red"], 77))])

    assert other.trainings.start(plan(dataset)) == task
    assert len(aws.control.made()) == 1
    other.close()


def test_a_job_that_came_after_the_question_is_adopted(
    aws: Aws, platform: SageMakerPlatform, dataset: DatasetRef, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not there when asked, there when made: ResourceInUse leads to the job, not to a second one."""
    filled(platform, dataset)
    task = platform.trainings.start(plan(dataset))
    other = aws.platform()
    ask = other.trainings._jobs.job
    answers = [None]
    monkeypatch.setattr(
        other.trainings._jobs, "job", lambda name: answers.pop() if answers and name == task else ask(name)
    )

    assert other.trainings.start(plan(dataset)) == task
    assert list(aws.control.jobs).count(task) == 1
    other.close()


@pytest.mark.parametrize("kind", ["lose", "drop"])
def test_a_lost_answer_is_doubted_only_when_nothing_can_be_found_out(
    aws: Aws, platform: SageMakerPlatform, dataset: DatasetRef, kind: str
) -> None:
    """Carried out: the job is found. Not carried out, or nobody can be asked: in doubt, to be asked for later."""
    filled(platform, dataset)
    aws.happen(kind, "CreateTrainingJob")
    if kind == "lose":
        task = platform.trainings.start(plan(dataset))
        assert platform.trainings.find(dataset, "m-1") == [task]
    else:
        with pytest.raises(Ambiguous):
            platform.trainings.start(plan(dataset))
        assert platform.trainings.find(dataset, "m-1") == []
        aws.happen("lose", "CreateTrainingJob")
        aws.happen("drop", "DescribeTrainingJob", times=0)
        platform.trainings.start(plan(dataset))
    assert len(aws.control.jobs) >= 1


def test_a_lost_answer_and_nobody_to_ask_is_in_doubt(
    aws: Aws, platform: SageMakerPlatform, dataset: DatasetRef
) -> None:
    """The job may be there: it must not be forgotten, so the start is neither done nor refused."""
    filled(platform, dataset)
    control, create = aws.control, aws.control._create_training_job

    def created(body: dict[str, Any]) -> dict[str, Any]:
        aws.happen("drop", "DescribeTrainingJob")
        found: dict[str, Any] = create(body)
        return found

    control._create_training_job = created  # type: ignore[method-assign]
    aws.happen("lose", "CreateTrainingJob")
    try:
        with pytest.raises(Ambiguous):
            platform.trainings.start(plan(dataset))
    finally:
        control._create_training_job = create  # type: ignore[method-assign]
    (task,) = platform.trainings.find(dataset, "m-1")
    assert platform.trainings.start(plan(dataset)) == task


def test_boto3_repeats_nothing(aws: Aws, platform: SageMakerPlatform) -> None:
    """A call that fails is made once: whether to repeat it is not for a library to decide."""
    for kind in ("refuse", "drop"):
        aws.seen.clear()
        aws.happen(kind, "HEAD")
        with pytest.raises(Transient):
            platform.sign_in()
        assert len(aws.seen) == 1


def test_a_foreign_job_of_our_name_is_not_touched(aws: Aws, platform: SageMakerPlatform, dataset: DatasetRef) -> None:
    """A job that reads other data is refused as ours, and unknown to progress."""
    filled(platform, dataset)
    task = platform.trainings.start(plan(dataset))
    aws.control.held.add(task)
    for channel in aws.control.jobs[task].body["InputDataConfig"]:
        channel["DataSource"]["S3DataSource"]["S3Uri"] = "s3://another/place/"

    with pytest.raises(Refused, match="not of this dataset"):
        platform.trainings.start(plan(dataset))
    with pytest.raises(NotFound):
        platform.trainings.progress(task)
    assert platform.models.of_task(task) is None


def test_states_of_a_job(aws: Aws, platform: SageMakerPlatform, dataset: DatasetRef) -> None:
    """It waits for its machine, trains, and tells epochs and accuracy when it is done."""
    filled(platform, dataset)
    task = platform.trainings.start(plan(dataset))

    phases = [platform.trainings.progress(task).phase for _ in range(4)]
    last = platform.trainings.progress(task)

    assert phases == [Phase.RUNNING, Phase.RUNNING, Phase.RUNNING, Phase.TRAINED]
    assert (last.iteration, last.iterations, last.accuracy) == (4, 4, 1.0)
    aws.control.jobs[task].status, aws.control.jobs[task].secondary = "InProgress", "Pending"
    aws.control.held.add(task)
    fresh = aws.platform()
    assert fresh.trainings.progress(task).phase is Phase.WAITING
    aws.control.jobs[task].status = aws.control.jobs[task].secondary = "SomethingNew"
    assert fresh.trainings.progress(task).phase is Phase.RUNNING
    fresh.close()


def test_a_stopped_job_is_not_trained(aws: Aws, platform: SageMakerPlatform, dataset: DatasetRef) -> None:
    """Stopped by hand or by the limit: failed, with the reason and the remedy; there is no model."""
    filled(platform, dataset)
    task = platform.trainings.start(plan(dataset))
    aws.control.call("StopTrainingJob", {"TrainingJobName": task})

    assert ended(platform, task).reason == "somebody stopped it; 556 s billed"
    assert platform.models.of_task(task) is None
    late = platform.trainings.start(plan(dataset, "m-2"))
    aws.control.jobs[late].status, aws.control.jobs[late].secondary = "Stopped", "MaxRuntimeExceeded"
    assert "sagemaker.max_runtime" in ended(platform, late).reason


@pytest.mark.parametrize(
    ("reason", "told"),
    [
        ("ClientError: The number of input images must be bigger", "a repeat would fail again"),
        ("AlgorithmError: framework error", "inside the algorithm"),
    ],
)
def test_failures_say_whose_they_are(
    aws: Aws, platform: SageMakerPlatform, dataset: DatasetRef, reason: str, told: str
) -> None:
    """AWS's reason comes with what it means."""
    filled(platform, dataset)
    aws.control.failing = [reason]
    task = platform.trainings.start(plan(dataset))

    progress = ended(platform, task)

    assert progress.phase is Phase.FAILED
    assert reason in progress.reason
    assert told in progress.reason
    assert platform.models.of_dataset(dataset) == []


def test_a_machine_that_aws_has_not_is_followed_by_the_next(aws: Aws, dataset: DatasetRef) -> None:
    """Capacity errors: the training goes on as another job, under the id that it had; nobody else notices."""
    platform = aws.platform(instance_types=["ml.g4dn.xlarge", "ml.g5.xlarge"])
    filled(platform, dataset)
    aws.control.failing = ["CapacityError: Unable to provision requested ML compute capacity"]

    task = platform.trainings.start(plan(dataset))
    progress = ended(platform, task)

    machines = [body["ResourceConfig"]["InstanceType"] for body in aws.control.made()]
    assert progress.phase is Phase.TRAINED
    assert machines == ["ml.g4dn.xlarge", "ml.g5.xlarge"]
    assert [body["TrainingJobName"] for body in aws.control.made()] == [task, f"{task}-r2"]
    assert platform.trainings.find(dataset, "m-1") == [task]
    (model,) = platform.models.of_dataset(dataset)
    assert (model.id, model.name) == (task, "m-1")
    platform.models.deploy(model)
    assert platform.models.predict(model, drawn(COLOURS["red"], 5))[0].category == "red"
    platform.models.undeploy(model)
    platform.models.delete(model)
    assert task not in "".join(aws.control.jobs)
    platform.close()


def test_a_machine_is_asked_for_again_only_after_a_pause(
    aws: Aws, platform: SageMakerPlatform, dataset: DatasetRef
) -> None:
    """With one machine in the list: a quarter of an hour, then half an hour; then the training has failed."""
    filled(platform, dataset)
    aws.control.failing = ["CapacityError: no capacity"] * 3
    ahead = 0.0
    platform.trainings._clock = lambda: time.time() + ahead
    task = platform.trainings.start(plan(dataset))
    for _ in range(12):
        assert platform.trainings.progress(task).phase in {Phase.WAITING, Phase.RUNNING}
    assert len(aws.control.made()) == 1
    ahead = 901.0
    for _ in range(12):
        platform.trainings.progress(task)
    assert len(aws.control.made()) == 2
    ahead = 1802.0

    progress = ended(platform, task)

    assert len(aws.control.made()) == 3
    assert "sagemaker.instance_types" in progress.reason


def test_a_quota_sends_the_start_to_the_next_machine(aws: Aws, dataset: DatasetRef) -> None:
    """Nothing was made, so the next type is tried at once; with none left the start is put off, for long."""
    platform = aws.platform(instance_types=["ml.p3.2xlarge", "ml.g5.xlarge"])
    filled(platform, dataset)
    aws.control.quotas = {"ml.p3.2xlarge": 0}
    task = platform.trainings.start(plan(dataset))
    assert aws.control.jobs[task].body["ResourceConfig"]["InstanceType"] == "ml.g5.xlarge"
    aws.control.quotas["ml.g5.xlarge"] = 0

    with pytest.raises(NoRoom) as caught:
        platform.trainings.start(plan(dataset, "m-2"))

    assert caught.value.retry_after == 900
    assert platform.trainings.find(dataset, "m-2") == []
    platform.close()


def test_a_model_is_continued_from_where_that_is_possible(
    aws: Aws, platform: SageMakerPlatform, dataset: DatasetRef
) -> None:
    """Same classes, layers and shape: the model channel. Else the pretrained network, and the reason is told."""
    filled(platform, dataset)
    first = trained(platform, dataset)

    trained(platform, dataset, "m-2", base=first.id)
    warm = aws.control.made()[-1]
    trained(platform, dataset, "m-3", base=first.id, strategy={"num_layers": 18})
    other_network = aws.control.made()[-1]
    filled(platform, dataset, "green")
    with capture_logs() as logs:
        trained(platform, dataset, "m-4", base=first.id)
    new_class = aws.control.made()[-1]
    trained(platform, dataset, "m-5", base="no-such-model")
    no_base = aws.control.made()[-1]

    channels = [channel for channel in warm["InputDataConfig"] if channel["ChannelName"] == "model"]
    assert [channel["ContentType"] for channel in channels] == ["application/x-sagemaker-model"]
    assert channels[0]["DataSource"]["S3DataSource"]["S3Uri"].endswith(f"/{first.id}/output/model.tar.gz")
    assert "use_pretrained_model" not in warm["HyperParameters"]
    for cold in (other_network, new_class, no_base):
        assert cold["HyperParameters"]["use_pretrained_model"] == "1"
        assert len(cold["InputDataConfig"]) == 4
    assert "new green" in platform.trainings.progress(platform.trainings.find(dataset, "m-4")[0]).anew
    assert platform.trainings.progress(platform.trainings.find(dataset, "m-2")[0]).anew == ""
    assert [(one["base"], one["reason"]) for one in logs if one["event"] == "training.not_continued"] == [
        (first.id, "its classes are others (new green)")
    ]
    task = platform.trainings.find(dataset, "m-4")[0]
    (snapshot,) = [key for key in aws.listed(f"image-sync/{dataset.id}/jobs/{task}/") if key.endswith("snapshot.json")]
    assert "new green" in json.loads(aws.content(snapshot))["cold"]


def test_too_little_to_train_says_what_is_missing(aws: Aws, platform: SageMakerPlatform, dataset: DatasetRef) -> None:
    """One category, a side that is empty where the folders choose it, a class of which nothing is trained on, a
    figure that cannot be."""
    with pytest.raises(Refused, match="0 categories"):
        platform.trainings.start(plan(dataset))
    filled(platform, dataset, "red")
    with pytest.raises(Refused, match="1 categories"):
        platform.trainings.start(plan(dataset))
    filled(platform, dataset, "blue")
    rows = list(platform.pictures.listing(dataset))
    training = [row for row in rows if row.remote_id.startswith("train/")]
    pinned = aws.platform(sides="folders")
    with pytest.raises(Refused, match="validation side"):
        pinned.trainings.start(plan(dataset, contents=lambda: training))
    held = [row for row in rows if row.category == "red" or row not in training]
    with pytest.raises(Refused, match="of blue falls to the training side"):
        pinned.trainings.start(plan(dataset, contents=lambda: held))
    pinned.close()
    with pytest.raises(Refused, match="top_k is 5"):
        platform.trainings.start(plan(dataset, strategy={"top_k": 5}))
    with pytest.raises(Refused, match="learning_rate"):
        platform.trainings.start(plan(dataset, strategy={"learning_rate": 7}))
    with pytest.raises(Refused, match="no network"):
        platform.trainings.start(plan(dataset, nn_arch="googlenet"))
    assert platform.trainings.find(dataset, "m-1") == []


def lists_of(aws: Aws, dataset: DatasetRef, task: str) -> dict[str, list[tuple[str, str]]]:
    """Side -> (class, name of the picture), as the job reads them."""
    found = {}
    for side in ("train", "validation"):
        keys = [key for key in aws.listed(f"image-sync/{dataset.id}/jobs/{task}/") if key.endswith(f"{side}.lst")]
        rows = [line.split("\t") for line in aws.content(keys[0]).decode().splitlines()]
        found[side] = [(number, path.rpartition("/")[2]) for _, number, path in rows]
    return found


def test_small_categories_are_on_both_sides(aws: Aws, platform: SageMakerPlatform, dataset: DatasetRef) -> None:
    """Each category of ten gives eight to the training and two to the validation, whatever their hashes say, and
    the job reads those that lie on the other side, too; the lists are not sorted by class."""
    colours = {f"c{number}": (20 * number, 255 - 20 * number, 97) for number in range(12)}
    for category, colour in colours.items():
        ship(platform, dataset, category, [item(drawn(colour, seed)) for seed in range(10)])

    task = platform.trainings.start(plan(dataset))
    again = platform.trainings.start(plan(dataset, "m-2"))

    lists = lists_of(aws, dataset, task)
    for side, each in (("train", 8), ("validation", 2)):
        numbers = [number for number, _ in lists[side]]
        assert Counter(numbers) == dict.fromkeys(map(str, range(12)), each)
        assert numbers != sorted(numbers)
    assert lists == lists_of(aws, dataset, again)
    assert ended(platform, task).phase is Phase.TRAINED


def test_pictures_keep_their_side_when_others_come(aws: Aws, platform: SageMakerPlatform, dataset: DatasetRef) -> None:
    """Of large categories nobody changes over: they are split by their hashes alone."""
    filled(platform, dataset, count=60)
    before = lists_of(aws, dataset, platform.trainings.start(plan(dataset)))
    filled(platform, dataset, count=80)
    after = lists_of(aws, dataset, platform.trainings.start(plan(dataset, "m-2")))

    held = {name for _, name in before["validation"]}
    assert len(held & {name for _, name in after["train"]}) <= 2
    assert held
    assert len(after["train"]) + len(after["validation"]) == 160


def test_folders_may_choose_the_side(aws: Aws, dataset: DatasetRef) -> None:
    """Pictures below ``train`` and ``Validation`` stay there, whatever their hashes say; the nearest folder counts."""
    platform = aws.platform(sides="folders")
    for category in ("red", "blue"):
        for side, seeds in (("train", range(6)), ("Validation", range(6, 12))):
            path = f"/data/train/{side}/{category}/one.jpg".encode()
            pictures = [item(drawn(COLOURS[category], seed), path=path) for seed in seeds]
            ship(platform, dataset, category, pictures)
            batch = Batch("", dataset, category, tuple(one._replace(path=b"") for one in pictures))
            assert len(platform.pictures.find(batch)) == 6

    task = platform.trainings.start(plan(dataset))

    lists = lists_of(aws, dataset, task)
    assert {side: len(rows) for side, rows in lists.items()} == {"train": 12, "validation": 12}
    assert ended(platform, task).phase is Phase.TRAINED
    platform.close()


def test_a_batch_that_is_cut_is_told(platform: SageMakerPlatform, dataset: DatasetRef) -> None:
    """What is configured and cannot be used is said with the reason; what was left out is not."""
    filled(platform, dataset)
    with capture_logs() as logs:
        platform.trainings.start(plan(dataset, strategy={"epochs": 1, "mini_batch_size": 16}))
        platform.trainings.start(plan(dataset, "m-2"))

    (told,) = [one for one in logs if one["event"] == "training.batch_reduced"]
    assert (told["configured"], told["mini_batch_size"]) == (16, told["validating"])


def test_a_training_is_stopped_for_good(aws: Aws, dataset: DatasetRef) -> None:
    """The job is stopped, and no machine makes another attempt, also when AWS had none for it yet."""
    platform = aws.platform(instance_types=["ml.g4dn.xlarge", "ml.g5.xlarge"])
    filled(platform, dataset)
    task = platform.trainings.start(plan(dataset))

    platform.trainings.stop(task)
    platform.trainings.stop(task)
    progress = ended(platform, task)
    assert (progress.phase, progress.repeat, progress.billed) == (Phase.FAILED, False, 556)
    platform.trainings.stop(task)
    done = trained(platform, dataset, "m-0")
    with pytest.raises(Refused, match="has ended"):
        platform.trainings.stop(done.id)
    with pytest.raises(NotFound):
        platform.trainings.stop("nobodys-job")
    aws.control.failing = ["CapacityError: no capacity"]
    waiting = platform.trainings.start(plan(dataset, "m-2"))
    while aws.control.jobs[waiting].status != "Failed":
        aws.control.call("DescribeTrainingJob", {"TrainingJobName": waiting})
    platform.trainings.stop(waiting)
    assert "stopped" in ended(platform, waiting).reason
    assert f"{waiting}-r2" not in aws.control.jobs
    platform.close()


def test_a_log_is_read_page_by_page(aws: Aws, platform: SageMakerPlatform, dataset: DatasetRef) -> None:
    """All lines of the newest job, in order; before anything is logged there are none."""
    filled(platform, dataset)
    task = platform.trainings.start(plan(dataset))
    assert list(platform.trainings.log(task)) == []
    aws.control.logs[task] = [f"Epoch[{number}]" for number in range(5)]

    assert list(platform.trainings.log(task)) == aws.control.logs[task]
    assert task in platform.trainings.progress(task).log


@pytest.mark.parametrize("told", ["reason", "log", "nowhere"])
def test_a_picture_that_breaks_a_job_is_left_out(
    aws: Aws, platform: SageMakerPlatform, dataset: DatasetRef, told: str
) -> None:
    """By its name in the reason or the log, else because it cannot be decoded; the repeat does without it."""
    filled(platform, dataset)
    rows = list(platform.pictures.listing(dataset))
    bad = next(row for row in rows if row.remote_id.startswith("train/"))
    name = bad.remote_id.rpartition("/")[2]
    aws.control.failing = [
        f"ClientError: cannot decode /x/{name}" if told == "reason" else "ClientError: OpenCV failed"
    ]
    task = platform.trainings.start(plan(dataset))
    aws.control.logs[task] = [
        f"packing {rows[-1].remote_id}",
        f"imread failed for '{name}', aborting" if told == "log" else "Traceback",
    ]
    if told == "nowhere":
        key = f"image-sync/{dataset.id}/{bad.remote_id}"
        aws.backend.put_object(BUCKET, key, aws.content(key)[:300])

    with capture_logs() as logs:
        progress = ended(platform, task)

    assert progress.phase is Phase.FAILED
    assert progress.repeat is True
    assert bad.key in progress.reason
    assert [one["pictures"] for one in logs if one["event"] == "training.left_out"] == [[bad.key]]
    second = platform.trainings.start(plan(dataset, "m-2"))
    assert ended(platform, second).phase is Phase.TRAINED
    lists = lists_of(aws, dataset, second)
    assert name not in {path for rows_ in lists.values() for _, path in rows_}
    assert sum(map(len, lists.values())) == 23


def test_a_picture_that_cannot_be_decoded_is_refused_before_it_costs_anything(
    platform: SageMakerPlatform, dataset: DatasetRef
) -> None:
    """Its header is sound, and its channels are three."""
    whole = drawn(COLOURS["red"], 1, size=200)
    cut = whole[: len(whole) // 2]
    batch = Batch("b", dataset, "red", (item(whole), item(cut)), time.time())

    one, other = platform.pictures.upload(batch, read_held)

    assert (one.refused, bool(one.remote_id)) == ("", True)
    assert "cannot be decoded" in other.refused


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"endpoint_instance_type": "ml.m5.lagre"}, "endpoint_instance_type has ml.m5.lagre"),
        ({"instance_types": ["ml.g9x.xlarge"]}, "instance_types has ml.g9x.xlarge"),
    ],
)
def test_machines_that_aws_does_not_have_fail_the_check(aws: Aws, changes: dict[str, Any], told: str) -> None:
    """Also those that the configuration cannot know: boto3 does."""
    setup = SageMaker.model_validate(aws.section(**changes))
    api = Api(setup)
    *_, last = steps(setup, api)
    api.close()

    assert (last.subject, last.code) == ("machine", 78)
    assert told in last.text


# -- endpoints and models


def test_a_new_model_replaces_the_old_one_in_place(aws: Aws, platform: SageMakerPlatform, dataset: DatasetRef) -> None:
    """One endpoint for the dataset: the old model answers until the new one does, then its entries are gone."""
    filled(platform, dataset)
    first, second = trained(platform, dataset), trained(platform, dataset, "m-2")
    platform.models.deploy(first)
    served: list[str] = []

    class Looking(threading.Event):
        """Between two looks at the endpoint that is being changed, the old model is asked."""

        def wait(self, timeout: float | None = None) -> bool:
            served.append(platform.models.predict(first, drawn(COLOURS["red"], 3))[0].category)
            return super().wait(timeout)

    platform.endpoints._stop = Looking()
    control = aws.control
    platform.models.deploy(second)
    platform.endpoints._stop = threading.Event()

    assert set(served) == {"red"}
    assert [(one.name, one.deployed) for one in platform.models.of_dataset(dataset)] == [("m-2", True), ("m-1", False)]
    with pytest.raises(NotFound):
        platform.models.predict(first, drawn(COLOURS["red"], 3))
    mine = [name for name in (*control.models, *control.configs) if name.startswith((first.id, second.id))]
    assert len(mine) == 2
    assert all(name.startswith(second.id) for name in mine)
    platform.models.undeploy(second)
    assert control.endpoints == {}


def test_a_deployment_that_fails_leaves_the_old_model_in_service(
    aws: Aws, platform: SageMakerPlatform, dataset: DatasetRef
) -> None:
    """AWS rolls back and says why; the next try begins anew. A first one that fails is cleared away."""
    filled(platform, dataset)
    first, second = trained(platform, dataset), trained(platform, dataset, "m-2")
    aws.control.failing_endpoints = ["The primary container did not pass the ping health check"]
    with pytest.raises(Refused, match="ping health check"):
        platform.models.deploy(first)
    platform.models.deploy(first)
    aws.control.failing_endpoints = ["no capacity"]

    with pytest.raises(Refused, match="no capacity"):
        platform.models.deploy(second)

    assert platform.models.predict(first, drawn(COLOURS["blue"], 3))[0].category == "blue"
    with pytest.raises(Refused, match="Undeploy it first"):
        platform.models.delete(first)
    platform.models.delete(second)
    platform.models.undeploy(first)
    platform.models.undeploy(first)
    platform.models.delete(first)
    assert platform.models.of_dataset(dataset) == []


@pytest.mark.parametrize("operation", ["CreateModel", "CreateEndpointConfig", "CreateEndpoint", "UpdateEndpoint"])
def test_a_deployment_whose_answers_get_lost_is_simply_repeated(
    aws: Aws, platform: SageMakerPlatform, dataset: DatasetRef, operation: str
) -> None:
    """Whatever was made before is found by its name."""
    filled(platform, dataset)
    model = trained(platform, dataset)
    if operation == "UpdateEndpoint":
        platform.models.deploy(model)
        model = trained(platform, dataset, "m-2")
    aws.happen("lose", f"^{operation}$")

    with pytest.raises(Transient):
        platform.models.deploy(model)
    platform.models.deploy(model)

    assert platform.models.predict(model, drawn(COLOURS["red"], 3))[0].category == "red"
    platform.models.undeploy(model)


def test_a_configuration_that_is_not_seen_yet_is_waited_for(
    aws: Aws, platform: SageMakerPlatform, dataset: DatasetRef
) -> None:
    """SageMaker reads its own entries a little late: a few refusals are no refusal, many are one."""
    filled(platform, dataset)
    model = trained(platform, dataset)
    aws.control.unseen = 99
    with pytest.raises(NotFound):
        platform.models.deploy(model)
    aws.control.unseen = 2

    platform.models.deploy(model)

    assert platform.models.predict(model, drawn(COLOURS["red"], 3))[0].category == "red"
    platform.models.undeploy(model)


def test_waiting_for_an_endpoint_ends_when_the_program_does(aws: Aws, dataset: DatasetRef) -> None:
    """The stop event ends the wait; the endpoint goes on becoming ready."""
    stop = threading.Event()
    platform = aws.platform(stop)
    filled(platform, dataset)
    model = trained(platform, dataset)
    stop.set()

    with pytest.raises(Transient, match="goes on at AWS"):
        platform.models.deploy(model)

    stop.clear()
    platform.models.deploy(model)
    platform.models.undeploy(model)
    platform.close()


def test_an_export_says_what_the_archive_does_not(
    aws: Aws, platform: SageMakerPlatform, dataset: DatasetRef, tmp_path: Path
) -> None:
    """To a file with a JSON file beside it, or to another place in S3: classes in order, shape, network, job."""
    filled(platform, dataset)
    model = trained(platform, dataset)

    written = platform.models.export(model, tmp_path)
    platform.models.export(model, Path(f"s3://{BUCKET}/elsewhere/plates.tar.gz"))
    platform.models.export(model, Path(f"s3://{BUCKET}/folder"))

    with tarfile.open(written) as archive:
        assert archive.getnames() == ["model_algo_1-symbol.json"]
    sidecar = json.loads(written.with_name(f"{written.name}.json").read_text(encoding="utf-8"))
    assert sidecar["classes"] == list(model.categories)
    assert (sidecar["num_layers"], sidecar["image_shape"], sidecar["training_job"]) == ("50", "3,224,224", model.id)
    for target in ("elsewhere/plates.tar.gz", f"folder/{model.id}.tar.gz"):
        assert aws.content(target) == written.read_bytes()
        assert json.loads(aws.content(f"{target}.json")) == sidecar
    with pytest.raises(Unsupported):
        platform.models.import_model(written)


def test_predictions_of_odd_pictures(
    platform: SageMakerPlatform, dataset: DatasetRef, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Grey and huge ones are made fit for the endpoint; what is no picture is refused before it is sent."""
    filled(platform, dataset)
    model = trained(platform, dataset)
    platform.models.deploy(model)
    noise = encoded(Image.effect_noise((400, 400), 90).convert("RGB"), "PNG")
    sent: list[bytes] = []
    ask = platform.api.invoke

    def asked(name: str, content: bytes, kind: str) -> object:
        sent.append(content)
        return ask(name, content, kind)

    monkeypatch.setattr(platform.api, "invoke", asked)
    monkeypatch.setattr(models_module, "_LARGEST_PICTURE", 100_000)
    assert len(noise) > 100_000

    assert platform.models.predict(model, drawn(COLOURS["red"], 1, "L", "PNG"))
    assert platform.models.predict(model, drawn(COLOURS["blue"], 1, "RGBA", "PNG"))[0].category == "blue"
    assert platform.models.predict(model, noise)
    assert len(sent[-1]) < 100_000
    with pytest.raises(Refused):
        platform.models.predict(model, b"no picture")
    platform.models.undeploy(model)


def test_who_may_not_is_told_which_rights_are_missing(
    aws: Aws, dataset: DatasetRef, platform: SageMakerPlatform
) -> None:
    """A refusal for rights leads to the policy; another region's bucket is named."""
    other = aws.platform(region="eu-central-1")
    with pytest.raises(PlatformError, match="us-east-1"):
        other.sign_in()
    other.close()
    nobody = aws.platform(bucket="nobody-made-this")
    with pytest.raises(NotFound):
        nobody.sign_in()
    nobody.close()
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("AWS_ACCESS_KEY_ID")
        patch.delenv("AWS_SECRET_ACCESS_KEY")
        stranger = aws.platform()
        with pytest.raises(Unauthorised, match="credentials"):
            stranger.sign_in()
        stranger.close()


# -- detection


HOLE, SCREW = Box("hole", 2.4, 3.0, 10.0, 12.6), Box("screw", 12.0, 1.0, 40.0, 20.0)


def marked(platform: SageMakerPlatform, dataset: DatasetRef, count: int = 20, plain: int = 0) -> list[str]:
    """Annotated pictures of one category, and some without anything marked in them."""
    both = Annotation(24, 24, (HOLE, SCREW))
    items = [item(drawn(COLOURS["red"], seed), annotation=both) for seed in range(count)]
    items += [item(drawn(COLOURS["red"], 100 + seed)) for seed in range(plain)]
    return ship(platform, dataset, "plates", items)


def test_objects_are_detected(aws: Aws, platform: SageMakerPlatform, dataset: DatasetRef) -> None:
    """Annotations become JSON by the container's rules, the label width is computed, boxes come back in pixels."""
    marked(platform, dataset)

    model = trained(platform, dataset, nn_arch="ssd-vgg-16", detection=True)

    (body,) = aws.control.made()
    names = [channel["ChannelName"] for channel in body["InputDataConfig"]]
    assert names == ["train", "validation", "train_annotation", "validation_annotation"]
    assert {channel["DataSource"]["S3DataSource"]["S3DataType"] for channel in body["InputDataConfig"]} == {"S3Prefix"}
    values = body["HyperParameters"]
    assert (values["base_network"], values["num_classes"], values["label_width"]) == ("vgg-16", "2", "350")
    files = [key for key in aws.listed(f"image-sync/{dataset.id}/jobs/") if "/train_annotation/" in key]
    document = json.loads(aws.content(files[0]))
    assert document["image_size"] == [{"width": 24, "height": 24, "depth": 3}]
    assert document["annotations"] == [
        {"class_id": 0, "left": 2, "top": 3, "width": 8, "height": 10},
        {"class_id": 1, "left": 12, "top": 1, "width": 12, "height": 19},
    ]
    assert len(files) == int(values["num_training_samples"])
    assert (model.categories, model.accuracy) == (("hole", "screw"), 0.75)
    platform.models.deploy(model)
    found = platform.models.predict(model, drawn(COLOURS["red"], 5, size=48))
    assert [(one.category, round(one.confidence, 2)) for one in found] == [("hole", 0.9), ("screw", 0.8)]
    assert found[0].box is not None
    assert (found[0].box.left, found[0].box.bottom) == pytest.approx((4, 26))
    platform.models.undeploy(model)


def test_pictures_without_marks_are_left_out(aws: Aws, platform: SageMakerPlatform, dataset: DatasetRef) -> None:
    """They lie beside the others, so a manifest names those that are meant; the plan's marks go before stored ones."""
    ids = marked(platform, dataset, plain=6)
    platform.pictures.annotate(dataset, ids[0], Annotation(24, 24))

    trained(platform, dataset, nn_arch="ssd")

    (body,) = aws.control.made()
    kinds = {c["ChannelName"]: c["DataSource"]["S3DataSource"]["S3DataType"] for c in body["InputDataConfig"]}
    assert kinds["train"] == "ManifestFile"
    assert kinds["train_annotation"] == "S3Prefix"
    picked = [
        json.loads(aws.content(key)) for key in aws.listed() if dataset.id in key and key.endswith("train.manifest")
    ]
    assert all(ids[0].partition("/")[2] not in one for one in picked)
    lone = [RemotePicture(one, one, "plates", annotation=Annotation(24, 24, (SCREW,))) for one in ids[:20]]
    model = trained(platform, dataset, "m-2", nn_arch="ssd", contents=lambda: lone)
    assert model.categories == ("screw",)


def test_a_detector_is_continued_only_with_the_same_labels(
    aws: Aws, platform: SageMakerPlatform, dataset: DatasetRef
) -> None:
    """Same labels and base network: the model channel; a classifier is no beginning for a detector."""
    marked(platform, dataset)
    first = trained(platform, dataset, nn_arch="ssd")
    trained(platform, dataset, "m-2", nn_arch="ssd", base=first.id)
    assert [channel["ChannelName"] for channel in aws.control.made()[-1]["InputDataConfig"]][-1] == "model"
    with capture_logs() as logs:
        trained(platform, dataset, "m-3", nn_arch="ssd-vgg-16", base=first.id)
    assert "base_network was resnet-50, now vgg-16" in logs[0]["reason"]
    filled(platform, dataset)
    with capture_logs() as logs:
        trained(platform, dataset, "m-4", base=first.id)
    assert "one detects objects" in logs[0]["reason"]


def test_spellings_of_a_name_are_one_class(platform: SageMakerPlatform, dataset: DatasetRef) -> None:
    """A category or label in Unicode's decomposed form is the composed one; the same picture twice counts once."""
    both = Annotation(24, 24, (HOLE, replace(SCREW, label="gru\u0308n"), replace(SCREW, label="gr\u00fcn")))
    items = [item(drawn(COLOURS["red"], seed), annotation=both) for seed in range(20)]
    ids = ship(platform, dataset, "gr\u00fcn", items)
    ship(platform, dataset, "gru\u0308n", [item(drawn(COLOURS["green"], seed), annotation=both) for seed in range(20)])
    ship(platform, dataset, "rot", items)
    classifier = trained(platform, dataset)
    detector = trained(platform, dataset, "m-2", nn_arch="ssd")

    assert classifier.categories == ("gr\u00fcn", "rot")
    assert set(detector.categories) == {"hole", "gr\u00fcn"}
    assert len(ids) == 20


def test_nothing_marked_is_told(platform: SageMakerPlatform, dataset: DatasetRef) -> None:
    """A detection without annotations is refused with what to do; marks beside the picture are found by listing."""
    (remote_id,) = ship(platform, dataset, "plates", [item(drawn(COLOURS["red"], 1))])
    with pytest.raises(Refused, match="has anything marked"):
        platform.trainings.start(plan(dataset, nn_arch="ssd"))
    platform.pictures.annotate(dataset, remote_id, Annotation(24, 24, (Box("out", 30.0, 30.0, 40.0, 40.0),)))
    with pytest.raises(Refused, match="has anything marked"):
        platform.trainings.start(plan(dataset, nn_arch="ssd"))
    with pytest.raises(NotFound):
        platform.pictures.annotate(dataset, "train/x-00000000/none.jpg", Annotation(1, 1))
