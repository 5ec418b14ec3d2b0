"""Pictures, trainings and doubts at a Mobius SDK: the adapter against the emulator, step by step."""

from __future__ import annotations

import hashlib
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from image_sync.domain import Annotation, Batch, DatasetRef, Picture, RemotePicture
from image_sync.errors import Ambiguous, Changed, NotFound, Refused, Transient, Unsupported
from image_sync.platforms.base import MemoryState, Phase, TrainingPlan
from image_sync.platforms.http import Timeouts
from image_sync.platforms.mobius.platform import MobiusPlatform
from image_sync_contract import held, read_held
from image_sync_server.mobius.server import MobiusServer
from support.fake_http import FakeHttp, Request, ok
from support.fake_http import Reply as Answer
from support.mobius import assigned, calls, fault, serving_mobius, tasks
from support.mvi_server import picture

GRACE = 100.0


class Site:
    """An emulator, the adapter, what it writes down, and a dataset whose contents a test decides."""

    def __init__(self, server: MobiusServer, **options) -> None:
        self.server = server
        self.options = options
        self.notes = MemoryState()
        self.stop = threading.Event()
        self.now = 0.0
        self.contents: dict[str, str] = {}
        """Picture's id -> category, as the ledger would know it."""
        self.start()
        self.dataset: DatasetRef = self.platform.pictures.ensure_dataset("parts")

    def start(self) -> None:
        """A process with an empty memory."""
        self.platform = MobiusPlatform(
            self.server.url,
            stop=self.stop,
            state=self.notes,
            grace=GRACE,
            timeouts=Timeouts(2, 5, 10),
            **self.options,
        )
        self.platform.trainings._clock = lambda: self.now

    def put(self, category: str, kind: str = "", *, first: int = 0, count: int = 4) -> list[str]:
        """Upload pictures; their ids."""
        items = [item(picture(kind or category, number)) for number in range(first, first + count)]
        outcomes = self.platform.pictures.upload(batch_of(self.dataset, category, items), read_held)
        ids = [outcome.remote_id for outcome in outcomes]
        self.contents.update(dict.fromkeys(ids, category))
        return ids

    def move(self, image: str, category: str) -> None:
        """What the reconciler does after a move."""
        self.platform.pictures.relabel(self.dataset, image, category)
        self.contents[image] = category

    def plan(self, name: str = "m-1", base: str = "") -> TrainingPlan:
        def contents() -> list[RemotePicture]:
            return [RemotePicture(image, image, category) for image, category in self.contents.items()]

        return TrainingPlan(name, self.dataset, base=base, contents=contents)

    def begin(self, name: str = "m-1", base: str = "") -> str:
        return self.platform.trainings.start(self.plan(name, base))

    def train(self, name: str = "m-1", base: str = "") -> str:
        """Start a training and follow it to its good end."""
        task = self.begin(name, base)
        assert self.end(task) is Phase.TRAINED
        return task

    def end(self, task: str) -> Phase:
        until = time.monotonic() + 30
        while (progress := self.platform.trainings.progress(task)).phase in {Phase.WAITING, Phase.RUNNING}:
            assert time.monotonic() < until
            threading.Event().wait(0.02)
        return progress.phase

    def quiet(self) -> None:
        """Wait until the server has nothing to do."""
        until = time.monotonic() + 30
        while any(task.status in {"in_queue", "ongoing"} for task in self.server.tasks.all.values()):
            assert time.monotonic() < until
            threading.Event().wait(0.02)

    def said(self) -> list[str]:
        """State-changing and asking calls since the last look, in short."""
        lines = [call.removeprefix("GET ") for call in self.server.requests]
        self.server.requests.clear()
        return [line for line in lines if not line.startswith(("/status", "POST"))]


def item(content: bytes) -> Picture:
    sha256 = hashlib.sha256(content).hexdigest()
    return held(f"part.{sha256[:16]}.jpg", len(content), sha256, lambda: content)


