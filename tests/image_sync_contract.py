"""One suite for every platform: what ``image_sync.platforms.base`` promises, proved on an adapter.

It comes with image-sync, for the tests of adapters of other packages; how it is used stands in ``docs/platforms.md``. A
test module takes it over whole and says in a fixture ``rig`` which platform is tried::

    from image_sync_contract import *

    @pytest.fixture
    def rig():
        yield Rig(AcmePlatform(...), lose_answer=..., turn_away=..., marked=...)
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import random
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import pytest
from PIL import Image, ImageDraw
from structlog.testing import capture_logs

from image_sync.domain import Annotation, Batch, Box, DatasetRef, Picture, RemotePicture
from image_sync.errors import Ambiguous, Changed, NotFound, Permanent, Refused, Transient, Unsupported
from image_sync.platforms.base import Model, Phase, Platform, TrainingPlan
from image_sync.platforms.retry import Retrying
from image_sync.trainer.follow import is_temporary_failure

Marks = tuple[str, float, float, float, float]
COLOURS = {"red": (200, 30, 30), "blue": (30, 30, 200), "été": (30, 180, 30)}


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """Log lines go nowhere: commands that other tests call leave a stream behind that is closed by now."""
    with capture_logs():
        yield


@dataclass
class Rig:
    """A platform, and the switches to make it fail."""

    platform: Platform
    lose_answer: Callable[[str], None]
    """Carry out the next call of a method, then lose its answer."""
    turn_away: Callable[[str], None]
    """Turn the next call of a method away without doing anything."""
    marked: Callable[[DatasetRef, str], list[Marks]]
    """The objects that lie at the platform for a picture: label, left, top, right, bottom; sorted."""
    names_are_tokens: bool = False
    """A second training of one name is the first one: a start whose answer got lost settles itself."""
    tells_batches: bool = True
    """Whether a listing says which batch a picture came with; ``copies`` does in any case."""
    sidecar: str = ""
    """What the name of the second file that an export writes ends in, if there is one."""
    annotates_batches: bool = False
    """Whether each of several pictures takes its objects along; else only one that travels alone does."""
    detector: str = "frcnn"
    """An architecture that detects objects."""
    imports: bool = True
    """Whether a model that was exported can be brought back."""


Read = Callable[[], bytes | Iterator[bytes]]


class _Held(Picture):
    read: Read


def held(
    key: str, size: int, sha256: str, read: Read, annotation: Annotation | None = None, path: bytes = b""
) -> Picture:
    """A picture of which ``read`` gives the bytes."""
    picture = _Held(0, key, path, size, sha256, "" if annotation is None else annotation.to_text())
    picture.read = read
    return picture


def annotated(picture: Picture, annotation: Annotation) -> Picture:
    """The same picture with other objects."""
    return held(picture.key, picture.size, picture.sha256, cast("_Held", picture).read, annotation, picture.path)


def read_held(picture: Picture) -> bytes | Iterator[bytes]:
    """Its bytes: what an upload reads with."""
    return cast("_Held", picture).read()


def marks(annotation: Annotation) -> list[Marks]:
    """The boxes of an annotation as plain figures."""
    return sorted((box.label, box.left, box.top, box.right, box.bottom) for box in annotation.boxes)


@pytest.fixture
def patient(rig: Rig) -> bool:
    """Whether calls are repeated."""
    return isinstance(rig.platform, Retrying)


@pytest.fixture
def dataset(rig: Rig, request: pytest.FixtureRequest) -> DatasetRef:
    """A dataset of this test's own."""
    return rig.platform.pictures.ensure_dataset(f"{request.node.name} {time.time_ns()}")


def picture(colour: tuple[int, int, int], seed: int, kind: str = "JPEG") -> bytes:
    """A small picture: a colour with noise, different for each seed."""
    chance = random.Random(seed)
    image = Image.new("RGB", (24, 24), colour)
    for _ in range(60):
        at = (chance.randrange(24), chance.randrange(24))
        image.putpixel(at, tuple(min(255, max(0, c + chance.randrange(-40, 40))) for c in colour))
    file = io.BytesIO()
    image.save(file, kind)
    return file.getvalue()


def item(content: bytes, stem: str = "part", *, suffix: str = "jpg", key: str = "") -> Picture:
    """An item with the usual key."""
    sha256 = hashlib.sha256(content).hexdigest()
    return held(key or f"{stem}.{sha256[:16]}.{suffix}", len(content), sha256, lambda: content)