def batch_of(dataset: DatasetRef, category: str, items: list[Picture], batch: str = "") -> Batch:
    return Batch(batch or f"{time.time_ns():032x}", dataset, category, tuple(items), time.time())


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MobiusServer]:
    with serving_mobius(tmp_path_factory.mktemp("mobius")) as server:
        yield server


@pytest.fixture
def server(running: MobiusServer) -> Iterator[MobiusServer]:
    """The emulator with nothing on it."""
    for tag in {tag for tag, _, _ in running.store.assigned()} | {*running.store.trained()}:
        running.store.reset(tag)
    running.tasks.all.clear()
    running.requests.clear()
    yield running
    running.faults.clear()
    running.faults.forget()
    running.tasks.doomed.clear()
    running.tasks.gate.set()
    until = time.monotonic() + 20
    while any(task.status in {"in_queue", "ongoing"} for task in running.tasks.all.values()):
        assert time.monotonic() < until  # a task that a test left must not run into the next one
        threading.Event().wait(0.02)


@pytest.fixture
def site(server: MobiusServer) -> Iterator[Site]:
    with capture_logs():
        made = Site(server)
        yield made
        made.platform.close()


@pytest.fixture
def filled(site: Site) -> Site:
    """Two categories with four pictures each."""
    site.put("dark")
    site.put("light")
    site.said()
    return site


# -- pictures


def test_a_picture_is_added_once_and_not_yet_assigned(site: Site, server: MobiusServer) -> None:
    """Under half of its hash; one that is there already counts as done. Its tag gets it when it is trained."""
    content = picture("dark", 1)
    image = hashlib.sha256(content).hexdigest()[:32]

    outcomes = [
        site.platform.pictures.upload(batch_of(site.dataset, "dark", [item(content)]), read_held) for _ in range(2)
    ]

    assert [one.remote_id for (one,) in outcomes] == [image, image]
    assert assigned(server) == {}
    assert calls(server, "POST") == [f"POST /system/database/image/add?image_id={image}"] * 2


def test_each_positive_is_assigned_once(filled: Site, server: MobiusServer) -> None:
    """From the upload to the end of the first training, and of the next one on top of it."""
    base = filled.train()
    first = Counter(line for line in calls(server, "GET") if "/positive/" in line)
    filled.put("dark", first=90, count=2)
    filled.train("m-2", base)

    lines = Counter(line for line in calls(server, "GET") if "/positive/" in line)
    assert set(first.values()) == {1}
    assert set(lines.values()) == {1}
    assert sum(lines.values()) == sum(first.values()) + 2


def test_a_picture_that_cannot_be_read_is_refused_alone(site: Site, server: MobiusServer) -> None:
    """The others of the batch are stored; the refused one is no reason for a reset later."""
    items = [item(picture("dark", 1)), item(b"no picture"), item(picture("dark", 2))]

    outcomes = site.platform.pictures.upload(batch_of(site.dataset, "dark", items), read_held)

    assert [bool(one.refused) for one in outcomes] == [False, True, False]
    assert "image_reading_error" in outcomes[1].refused
    (attempts,) = site.platform.models._records.attempts().values()
    assert [len(one.ids) for one in attempts.values()] == [2]


def test_a_batch_goes_on_where_it_was_broken_off(site: Site, server: MobiusServer) -> None:
    """Nothing was lost and nothing is sent again, as long as the process lives."""
    sent = batch_of(site.dataset, "dark", [item(picture("dark", number)) for number in range(4)])
    server.faults.add(fault("500-before", path=sent.pictures[2].sha256[:32], count=2))
    for _ in range(2):
        with pytest.raises(Transient):
            site.platform.pictures.upload(sent, read_held)

    assert len(site.platform.pictures.upload(sent, read_held)) == 4
    assert len(calls(server, "POST")) == 3 + 3
    assert all(server.store.has(one.sha256[:32]) for one in sent.pictures)


def test_a_file_that_changed_comes_through(site: Site, server: MobiusServer) -> None:
    """Its error is the batch's; nothing was stored of it."""

    def changed() -> bytes:
        raise Changed("it changed")

    good = item(picture("dark", 1))
    bad = held("bad.jpg", 9, "ab" * 32, changed)

    with pytest.raises(Changed):
        site.platform.pictures.upload(batch_of(site.dataset, "dark", [good, bad]), read_held)

    assert not server.store.has("ab" * 16)


def test_no_new_picture_is_begun_when_the_program_ends(site: Site, server: MobiusServer) -> None:
    """The rest of the batch waits for the next start."""
    site.stop.set()

    with pytest.raises(Transient):
        site.put("dark")

    assert calls(server, "POST") == []


def test_negatives_are_added_but_assigned_later(site: Site, server: MobiusServer) -> None:
    """What is in folders of negatives belongs to no tag by itself."""
    site.put("_negative_", "light")
    image = site.put("dark/negative", "light", first=50, count=1)[0]
    site.platform.pictures.relabel(site.dataset, image, "_negative_")

    assert assigned(server) == assigned(server, "negative") == {}
    assert len(calls(server, "POST")) == 5


def test_a_server_that_gives_other_ids_is_refused() -> None:
    """Without ids of ours nothing can be promised."""
    with FakeHttp(script=lambda _request: ok({"status": "success", "image_id": "4711"})) as fake:
        platform = MobiusPlatform(fake.url, stop=threading.Event(), state=MemoryState())
        with pytest.raises(Refused, match="4711"):
            platform.pictures.upload(batch_of(DatasetRef("d", "d"), "dark", [item(picture("dark", 1))]), read_held)
        platform.close()


def test_a_server_that_answers_with_ids_alone_is_understood() -> None:
    """The vendor's page tells of no other body: ids without a `status` are successes."""

    def script(request: Request) -> Answer:
        if "/image/add" in request.target:
            return ok({"image_id": request.query["image_id"]})
        if "/custom/train/" in request.target:
            return ok({"task_id": f"t-{request.path.rpartition('/')[2]}"})
        if "/status/" in request.target:
            return ok({"status": "success"})
        return ok({"status": "ok"} if "/custom/delete/" in request.target else {})

    with FakeHttp(script=script) as fake:
        platform = MobiusPlatform(fake.url, stop=threading.Event(), state=MemoryState())
        dataset = platform.pictures.ensure_dataset("d")
        contents = []
        for category, colour in (("dark", "dark"), ("light", "light")):
            (one,) = platform.pictures.upload(batch_of(dataset, category, [item(picture(colour, 1))]), read_held)
            contents.append(RemotePicture(one.remote_id, "x.jpg", category))
        task = platform.trainings.start(TrainingPlan("m", dataset, contents=lambda: contents))
        assert platform.trainings.progress(task).phase is Phase.TRAINED
        platform.close()


def test_a_category_that_can_have_no_tag_holds_up_nothing(filled: Site, server: MobiusServer) -> None:
    """Its pictures are refused with a remedy; one that was moved there leaves its tag, and the others are trained."""
    (outcome,) = filled.platform.pictures.upload(
        batch_of(filled.dataset, "a,b", [item(picture("dark", 70))]), read_held
    )
    assert "Rename the folder" in outcome.refused
    base = filled.train()
    moved = min(assigned(server)["dark"])
    filled.move(moved, "a,b")
    filled.train("m-2", base)

    assert moved not in assigned(server)["dark"]
    assert set(assigned(server)) == {"dark", "light"}


def test_removing_calls_nothing(filled: Site) -> None:
    """No documented call removes a picture."""
    filled.platform.pictures.remove(filled.dataset, next(iter(filled.contents)))

    assert filled.said() == []