def batch_of(dataset: DatasetRef, category: str, items: list[Picture], batch: str = "") -> Batch:
    """A batch claimed now."""
    return Batch(batch or f"{time.time_ns():032x}", dataset, category, tuple(items), time.time())


def pictures(category: str, count: int, seed: int = 0) -> list[Picture]:
    """So many pictures of a category."""
    return [item(picture(COLOURS[category], seed * 1000 + n)) for n in range(count)]


def needs_listing(rig: Rig) -> None:
    """Go on only with a platform that can tell what it has."""
    if not rig.platform.traits.lists_pictures:
        pytest.skip("this platform cannot tell what it has")


def needs_detection(rig: Rig) -> None:
    """Go on only with a platform that detects objects; another one says that it does not."""
    if rig.platform.traits.min_labelled is None:
        with pytest.raises(Unsupported):
            rig.platform.pictures.annotate(DatasetRef("d", "d"), "ab" * 16, Annotation(1, 1))
        pytest.skip("this platform detects no objects")


def test_a_platform_that_cannot_tell_what_it_has_says_so(rig: Rig, dataset: DatasetRef) -> None:
    """Without listings every question about pictures has an empty answer, and sending twice must do no harm."""
    traits = rig.platform.traits
    if traits.lists_pictures:
        pytest.skip("this one can")
    sent = batch_of(dataset, "red", pictures("red", 2))
    first, again = rig.platform.pictures.upload(sent, read_held), rig.platform.pictures.upload(sent, read_held)

    assert traits.idempotent_uploads
    assert first == again
    assert rig.platform.pictures.find(sent) == {}
    assert rig.platform.pictures.copies(sent) == {}
    assert rig.platform.pictures.count(dataset) is None
    assert list(rig.platform.pictures.listing(dataset)) == []


def test_traits_are_sensible(rig: Rig) -> None:
    """Facts come without a network: limits, minimums and file types."""
    traits = rig.platform.traits

    assert traits.name
    assert traits.batch_files >= 1
    assert traits.batch_bytes >= 1
    assert {"jpg", "png"} <= traits.suffixes
    assert traits.min_categories >= 1


def test_sign_in(rig: Rig) -> None:
    """A server that is there and knows us says nothing."""
    rig.platform.sign_in()


def test_dataset_is_made_once(rig: Rig, dataset: DatasetRef) -> None:
    """Asking for a dataset twice gives the same one; one that nobody made is not found."""
    assert rig.platform.pictures.ensure_dataset(dataset.name) == dataset
    assert rig.platform.pictures.find_dataset(dataset.name) == dataset
    assert rig.platform.pictures.find_dataset("nobody made this") is None


def test_threads_make_one_dataset(rig: Rig) -> None:
    """Threads that ask for a new dataset at once get the same one."""
    name = f"threads {time.time_ns()}"
    found: list[DatasetRef] = []
    threads = [
        threading.Thread(target=lambda: found.append(rig.platform.pictures.ensure_dataset(name))) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)

    assert len(found) == 8
    assert len(set(found)) == 1


def test_lost_answer_of_ensure_does_not_make_two(rig: Rig, patient: bool) -> None:
    """When the answer to making a dataset or its first category is lost, the next call finds what was made."""
    name = f"lost {time.time_ns()}"

    def twice(call: Callable[[], object]) -> object:
        try:
            return call()
        except Transient:
            assert not patient
            return call()

    rig.lose_answer("ensure_dataset")
    dataset = twice(lambda: rig.platform.pictures.ensure_dataset(name))
    assert isinstance(dataset, DatasetRef)
    assert rig.platform.pictures.find_dataset(name) == dataset
    rig.lose_answer("category")
    sent = batch_of(dataset, "red", pictures("red", 2))
    twice(lambda: rig.platform.pictures.upload(sent, read_held))
    if rig.platform.traits.lists_pictures:
        assert [row.category for row in rig.platform.pictures.listing(dataset)] == ["red", "red"]


def test_upload_stores_under_the_category(rig: Rig, dataset: DatasetRef) -> None:
    """Each picture gets an outcome; find and listing show it with its key, category, size, batch and time."""
    needs_listing(rig)
    png = item(picture(COLOURS["red"], 99, "PNG"), suffix="png")
    sent = batch_of(dataset, "été", [*pictures("red", 3), png])

    outcomes = rig.platform.pictures.upload(sent, read_held)

    rows = {row.key: row for row in rig.platform.pictures.listing(dataset)}
    assert [outcome.key for outcome in outcomes] == [one.key for one in sent.pictures]
    assert not any(outcome.refused for outcome in outcomes)
    assert rig.platform.pictures.find(sent) == {outcome.key: outcome.remote_id for outcome in outcomes}
    assert set(rows) == {one.key for one in sent.pictures}
    for one in sent.pictures:
        row = rows[one.key]
        assert (row.category, row.size) == ("été", one.size)
        assert row.batch_id == (sent.id if rig.tells_batches else "")
        assert row.uploaded_at is not None
        assert abs(row.uploaded_at - time.time()) < 60