def test_unknown_pictures_are_not_found(site: Site) -> None:
    """Whatever the id looks like, it never becomes part of another call."""
    for image in ("../../evil", ""):
        with pytest.raises(NotFound):
            site.platform.pictures.relabel(site.dataset, image, "dark")
    with pytest.raises(Unsupported):
        site.platform.pictures.annotate(site.dataset, "ab" * 16, Annotation(1, 1))
    with pytest.raises(Unsupported, match="no objects"):
        site.platform.trainings.start(TrainingPlan("m", site.dataset, detection=True))


# -- trainings


def test_from_the_beginning_each_tag_is_reset_assigned_and_trained(filled: Site, server: MobiusServer) -> None:
    """In this order, one tag after the other: its positives, the other's pictures as negatives, then one task."""
    filled.train()

    said = filled.said()
    for tag, lines in (("dark", said[:11]), ("light", said[11:])):
        assert lines[0] == f"/custom/delete/{tag}"
        assert sorted(line.split("/")[4] for line in lines[1:9]) == ["negative"] * 4 + ["positive"] * 4
        assert lines[9].startswith("/custom/predict_batch?")
        assert lines[10] == f"/custom/train/{tag}"
    assert assigned(server, "negative") == {
        "dark": assigned(server)["light"],
        "light": assigned(server)["dark"],
    }
    assert tasks(server) == {"dark": 1, "light": 1}


def test_the_same_training_again_starts_nothing(filled: Site) -> None:
    """By its name it is known, running and ended, also in another life."""
    task = filled.begin()
    filled.said()

    assert filled.begin() == task
    filled.start()
    assert filled.begin() == task
    assert filled.platform.trainings.find(filled.dataset, "m-1") == [task]
    assert filled.platform.trainings.find(DatasetRef("x", "x"), "m-1") == []
    assert filled.said() == []


def test_on_top_of_a_model_only_what_is_new_is_assigned(filled: Site, server: MobiusServer) -> None:
    """`retrain`: no reset, the new pictures once more, and negatives that are missing; the other tag rests."""
    base = filled.train()
    new = filled.put("dark", first=10, count=2)
    filled.said()

    filled.train("m-2", base)

    said = filled.said()
    assert sorted(said[:-2]) == sorted(f"/custom/assign/{image}/positive/dark" for image in new)
    assert tasks(server) == {"dark": 2, "light": 1}


def test_after_a_move_the_old_tag_is_reset_even_with_retrain(filled: Site, server: MobiusServer) -> None:
    """The moved picture leaves the old tag, and becomes a positive of the new one, which had it as a negative."""
    base = filled.train()
    moved = next(iter(assigned(server)["dark"]))
    filled.move(moved, "light")
    filled.said()

    filled.train("m-2", base)

    assert [line for line in filled.said() if "delete" in line] == ["/custom/delete/dark", "/custom/delete/light"]
    assert moved in assigned(server)["light"]
    assert moved not in assigned(server)["dark"]
    assert moved in assigned(server, "negative")["dark"]


def test_a_picture_in_doubt_that_was_moved_leaves_the_old_tag(filled: Site, server: MobiusServer) -> None:
    """Assigned, never confirmed, then sent under another category: the first tag is rid of it at its next training."""
    base = filled.train()
    (stray,) = filled.put("dark", first=30, count=1)
    filled.platform.pictures.upload(batch_of(filled.dataset, "light", [item(picture("dark", 30))]), read_held)
    filled.contents[stray] = "light"
    filled.put("dark", first=31, count=1)

    second = filled.train("m-2", base)

    assert stray not in assigned(server)["dark"]
    assert stray in assigned(server)["light"]
    filled.put("dark", first=32, count=1)
    filled.said()
    filled.train("m-3", second)
    assert [line for line in filled.said() if "delete" in line] == []


def test_what_arrives_during_a_reset_is_assigned_at_the_next_training(filled: Site, server: MobiusServer) -> None:
    """Assigned before the reset and confirmed after it: the reset took it out, the next training puts it in again."""
    base = filled.train()
    late = filled.put("dark", first=40, count=1)[0]
    moved, _ = filled.put("dark", first=41, count=2)
    filled.move(moved, "light")
    del filled.contents[late]  # the ledger has not heard of it yet
    second = filled.train("m-2", base)
    assert late not in assigned(server)["dark"]
    filled.contents[late] = "dark"

    filled.train("m-3", second)

    assert late in assigned(server)["dark"]