def test_odd_names_and_categories_come_back(rig: Rig, dataset: DatasetRef) -> None:
    """Plain names with blanks, percent signs, separators and other scripts are stored and found as they are."""
    needs_listing(rig)
    names = ["a 'b'.jpg", "ü%20+&.jpg", "点 1.jpg", "a;b=c, d.jpg", "x" * 96 + ".jpg"]
    items = [item(picture(COLOURS["blue"], n), key=name) for n, name in enumerate(names)]
    category = "Größe 10% & \"mehr\" / 'x'".replace("/", "-")
    sent = batch_of(dataset, category, items)

    rig.platform.pictures.upload(sent, read_held)

    assert set(rig.platform.pictures.find(sent)) == set(names)
    assert {row.category for row in rig.platform.pictures.listing(dataset)} == {category}


def test_find_does_not_see_strangers(rig: Rig, dataset: DatasetRef) -> None:
    """Find tells only of this batch's keys; what never arrived is not there."""
    rig.platform.pictures.upload(batch_of(dataset, "red", pictures("red", 4, seed=1)), read_held)
    absent = batch_of(dataset, "red", pictures("red", 3, seed=2))
    many_absent = batch_of(dataset, "red", pictures("red", 15, seed=3))

    assert rig.platform.pictures.find(absent) == {}
    assert rig.platform.pictures.find(many_absent) == {}


def test_find_asks_about_several_batches_at_once(rig: Rig, dataset: DatasetRef) -> None:
    """A question without batch and category finds pictures of any; a lost answer to many batches is settled so."""
    needs_listing(rig)
    red, blue = pictures("red", 3, seed=31), pictures("blue", 3, seed=32)
    ids = {
        outcome.key: outcome.remote_id
        for category, items in (("red", red), ("blue", blue))
        for outcome in rig.platform.pictures.upload(batch_of(dataset, category, items), read_held)
    }
    absent = pictures("red", 2, seed=33)

    assert rig.platform.pictures.find(Batch("", dataset, "", (*red, *blue, *absent))) == ids


def test_copies_tells_all_of_a_key_oldest_first(rig: Rig, dataset: DatasetRef) -> None:
    """What was sent twice is told twice, also after someone moved a copy; what is absent is left out."""
    needs_listing(rig)
    items = pictures("red", 3, seed=4)
    first, second = batch_of(dataset, "red", items), batch_of(dataset, "red", items[:2])
    rig.platform.pictures.upload(batch_of(dataset, "red", pictures("red", 4, seed=5)), read_held)
    ids = [[outcome.remote_id for outcome in rig.platform.pictures.upload(sent, read_held)] for sent in (first, second)]
    rig.platform.pictures.relabel(dataset, ids[1][0], "moved")
    absent = pictures("red", 1, seed=6)

    copies = rig.platform.pictures.copies(batch_of(dataset, "red", [*items, *absent]))

    a, b, c = (item.key for item in items)
    assert {key: [one.remote_id for one in found] for key, found in copies.items()} == {
        a: list(dict.fromkeys([ids[0][0], ids[1][0]])),
        b: list(dict.fromkeys([ids[0][1], ids[1][1]])),
        c: [ids[0][2]],
    }
    told = [(one.key, one.category, one.batch_id) for one in copies[a]]
    if rig.platform.traits.idempotent_uploads:
        assert told == [(a, "moved", first.id)]
    else:
        assert told == [(a, "red", first.id), (a, "moved", second.id)]
    for one in copies[a]:
        assert one.size == items[0].size
        assert one.uploaded_at is not None
        assert abs(one.uploaded_at - time.time()) < 60


def test_copies_of_many_and_of_none(rig: Rig, dataset: DatasetRef) -> None:
    """A large batch is told whole; a batch of which nothing arrived has no copies; a dataset must exist."""
    needs_listing(rig)
    items = pictures("blue", 30, seed=7)
    assert rig.platform.pictures.copies(batch_of(dataset, "blue", items)) == {}
    assert rig.platform.pictures.copies(batch_of(dataset, "blue", items[:2])) == {}
    rig.platform.pictures.upload(batch_of(dataset, "blue", items), read_held)
    rig.platform.pictures.upload(batch_of(dataset, "blue", items[10:20]), read_held)

    copies = rig.platform.pictures.copies(batch_of(dataset, "blue", items))

    twice = 1 if rig.platform.traits.idempotent_uploads else 2
    assert [len(copies[item.key]) for item in items] == [1] * 10 + [twice] * 10 + [1] * 10
    with pytest.raises(NotFound):
        rig.platform.pictures.copies(
            batch_of(DatasetRef("00000000-0000-0000-0000-000000000000", "nobody"), "blue", items)
        )


def test_count(rig: Rig, dataset: DatasetRef) -> None:
    """The count follows what is stored, copies included; a dataset that is not there is not found."""
    needs_listing(rig)
    assert rig.platform.pictures.count(dataset) == 0
    sent = batch_of(dataset, "red", pictures("red", 3, seed=8))
    outcomes = rig.platform.pictures.upload(sent, read_held)
    rig.platform.pictures.upload(sent, read_held)
    stored = 3 if rig.platform.traits.idempotent_uploads else 6
    assert rig.platform.pictures.count(dataset) == stored
    rig.platform.pictures.remove(dataset, outcomes[0].remote_id)
    assert rig.platform.pictures.count(dataset) == stored - 1
    with pytest.raises(NotFound):
        rig.platform.pictures.count(DatasetRef("00000000-0000-0000-0000-000000000000", "nobody"))


def test_lost_answer_of_an_upload_is_in_doubt(rig: Rig, dataset: DatasetRef, patient: bool) -> None:
    """A lost answer raises Ambiguous, is not repeated, and find shows what arrived. Where sending twice stores once,
    it may simply be repeated."""
    sent = batch_of(dataset, "red", pictures("red", 5))
    rig.lose_answer("upload")
    repeatable = rig.platform.traits.idempotent_uploads

    if repeatable and patient:
        assert len(rig.platform.pictures.upload(sent, read_held)) == 5
    else:
        with pytest.raises(Transient if repeatable else Ambiguous):
            rig.platform.pictures.upload(sent, read_held)

    if repeatable:
        assert [outcome.refused for outcome in rig.platform.pictures.upload(sent, read_held)] == [""] * 5
    needs_listing(rig)
    assert set(rig.platform.pictures.find(sent)) == {one.key for one in sent.pictures}
    assert len(list(rig.platform.pictures.listing(dataset))) == 5


def test_upload_that_was_turned_away_may_be_repeated(rig: Rig, dataset: DatasetRef, patient: bool) -> None:
    """A platform that is busy stores nothing and says when to come back."""
    sent = batch_of(dataset, "red", pictures("red", 2))
    rig.turn_away("upload")

    if patient:
        assert len(rig.platform.pictures.upload(sent, read_held)) == 2
    else:
        with pytest.raises(Transient) as caught:
            rig.platform.pictures.upload(sent, read_held)
        assert caught.value.retry_after == 1
        assert rig.platform.pictures.find(sent) == {}


def test_picture_that_changed_confirms_nothing(rig: Rig, dataset: DatasetRef) -> None:
    """When one picture cannot be sent as it was checked, its error comes through and nothing of it is confirmed."""

    def changed() -> bytes:
        raise Changed("it changed")

    good, bad = pictures("red", 2)
    sent = batch_of(dataset, "red", [good, held(bad.key, bad.size, bad.sha256, changed)])

    with pytest.raises(Changed, match="it changed"):
        rig.platform.pictures.upload(sent, read_held)

    assert bad.key not in rig.platform.pictures.find(sent)


def test_uploads_from_many_threads(rig: Rig, dataset: DatasetRef) -> None:
    """Eight threads send at once into new categories; every picture arrives once, under its own category."""
    sent = [batch_of(dataset, f"c{n % 3}", pictures("red", 4, seed=n)) for n in range(8)]
    errors: list[BaseException] = []

    def work(one: Batch) -> None:
        try:
            rig.platform.pictures.upload(one, read_held)
        except BaseException as error:  # noqa: BLE001 - told below
            errors.append(error)

    threads = [threading.Thread(target=work, args=(one,)) for one in sent]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)

    assert errors == []
    needs_listing(rig)
    rows = list(rig.platform.pictures.listing(dataset))
    assert {(row.key, row.category) for row in rows} == {(i.key, one.category) for one in sent for i in one.pictures}
    assert len(rows) == 32