def test_a_tag_whose_pictures_are_all_gone_is_reset_and_answers_no_more(filled: Site, server: MobiusServer) -> None:
    """Renaming a category's folder leaves no stale model behind."""
    base = filled.train()
    for image in [image for image, category in filled.contents.items() if category == "dark"]:
        filled.move(image, "black")

    filled.train("m-2", base)

    assert server.store.trained() == ["black", "light"]
    assert set(assigned(server)) == {"black", "light"}
    assert filled.platform.models.of_dataset(filled.dataset)[0].categories == ("black", "light")


def test_nothing_changed_means_no_task(filled: Site, server: MobiusServer) -> None:
    """The training is over at once, and the models are the ones there were."""
    base = filled.train()

    task = filled.train("m-2", base)

    assert tasks(server) == {"dark": 1, "light": 1}
    (model,) = filled.platform.models.of_dataset(filled.dataset)
    assert (model.id, model.categories) == (task, ("dark", "light"))


def test_a_single_category_cannot_be_told_from_others(site: Site) -> None:
    """Refused with a remedy, unless no negatives are wanted."""
    site.put("dark")

    with pytest.raises(Refused, match="another category"):
        site.begin()

    assert site.platform.trainings.find(site.dataset, "m-1") == []


def test_without_negatives_a_single_tag_can_be_trained(server: MobiusServer) -> None:
    """`negatives: "none"`: only positives are assigned."""
    with capture_logs():
        site = Site(server, negatives="none")
        site.put("dark")
        site.train()
        site.platform.close()

    assert site.platform.traits.min_categories == 1
    assert set(assigned(server)) == {"dark"}
    assert assigned(server, "negative") == {}


def test_a_task_that_fails_is_told_with_its_tag_and_trained_next_time(filled: Site, server: MobiusServer) -> None:
    """The other tag's model counts; the failed one is still changed."""
    server.tasks.gate.clear()
    task = filled.begin()
    first, second = server.tasks.all.values()
    server.tasks.doomed.set()
    server.tasks.gate.set()
    filled.quiet()
    server.tasks.doomed.clear()
    second.status, second.message = "success", ""

    assert (
        filled.platform.trainings.progress(task).phase is Phase.RUNNING
    )  # a failure is believed when it is told twice
    progress = filled.platform.trainings.progress(task)

    assert progress.phase is Phase.FAILED
    assert progress.reason == f"tag {first.tag}: the Mobius SDK says training_error"
    assert filled.platform.models.of_task(task) is not None
    filled.train("m-2")
    assert tasks(server) == {first.tag: 2, second.tag: 1}


def test_a_stumble_of_the_status_call_fails_nothing(filled: Site, server: MobiusServer) -> None:
    """One answer of an error between others is not the end of a training."""
    server.tasks.gate.clear()
    task = filled.begin()
    server.faults.add(fault("unknown-error", path="/status/", count=1))
    phases = [filled.platform.trainings.progress(task).phase for _ in range(3)]
    server.tasks.gate.set()

    assert set(phases) <= {Phase.RUNNING, Phase.WAITING}
    assert filled.end(task) is Phase.TRAINED


def test_progress_counts_tags(filled: Site, server: MobiusServer) -> None:
    """Waiting in the queue, then one of two, then both."""
    server.tasks.gate.clear()
    task = filled.begin()
    first, second = server.tasks.all.values()
    first.status = second.status = "in_queue"
    waiting = filled.platform.trainings.progress(task)
    first.status = "success"
    half = filled.platform.trainings.progress(task)
    server.tasks.gate.set()

    assert (waiting.phase, waiting.iteration, waiting.iterations) == (Phase.WAITING, 0, 2)
    assert (half.phase, half.iteration) == (Phase.RUNNING, 1)
    assert filled.end(task) is Phase.TRAINED