def test_relabel_and_remove(rig: Rig, dataset: DatasetRef) -> None:
    """A stored picture takes another category, also twice; a removed one is gone, also twice."""
    outcomes = rig.platform.pictures.upload(batch_of(dataset, "red", pictures("red", 2)), read_held)
    first, second = (outcome.remote_id for outcome in outcomes)

    for _ in range(2):
        rig.platform.pictures.relabel(dataset, first, "new one")
        rig.platform.pictures.remove(dataset, second)

    needs_listing(rig)
    assert [(row.remote_id, row.category) for row in rig.platform.pictures.listing(dataset)] == [(first, "new one")]
    with pytest.raises(NotFound):
        rig.platform.pictures.relabel(dataset, second, "red")


def test_pictures_need_no_category(rig: Rig, dataset: DatasetRef) -> None:
    """An empty name stands for none: stored, found, given one, taken out again; no category of that name is made."""
    needs_detection(rig)
    shipped = batch_of(dataset, "", pictures("red", 2))
    first, second = (outcome.remote_id for outcome in rig.platform.pictures.upload(shipped, read_held))
    assert set(rig.platform.pictures.find(shipped).values()) == {first, second}
    rig.platform.pictures.relabel(dataset, first, "red")
    assert {row.remote_id: row.category for row in rig.platform.pictures.listing(dataset)} == {first: "red", second: ""}
    rig.platform.pictures.relabel(dataset, first, "")

    assert {row.category for row in rig.platform.pictures.listing(dataset)} == {""}
    with pytest.raises(Permanent):
        rig.platform.trainings.start(TrainingPlan("none", dataset))


def test_listing_of_an_empty_dataset(rig: Rig, dataset: DatasetRef) -> None:
    """Nothing stored, nothing listed, no models."""
    assert list(rig.platform.pictures.listing(dataset)) == []
    assert rig.platform.models.of_dataset(dataset) == []
    assert rig.platform.trainings.find(dataset, "none") == []


def test_unknown_ids_are_not_found(rig: Rig) -> None:
    """What the platform does not know raises NotFound, whatever the id looks like."""
    nobody = DatasetRef("00000000-0000-0000-0000-000000000000", "nobody")

    if rig.platform.traits.lists_pictures:
        with pytest.raises(NotFound):
            list(rig.platform.pictures.listing(nobody))
    for task in ("00000000-0000-0000-0000-000000000000", "../../evil", ""):
        with pytest.raises(NotFound):
            rig.platform.trainings.progress(task)


def test_too_small_a_training_is_refused(rig: Rig, dataset: DatasetRef) -> None:
    """A training without the minimum of pictures is refused at once, in the platform's words."""
    outcomes = rig.platform.pictures.upload(batch_of(dataset, "red", pictures("red", 2)), read_held)
    contents = [RemotePicture(outcome.remote_id, outcome.key, "red") for outcome in outcomes]

    with pytest.raises(Permanent):
        rig.platform.trainings.start(TrainingPlan("small", dataset, contents=lambda: contents))

    assert rig.platform.trainings.find(dataset, "small") == []


def _filled(rig: Rig, dataset: DatasetRef) -> list[RemotePicture]:
    return [
        RemotePicture(outcome.remote_id, outcome.key, category)
        for category in ("red", "blue")
        for outcome in rig.platform.pictures.upload(batch_of(dataset, category, pictures(category, 8)), read_held)
    ]


def _finish(rig: Rig, task: str) -> None:
    give_up = time.monotonic() + 60
    while rig.platform.trainings.progress(task).phase is not Phase.TRAINED:
        assert time.monotonic() < give_up
        threading.Event().wait(0.05)


def test_a_training_is_stopped(rig: Rig, dataset: DatasetRef) -> None:
    """It ends without a model, and says nothing that asks for a repeat; twice is once."""
    contents = _filled(rig, dataset)
    plan = TrainingPlan("m-1", dataset, strategy={"max_iter": 100_000}, contents=lambda: contents)
    task = rig.platform.trainings.start(plan)
    if rig.platform.traits.name == "mobius":
        with pytest.raises(Unsupported):
            rig.platform.trainings.stop(task)
        _finish(rig, task)
        return

    rig.platform.trainings.stop(task)

    give_up = time.monotonic() + 60
    while (progress := rig.platform.trainings.progress(task)).phase is not Phase.FAILED:
        assert progress.phase is not Phase.TRAINED
        assert time.monotonic() < give_up
        threading.Event().wait(0.05)
    assert progress.reason
    assert not is_temporary_failure(progress.reason)
    assert not progress.repeat
    assert rig.platform.models.of_task(task) is None
    rig.platform.trainings.stop(task)
    for nobody in ("00000000-0000-0000-0000-000000000000", "../../evil"):
        with pytest.raises(NotFound):
            rig.platform.trainings.stop(nobody)


def test_training_deployment_and_prediction(rig: Rig, dataset: DatasetRef, tmp_path: Path) -> None:
    """The whole life of a model: trained, listed, deployed, asked, continued from, exported, deleted."""
    traits, contents = rig.platform.traits, _filled(rig, dataset)
    plan = TrainingPlan("m-1", dataset, strategy={"max_iter": 100}, contents=lambda: contents)

    task = rig.platform.trainings.start(plan)
    assert rig.platform.trainings.find(dataset, "m-1") == [task]
    _finish(rig, task)
    progress = rig.platform.trainings.progress(task)
    model = rig.platform.models.of_task(task)

    assert progress.phase is Phase.TRAINED
    assert progress.iteration is not None
    assert progress.iterations is not None
    assert isinstance(model, Model)
    assert (model.name, model.dataset_id, set(model.categories)) == ("m-1", dataset.id, {"red", "blue"})
    if traits.name == "mvi":
        assert model.accuracy is not None
        assert 0 <= model.accuracy <= 1
        assert progress.accuracy == model.accuracy
    if traits.keeps_models:
        with pytest.raises(NotFound):
            rig.platform.models.predict(model, picture(COLOURS["red"], 0))
    rig.platform.models.deploy(model)
    rig.platform.models.deploy(model)
    for category in ("red", "blue"):
        best = rig.platform.models.predict(model, picture(COLOURS[category], 3))[0]
        assert best.category == category
        assert 0.5 < best.confidence <= 1
    if not traits.keeps_models:
        _one_model_only(rig, plan, model, tmp_path)
        return
    with pytest.raises(Refused):
        rig.platform.models.delete(model)
    second = rig.platform.trainings.start(TrainingPlan("m-2", dataset, base=model.id, strategy={"max_iter": 100}))
    _finish(rig, second)
    third = rig.platform.trainings.start(TrainingPlan("m-1", dataset, strategy={"max_iter": 100}))
    assert rig.platform.trainings.find(dataset, "m-1") == list(dict.fromkeys([task, third]))
    assert (third == task) == rig.names_are_tokens
    if not rig.names_are_tokens:
        _finish(rig, third)
        assert rig.platform.trainings.find(dataset, "m-1") == [task, third]
        rig.platform.models.delete(rig.platform.models.of_task(third))  # type: ignore[arg-type]
    newest, *older = rig.platform.models.of_dataset(dataset)
    assert (newest.name, newest.id) == ("m-2", rig.platform.models.of_task(second).id)  # type: ignore[union-attr]
    assert [one.name for one in older] == ["m-1"]
    _exported(rig, newest, tmp_path)
    for _ in range(2):
        rig.platform.models.delete(newest)
    assert [one.name for one in rig.platform.models.of_dataset(dataset)] == ["m-1"]
    assert rig.platform.models.of_task(second) is None


def _exported(rig: Rig, model: Model, folder: Path) -> None:
    """Written into a folder under a name of the platform's, or as the file that was named."""
    written = rig.platform.models.export(model, folder)
    assert written.parent == folder
    assert written.stat().st_size > 0
    assert rig.platform.models.export(model, folder / "named.bin") == folder / "named.bin"
    files = {written.name, "named.bin"}
    if rig.sidecar:
        files |= {f"{name}{rig.sidecar}" for name in files}
    assert {path.name for path in folder.iterdir()} == files


def _one_model_only(rig: Rig, plan: TrainingPlan, model: Model, folder: Path) -> None:
    """Where there is one model: it can be trained on, not taken from service, exported or brought in, but deleted."""
    assert rig.platform.models.of_dataset(plan.dataset) == [model]
    second = rig.platform.trainings.start(replace(plan, name="m-2", base=model.id))
    _finish(rig, second)
    (newest,) = rig.platform.models.of_dataset(plan.dataset)
    assert (newest.id, newest.deployed) == (second, True)
    with pytest.raises(NotFound):
        rig.platform.trainings.start(replace(plan, name="m-3", base="0" * 16))
    platform = rig.platform._platform if isinstance(rig.platform, Retrying) else rig.platform
    for call in (
        lambda: platform.models.undeploy(newest),
        lambda: platform.models.export(newest, folder),
        lambda: platform.models.import_model(folder),
    ):
        with pytest.raises(Unsupported) as caught:
            call()
        assert caught.value.hint
    for _ in range(2):
        rig.platform.models.delete(newest)
    assert rig.platform.models.of_dataset(plan.dataset) == []
    assert rig.platform.models.of_task(second) is None
    with pytest.raises(NotFound):
        rig.platform.models.predict(newest, picture(COLOURS["red"], 0))