def test_a_model_that_is_not_the_present_one_cannot_be_continued(filled: Site) -> None:
    """There are no earlier ones."""
    filled.train()

    with pytest.raises(NotFound, match="no model"):
        filled.begin("m-2", "0123456789abcdef")


def test_earlier_models_are_out_of_service(filled: Site) -> None:
    """Taking down what a new training replaced is nothing to do; the present one cannot be taken down."""
    first = filled.train()
    (earlier,) = filled.platform.models.of_dataset(filled.dataset)
    filled.train("m-2", first)
    filled.platform.models.undeploy(earlier)

    with pytest.raises(Unsupported, match="m-2"):
        filled.platform.models.undeploy(filled.platform.models.of_dataset(filled.dataset)[0])


def test_deleting_the_model_resets_the_tags(filled: Site, server: MobiusServer) -> None:
    """Not while it is being trained; afterwards nothing answers, and the next training begins from the beginning."""
    task = filled.train()
    (model,) = filled.platform.models.of_dataset(filled.dataset)
    filled.put("dark", first=20, count=1)
    server.tasks.gate.clear()
    going = filled.begin("m-2", task)
    with pytest.raises(Refused, match="being trained"):
        filled.platform.models.delete(model)
    server.tasks.gate.set()
    filled.end(going)

    filled.platform.models.delete(model)

    assert server.store.trained() == []
    assert filled.platform.models.of_dataset(filled.dataset) == []
    filled.train("m-3")
    assert server.store.trained() == ["dark", "light"]


# -- doubts


def test_a_lost_answer_is_proved_by_the_scores(filled: Site, server: MobiusServer) -> None:
    """The task was started, its id is lost: when the tag's scores change it was trained, and is not asked for again."""
    server.faults.add(fault("lost-answer", path="custom/train/dark", count=1))
    with pytest.raises(Ambiguous):
        filled.begin()
    assert filled.platform.trainings.find(filled.dataset, "m-1") == []
    filled.quiet()

    assert filled.end(filled.begin()) is Phase.TRAINED
    assert tasks(server) == {"dark": 1, "light": 1}
    assert [tag.trained is not None for tag in filled.platform.models._records.tags(filled.dataset.id)] == [True, True]


def test_a_lost_answer_on_top_of_a_model_is_proved_too(filled: Site, server: MobiusServer) -> None:
    """The scores differ from those before, even in another life."""
    base = filled.train()
    filled.put("dark", first=20, count=1)
    server.faults.add(fault("lost-answer", path="custom/train/dark", count=1))
    with pytest.raises(Ambiguous):
        filled.begin("m-2", base)
    filled.quiet()
    filled.start()

    assert filled.end(filled.begin("m-2", base)) is Phase.TRAINED
    assert tasks(server) == {"dark": 2, "light": 1}


def test_a_start_that_never_arrived_is_repeated_after_the_grace_time(filled: Site, server: MobiusServer) -> None:
    """Not earlier, in the same life and in the next one; the other tag does not wait for it."""
    server.faults.add(fault("reset", path="custom/train/dark", count=1))
    with pytest.raises(Ambiguous):
        filled.begin()
    assert tasks(server) == {"light": 1}
    filled.now += GRACE - 1
    with pytest.raises(Ambiguous):
        filled.begin()
    filled.start()
    with pytest.raises(Ambiguous):
        filled.begin()
    filled.now += GRACE + 1

    assert filled.end(filled.begin()) is Phase.TRAINED
    assert tasks(server) == {"dark": 1, "light": 1}