def test_lost_answer_of_a_training_is_in_doubt(rig: Rig, dataset: DatasetRef) -> None:
    """A start whose answer got lost raises Ambiguous, is not repeated, and is found by its name. Where names are
    tokens, the start finds it itself; where starting by the same name goes on where it was, it is found after that."""
    contents = _filled(rig, dataset)
    rig.lose_answer("start_training")
    plan = TrainingPlan("doubtful", dataset, strategy={"max_iter": 100}, contents=lambda: contents)

    if rig.names_are_tokens:
        rig.platform.trainings.start(plan)
    else:
        with pytest.raises(Ambiguous):
            rig.platform.trainings.start(plan)

    give_up = time.monotonic() + 20
    while rig.platform.traits.idempotent_starts and not rig.platform.trainings.find(dataset, "doubtful"):
        assert time.monotonic() < give_up
        with contextlib.suppress(Ambiguous):
            rig.platform.trainings.start(plan)
        threading.Event().wait(0.05)
    (task,) = rig.platform.trainings.find(dataset, "doubtful")
    _finish(rig, task)
    assert len(rig.platform.models.of_dataset(dataset)) == 1


HOLE = Box("hole", 2.0, 3.0, 10.0, 12.0)
SCREW = Box("Screw 1", 12.0, 1.0, 24.0, 24.0, polygon=((12.0, 1.0), (24.0, 1.0), (18.0, 24.0)))


def test_objects_are_marked_and_marked_anew(rig: Rig, dataset: DatasetRef, patient: bool) -> None:
    """What is marked replaces what was there, labels are made as needed, doing it twice is doing it once."""
    needs_detection(rig)
    first, second = (
        one.remote_id
        for one in rig.platform.pictures.upload(batch_of(dataset, "red", pictures("red", 2, seed=20)), read_held)
    )
    both = Annotation(24, 24, (HOLE, SCREW))

    for _ in range(2):
        rig.platform.pictures.annotate(dataset, first, both)
    assert rig.marked(dataset, first) == marks(both)
    rig.lose_answer("annotate")
    other = Annotation(24, 24, (replace(HOLE, label="scratch"),))
    try:
        rig.platform.pictures.annotate(dataset, first, other)
    except Transient:
        assert not patient
        rig.platform.pictures.annotate(dataset, first, other)
    assert rig.marked(dataset, first) == marks(other)
    rig.platform.pictures.annotate(dataset, first, Annotation(24, 24))

    assert rig.marked(dataset, first) == rig.marked(dataset, second) == []
    with pytest.raises(NotFound):
        rig.platform.pictures.annotate(dataset, "00000000-0000-0000-0000-000000000000", both)


def test_a_single_picture_takes_its_objects_along(rig: Rig, dataset: DatasetRef) -> None:
    """One picture alone is stored with what is marked in it; of several each is told that it is still to be done."""
    needs_detection(rig)
    both = Annotation(24, 24, (HOLE, SCREW))
    alone, one, two = (annotated(item, both) for item in pictures("blue", 3, seed=21))

    (stored,) = rig.platform.pictures.upload(batch_of(dataset, "blue", [alone]), read_held)
    several = rig.platform.pictures.upload(batch_of(dataset, "blue", [one, two]), read_held)
    (plain,) = rig.platform.pictures.upload(batch_of(dataset, "blue", pictures("blue", 1, seed=22)), read_held)

    assert stored.annotated
    assert rig.marked(dataset, stored.remote_id) == marks(both)
    assert not plain.annotated
    for outcome in several:
        assert outcome.annotated == rig.annotates_batches
        assert rig.marked(dataset, outcome.remote_id) == (marks(both) if rig.annotates_batches else [])


def test_boxes_between_pixels(rig: Rig, dataset: DatasetRef) -> None:
    """A box that lies between whole pixels covers at least what it covered, and stays inside the picture."""
    needs_detection(rig)
    box = Box("hole", 0.4, 2.6, 23.2, 23.999)
    (stored,) = rig.platform.pictures.upload(
        batch_of(dataset, "red", [annotated(pictures("red", 1, seed=23)[0], Annotation(24, 24, (box,)))]),
        read_held,
    )

    ((_, left, top, right, bottom),) = rig.marked(dataset, stored.remote_id)

    assert 0 <= left <= box.left
    assert box.left - left < 1
    assert box.top - 1 < top <= box.top
    assert box.right <= right <= 24
    assert box.bottom <= bottom <= 24


def test_a_model_leaves_service_and_travels(rig: Rig, dataset: DatasetRef, tmp_path: Path) -> None:
    """Undeployed twice is undeployed once; an exported model is brought back, deployed and asked. An import
    whose answer is lost is in doubt, and not repeated."""
    if not rig.platform.traits.keeps_models:
        pytest.skip("this platform has one model, which always answers")
    _filled(rig, dataset)
    task = rig.platform.trainings.start(TrainingPlan("wanderer", dataset, strategy={"max_iter": 100}))
    _finish(rig, task)
    model = rig.platform.models.of_task(task)
    assert model is not None
    rig.platform.models.undeploy(model)
    rig.platform.models.deploy(model)
    assert rig.platform.models.of_dataset(dataset)[0].deployed
    for _ in range(2):
        rig.platform.models.undeploy(model)
    assert not rig.platform.models.of_dataset(dataset)[0].deployed
    with pytest.raises(NotFound):
        rig.platform.models.predict(model, picture(COLOURS["red"], 0))
    written = rig.platform.models.export(model, tmp_path)
    rig.platform.models.delete(model)
    if not rig.imports:
        with pytest.raises(Unsupported):
            rig.platform.models.import_model(written)
        return

    brought = rig.platform.models.import_model(written)

    assert brought.id != model.id
    assert (brought.name, set(brought.categories)) == (model.name, {"red", "blue"})
    rig.platform.models.deploy(brought)
    assert rig.platform.models.predict(brought, picture(COLOURS["blue"], 3))[0].category == "blue"
    rig.lose_answer("import_model")
    with pytest.raises(Ambiguous):
        rig.platform.models.import_model(written)


def test_what_is_no_model_is_not_taken(rig: Rig, tmp_path: Path) -> None:
    """A file that no export wrote is refused; without a way to bring one in, so is every file."""
    (tmp_path / "letter.zip").write_text("Dear Sir or Madam")

    with pytest.raises(Refused if rig.imports else Unsupported):
        rig.platform.models.import_model(tmp_path / "letter.zip")


def plate(seed: int) -> tuple[bytes, Annotation]:
    """A grey plate with one dark hole somewhere, and where it is."""
    chance = random.Random(seed)
    image = Image.new("RGB", (96, 96), (180, 180, 185))
    for _ in range(300):
        image.putpixel((chance.randrange(96), chance.randrange(96)), (170 + chance.randrange(30),) * 3)
    left, top = chance.randrange(4, 64), chance.randrange(4, 64)
    ImageDraw.Draw(image).ellipse((left, top, left + 23, top + 23), fill=(20, 20, 25))
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue(), Annotation(96, 96, (Box("hole", left, top, left + 24, top + 24),))


def test_objects_are_learnt_and_found(rig: Rig, dataset: DatasetRef) -> None:
    """Without labels a detection is refused at once; with them it is trained, deployed, and tells where objects are."""
    needs_detection(rig)
    plates = [plate(seed) for seed in range(16)]
    items = [item(content, suffix="png") for content, _ in plates]
    plan = TrainingPlan("boxes", dataset, nn_arch=rig.detector, detection=True, strategy={"max_iter": 200})
    stored = {
        one.key: one.remote_id for one in rig.platform.pictures.upload(batch_of(dataset, "plates", items), read_held)
    }
    with pytest.raises(Permanent):
        rig.platform.trainings.start(plan)
    for one, (_, annotation) in zip(items, plates, strict=True):
        rig.platform.pictures.annotate(dataset, stored[one.key], annotation)

    task = rig.platform.trainings.start(plan)
    _finish(rig, task)
    model = rig.platform.models.of_task(task)

    assert model is not None
    assert model.categories == ("hole",)
    rig.platform.models.deploy(model)
    content, annotation = plates[3]
    best = rig.platform.models.predict(model, content)[0]
    (truth,) = annotation.boxes
    assert best.category == "hole"
    assert best.box is not None
    assert abs(best.box.left - truth.left) < 12
    assert abs(best.box.bottom - truth.bottom) < 12