def test_when_scores_cannot_be_had_the_grace_time_decides(filled: Site, server: MobiusServer) -> None:
    """A server that answers no questions about added pictures is asked again after the grace time, with a warning."""
    server.faults.add(fault("reset", path="custom/train/dark", count=1))
    filled.platform.api.predict_batch = lambda *_: {"status": "success"}  # type: ignore[method-assign]
    with pytest.raises(Ambiguous):
        filled.begin()
    filled.now += GRACE + 1
    with capture_logs() as logged:
        filled.train()

    assert tasks(server) == {"dark": 1, "light": 1}
    (line,) = [line for line in logged if line["event"] == "mobius.asked_again"]
    assert "not known whether it was trained" in line["hint"]


def test_a_reset_without_an_answer_is_waited_out(filled: Site, server: MobiusServer) -> None:
    """Carried out late it would undo everything after it: so nothing comes after it until it cannot come any more."""
    filled.train("m-0")
    filled.put("dark", first=30, count=1)
    filled.said()
    server.faults.add(fault("late", seconds=0.2, path="custom/delete/dark", count=1))
    with pytest.raises(Ambiguous):
        filled.begin()
    filled.said()
    with pytest.raises(Ambiguous):
        filled.begin()
    assert filled.said() == []
    until = time.monotonic() + 20
    while "dark" in assigned(server):  # the grace time is over when it can no longer come
        assert time.monotonic() < until
        threading.Event().wait(0.02)
    filled.now += GRACE + 1
    filled.train()

    assert [line for line in filled.said() if "delete" in line] == ["/custom/delete/dark"]
    assert len(assigned(server)["dark"]) == 5
    assert tasks(server)["dark"] == 2


def test_a_reset_without_an_answer_is_made_again_before_anything_is_trained_on_top(
    filled: Site, server: MobiusServer
) -> None:
    """It may have been carried out: then what is written down of the tag's assignments no longer holds."""
    base = filled.train()
    server.faults.add(fault("lost-answer", path="custom/delete/dark", count=1))
    with pytest.raises(Ambiguous):
        filled.platform.models.delete(filled.platform.models.of_dataset(filled.dataset)[0])
    filled.put("dark", first=20, count=1)
    with pytest.raises(Ambiguous):
        filled.begin("m-2", base)
    filled.now += GRACE + 1

    filled.train("m-2", base)

    assert len(assigned(server)["dark"]) == 5
    assert tasks(server) == {"dark": 2, "light": 1}


def test_a_start_that_is_turned_away_is_no_doubt(filled: Site, server: MobiusServer) -> None:
    """The server was busy: the same call starts it, without preparing the tag once more."""
    server.faults.add(fault("429", path="custom/train/dark", count=1))
    with pytest.raises(Transient):
        filled.begin()
    filled.said()

    filled.train()

    said = filled.said()
    assert said[1] == "/custom/train/dark"
    assert "/custom/delete/dark" not in said
    assert tasks(server) == {"dark": 1, "light": 1}


def test_a_preparation_that_is_broken_off_goes_on(filled: Site, server: MobiusServer) -> None:
    """In this life where it was; in the next one from the reset on."""
    image = sorted(one for one, category in filled.contents.items() if category == "dark")[2]
    filled.platform.trainings._assigner._parallel = 1
    server.faults.add(fault("500-before", path=f"assign/{image}/positive/dark", count=1))
    with pytest.raises(Transient):
        filled.begin()
    done = len([line for line in filled.said() if "assign" in line]) - 1
    server.faults.add(fault("500-before", path="assign/.*/dark", count=1))
    with pytest.raises(Transient):
        filled.begin()
    assert len(filled.said()) == 1
    filled.start()
    filled.train()

    said = filled.said()
    assert 0 < done < 8
    assert said[0] == "/custom/delete/dark"
    assert len([line for line in said if line.endswith("/dark") and "assign" in line]) == 8


def test_a_long_preparation_comes_up_for_air(filled: Site, server: MobiusServer) -> None:
    """When its time is over a call ends, and the next one goes on where it was: nothing is assigned twice."""
    filled.platform.trainings._slice = 0.0
    filled.platform.trainings._assigner._parallel = 1
    rounds = 0
    while not filled.platform.trainings.find(filled.dataset, "m-1"):
        rounds += 1
        try:
            filled.begin()
        except Ambiguous:
            continue

    assigns = [line for line in filled.said() if "assign" in line]
    assert rounds > 10
    assert len(assigns) == len(set(assigns)) == 16
    assert tasks(server) == {"dark": 1, "light": 1}


def test_trouble_after_the_first_task_is_told_as_doubt(filled: Site, server: MobiusServer) -> None:
    """One tag is being trained: the training exists, and goes on by the same name."""
    server.faults.add(fault("html", path="custom/assign/.*/light", count=1))
    with pytest.raises(Ambiguous, match="other tags"):
        filled.begin()
    filled.train()

    assert tasks(server) == {"dark": 1, "light": 1}


def test_another_training_takes_over_what_was_given_up(filled: Site, server: MobiusServer) -> None:
    """Nothing was started under the first name; the second one prepares and starts each tag once."""
    server.faults.add(fault("html", path="custom/assign/.*/dark", count=1))
    with pytest.raises(Transient):
        filled.begin("m-1")
    filled.train("m-2")

    assert tasks(server) == {"dark": 1, "light": 1}
    assert filled.platform.models._records.trainings(filled.dataset.id)[0].name == "m-2"


def test_another_training_does_not_repeat_a_task_that_goes_on(filled: Site, server: MobiusServer) -> None:
    """Its own training was lost sight of: the next one waits for the task, and takes its result."""
    server.tasks.gate.clear()
    filled.begin("m-1")
    with pytest.raises(Transient, match="still goes on"):
        filled.begin("m-2")
    server.tasks.gate.set()
    filled.quiet()
    filled.train("m-2")

    assert tasks(server) == {"dark": 1, "light": 1}


def test_a_picture_that_the_server_lost_fails_its_tag_only(filled: Site, server: MobiusServer) -> None:
    """Somebody loaded another state: the tag's reason says so, the other tag is trained."""
    filled.contents["cd" * 16] = "dark/negative"
    task = filled.begin()
    filled.end(task)

    progress = filled.platform.trainings.progress(task)
    assert "tag dark" in progress.reason
    assert "image_id_not_found" in progress.reason
    assert tasks(server) == {"light": 1}


def test_the_program_ends_during_a_preparation(filled: Site, server: MobiusServer) -> None:
    """No further picture is assigned, nothing was started, and the next life does it all."""
    filled.stop.set()
    with pytest.raises(Transient, match="program ends"):
        filled.begin()
    assert tasks(server) == {}
    filled.stop = threading.Event()
    filled.start()
    filled.train()

    assert tasks(server) == {"dark": 1, "light": 1}


def test_several_pictures_are_assigned_at_once_and_none_after_an_error(filled: Site, server: MobiusServer) -> None:
    """Everything once; when one of 24 fails, what was not begun waits for the next call."""
    filled.put("dark", first=40, count=16)
    failing = min(image for image, category in filled.contents.items() if category == "dark")
    server.faults.add(fault("500-before", path=f"assign/{failing}/positive/dark", count=1))
    with pytest.raises(Transient):
        filled.begin()
    before = [line for line in filled.said() if line.endswith("/dark") and "assign" in line]
    filled.train()

    lines = [line for line in filled.said() if line.endswith("/dark") and "assign" in line]
    assert len(before) < 24
    assert len({*before, *lines}) == 24
    assert len(before) + len(lines) == 25


def test_import_and_export_say_where_to_go(filled: Site, tmp_path: Path) -> None:
    """A state is no model: what it would replace, and the command for it, stand in the error."""
    with pytest.raises(Unsupported, match="everything") as caught:
        filled.platform.models.import_model(tmp_path / "s.tar")
    assert "image-sync mobius set-state s.tar" in caught.value.hint
    filled.train()
    (model,) = filled.platform.models.of_dataset(filled.dataset)
    with pytest.raises(Unsupported, match="cannot be exported"):
        filled.platform.models.export(model, tmp_path)
