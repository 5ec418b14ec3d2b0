"""The reconciler: what is in doubt, what came twice or late, and what lay there before."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from image_sync.domain import Batch, DatasetRef, RemotePicture
from image_sync.errors import Ambiguous, Refused, Transient, Unfit
from image_sync.ledger.batches import HOPELESS
from image_sync_contract import held, read_held
from support.world import World


@pytest.fixture
def world(tmp_path: Path):
    made = World(tmp_path)
    made.stage(upload=1, grace=40)
    yield made
    made.ledger.close()


def dataset(world: World) -> DatasetRef:
    return world.platform.ensure_dataset("parts")


def sent_by_somebody(world: World, batch_id: str, *keys: str, category: str = "good") -> None:
    """Put pictures there as if a request with this batch id had been carried out."""
    items = tuple(held(key, 10, "", lambda: b"good/1.jpg") for key in keys)
    world.platform.upload(Batch(batch_id, dataset(world), category, items), read_held)


def rows(world: World) -> list[RemotePicture]:
    return list(world.platform.listing(dataset(world)))


def test_absence_is_believed_on_the_monotonic_clock_only(world: World) -> None:
    """A wall clock that jumps a day ahead ends no grace time; so nothing is sent twice because of it."""
    world.put("good/1.jpg")
    world.platform.fail_next("upload", Ambiguous("the connection broke"))
    world.work()
    world.unix += 86_400
    world.now += 15
    world.work(1)
    assert world.platform.calls["upload"] == 1
    world.work(40)
    world.work(1)

    assert world.platform.calls["upload"] == 2


def test_absence_is_believed_when_two_looks_agree(world: World) -> None:
    """A picture that appears between two looks, after the grace time, is not sent again."""
    world.put("good/1.jpg")
    world.platform.fail_next("upload", Ambiguous("the connection broke"))
    world.work()
    ((batch, _),) = world.ledger.batches.doubtful()
    world.pass_time(39)
    sent_by_somebody(world, batch.id, batch.pictures[0].key)
    world.work(30)
    world.work()

    assert world.platform.calls["upload"] == 2  # ours, and the one made up above
    assert world.ledger.tally().confirmed == 1
    assert len(rows(world)) == 1


def test_a_question_that_fails_holds_up_its_own_batch_only(world: World) -> None:
    """Of two batches in doubt one cannot be asked about: the other is settled all the same."""
    world.stage(upload=1, grace=40, batch_files=1)
    world.put("good/1.jpg", "good/2.jpg")
    world.platform.fail_next("upload", Ambiguous("the connection broke"), after=True, times=2)
    world.platform.fail_next("find", Transient("no answer"))
    world.work()

    assert world.ledger.tally().confirmed == 1
    assert world.ledger.tally().doubtful == 1
    world.work()
    assert world.ledger.tally().confirmed == 2


def test_many_batches_in_doubt_are_settled_by_one_question(world: World) -> None:
    """Recovery after an outage reads the listing once, not once for each of twenty batches."""
    world.stage(upload=1, grace=40, batch_files=1, once=True)
    world.put(*(f"good/{number}.jpg" for number in range(20)))
    world.platform.fail_next("upload", Ambiguous("the connection broke"), after=True, times=12)
    world.platform.fail_next("upload", Ambiguous("the connection broke"), times=8)
    for _ in range(20):
        world.uploader.step(world.now)
    assert world.ledger.tally().doubtful == 20
    world.reconciler.step(world.now)

    assert world.ledger.tally().confirmed == 12
    assert world.platform.calls["find"] == 1
    assert world.platform.calls["copies"] == 1
    world.pass_time(60)
    for _ in range(10):
        world.work(1)
    assert world.ledger.tally().confirmed == 20
    assert len(rows(world)) == 20
    assert world.platform.calls["find"] == 2


def test_batches_that_were_asked_about_lately_wait_for_company(world: World) -> None:
    """A batch that falls into doubt between two looks does not make the others be asked about again at once."""
    world.stage(upload=1, grace=40, batch_files=1, once=True)
    world.put(*(f"good/{number}.jpg" for number in range(6)))
    world.platform.fail_next("upload", Ambiguous("the connection broke"), times=7)
    for _ in range(6):
        world.uploader.step(world.now)
    world.reconciler.step(world.now)
    assert world.platform.calls["find"] == 1
    world.put("good/late.jpg")
    world.pass_time(1)
    world.uploader.step(world.now)
    world.reconciler.step(world.now)

    assert world.platform.calls["find"] == 2
    assert world.ledger.tally().doubtful == 7


def test_plain_names_are_asked_about_batch_by_batch(tmp_path: Path) -> None:
    """Without a fingerprint in the name, category and time have to say whose picture it is."""
    plain = World(tmp_path, plain_names=True)
    plain.stage(upload=1, grace=40, batch_files=1, once=True)
    plain.put(*(f"good/{number}.jpg" for number in range(6)))
    plain.platform.fail_next("upload", Ambiguous("the connection broke"), after=True, times=6)
    for _ in range(6):
        plain.uploader.step(plain.now)
    plain.reconciler.step(plain.now)

    assert plain.platform.calls["find"] == 6
    assert plain.ledger.tally().confirmed == 6
    plain.ledger.close()


def test_a_request_carried_out_after_the_grace_time_leaves_one_copy(world: World) -> None:
    """The picture was sent again and then the first request arrived: the sweep removes the second copy."""
    world.put("good/1.jpg")
    world.platform.fail_next("upload", Ambiguous("the connection broke"))
    world.work()
    ((batch, _),) = world.ledger.batches.doubtful()
    world.work(60)
    world.work()
    assert world.ledger.tally().confirmed == 1
    sent_by_somebody(world, batch.id, batch.pictures[0].key)
    assert len(rows(world)) == 2
    world.work(100)
    world.work()

    (kept,) = rows(world)
    found = world.ledger.history.of(os.fsencode(world.root / "good/1.jpg"))
    assert found is not None
    assert found.remote_id == kept.remote_id


def test_a_late_arrival_is_confirmed_instead_of_sent(world: World) -> None:
    """Released, then parked by a refusal, then the first request arrives: the sweep confirms it."""
    world.put("good/1.jpg")
    world.platform.fail_next("upload", Ambiguous("the connection broke"))
    world.work()
    ((batch, _),) = world.ledger.batches.doubtful()
    world.platform.fail_next("upload", Unfit("not today"))
    world.work(60)
    world.work()
    assert world.state_of("good/1.jpg") == "refused"
    sent_by_somebody(world, batch.id, batch.pictures[0].key)
    world.work(100)
    world.work()

    assert world.state_of("good/1.jpg") == "confirmed"


def test_a_copy_that_somebody_else_made_is_left_alone(world: World) -> None:
    """Only what this ledger sent is removed: a copy with a foreign batch id stays."""
    world.put("good/1.jpg")
    world.platform.fail_next("upload", Ambiguous("the connection broke"), after=True)
    world.work()
    key = rows(world)[0].key
    sent_by_somebody(world, "somebody-else", key)
    world.work(100)
    world.work()

    assert len(rows(world)) == 2


def test_a_request_that_a_proxy_doubled_is_found_by_counting(world: World) -> None:
    """The answer was fine, yet two copies lie there: when all is quiet the counts disagree, and one is removed."""
    world.put("good/1.jpg")
    world.work()
    (first,) = rows(world)
    sent_by_somebody(world, first.batch_id, first.key)
    for _ in range(5):
        world.work(50)

    assert [one.remote_id for one in rows(world)] == [first.remote_id]


def test_a_count_that_could_not_be_looked_into_is_looked_into_later(world: World) -> None:
    """The listing fails at the very moment when the counts disagree: the second copy is found all the same."""
    world.put("good/1.jpg")
    world.work()
    (first,) = rows(world)
    sent_by_somebody(world, first.batch_id, first.key)
    world.platform.fail_next("listing", Transient("no connection"))
    for _ in range(10):
        world.work(50)

    assert [one.remote_id for one in rows(world)] == [first.remote_id]


def test_the_second_sweep_comes_a_day_later(world: World) -> None:
    """Once after twice the grace time, once after a day, then never again."""
    world.put("good/1.jpg")
    world.platform.fail_next("upload", Ambiguous("the connection broke"), after=True)
    world.work()
    world.work(100)
    looks = world.platform.calls["copies"]
    assert looks == 2  # once when it was settled, once by the sweep
    world.work(1000)
    assert world.platform.calls["copies"] == looks
    world.work(86_400)
    assert world.platform.calls["copies"] == looks + 1
    world.work(10 * 86_400)

    assert world.platform.calls["copies"] == looks + 1


def test_nothing_is_sent_before_the_platform_was_asked_what_it_has(tmp_path: Path) -> None:
    """A new ledger on a dataset that holds our pictures already: they are adopted, not sent."""
    first = World(tmp_path / "first")
    first.put("good/1.jpg", "good/2.jpg")
    first.work()
    second = World(tmp_path / "second")
    second.ledger.remote_index.checked = False
    second.platform = first.platform
    second.stage(upload=1)
    second.put("good/1.jpg", "good/2.jpg", "good/3.jpg")
    assert second.uploader.step(second.now) > 0
    assert second.ledger.tally().cleared == 0
    second.work()

    assert first.platform.calls["upload"] == 2
    assert len(second.stored()) == 3
    assert second.ledger.tally().confirmed == 3
    first.ledger.close()
    second.ledger.close()


def test_what_lies_there_is_remembered_until_its_file_is_found(tmp_path: Path) -> None:
    """The listing was read before the folders were: a file that turns up later is known to be there."""
    first = World(tmp_path / "first")
    first.put("good/1.jpg", "good/2.jpg")
    first.work()
    second = World(tmp_path / "second")
    second.ledger.remote_index.checked = False
    second.platform = first.platform
    second.stage(upload=1)
    second.work()
    second.put("good/1.jpg")
    second.work()

    assert second.state_of("good/1.jpg") == "confirmed"
    assert first.platform.calls["upload"] == 1
    first.ledger.close()
    second.ledger.close()


def test_an_unreachable_platform_holds_uploads_back_until_it_was_asked(world: World) -> None:
    """Not knowing what lies there is a reason to wait, and `status` tells why."""
    world.ledger.remote_index.checked = False
    dataset(world)
    world.platform.fail_next("find_dataset", Transient("no answer"))
    world.put("good/1.jpg")
    world.work(1)
    assert world.platform.calls["upload"] == 0
    assert [trouble.stage for trouble in world.ledger.troubles()] == ["reconcile"]
    world.work(10)
    world.work(15)

    assert world.platform.calls["upload"] == 1
    assert world.ledger.troubles() == []


def test_a_picture_that_breaks_every_request_travels_alone_and_is_parked(world: World) -> None:
    """Its company arrives; after enough attempts it is parked with the reason, and `retry` gives it another chance."""
    names = [f"good/{number}.jpg" for number in range(6)]
    world.put(*names)
    upload = world.platform.upload

    def poisoned(batch, read):
        if any(item.key.startswith("3.") for item in batch.pictures):
            raise Ambiguous("the server broke down")
        return upload(batch, read)

    world.platform.upload = poisoned  # type: ignore[method-assign]
    for _ in range(4 * HOPELESS):
        world.work(30)

    assert len(rows(world)) == 5
    found = world.ledger.history.of(os.fsencode(world.root / "good/3.jpg"))
    assert found is not None
    assert found.state == "refused"
    assert "given up after 8 attempts" in found.reason
    world.platform.upload = upload  # type: ignore[method-assign]
    world.ledger.changes.requeue_refused()
    world.work()
    assert len(rows(world)) == 6


def test_a_dead_server_uses_up_no_attempts(world: World) -> None:
    """Nothing was sent, so nothing counts against the picture."""
    world.put("good/1.jpg")
    world.platform.fail_next("upload", Transient("no answer"), times=3 * HOPELESS)
    for _ in range(4 * HOPELESS):
        world.work(300)

    assert world.state_of("good/1.jpg") == "confirmed"


def test_every_copy_of_a_deleted_file_is_removed(world: World) -> None:
    """With `deletions: "remove"`: the picture and the second copy that a proxy made of it."""
    world.stage(upload=1, remove_after=5)
    world.put("good/1.jpg")
    world.work()
    (first,) = rows(world)
    sent_by_somebody(world, first.batch_id, first.key)
    world.ledger.files.gone(os.fsencode(world.root / "good"), [b"1.jpg"])
    world.work()
    world.work()

    assert rows(world) == []


def test_a_removal_that_a_crash_interrupts_is_not_mistaken_for_a_stored_picture(world: World) -> None:
    """It was removed, then the process died: the same content, put again, is uploaded again."""
    world.stage(upload=1, remove_after=5)
    world.put("good/1.jpg")
    world.work()
    world.ledger.files.gone(os.fsencode(world.root / "good"), [b"1.jpg"])
    world.platform.fail_next("remove", Transient("the connection broke"), after=True)
    world.work(6)
    assert rows(world) == []
    world.put("good/1.jpg")
    world.work(30)
    world.work(30)

    assert world.state_of("good/1.jpg") == "confirmed"
    assert len(rows(world)) == 1


def test_our_own_copy_under_an_old_name_is_removed(world: World) -> None:
    """A request arrived late for a file that was renamed meanwhile: one picture of the content stays."""
    world.put("good/1.jpg")
    world.work()
    (first,) = rows(world)
    digest = first.key.split(".")[1]
    sent_by_somebody(world, first.batch_id, f"old-name.{digest}.jpg")
    for _ in range(5):
        world.work(50)

    assert [one.remote_id for one in rows(world)] == [first.remote_id]


def test_rows_of_old_batches_go(world: World) -> None:
    """A month after its end a batch is forgotten, one that is still to be swept is not; second copies that it made
    are still known as ours."""
    world.put("good/1.jpg")
    world.work()
    (first,) = rows(world)
    world.work(31 * 86_400)
    world.work(3600)
    found = world.ledger.history.of(os.fsencode(world.root / "good/1.jpg"))
    assert found is not None
    assert (found.state, found.batch_state) == ("confirmed", "")
    sent_by_somebody(world, first.batch_id, first.key)
    world.put("good/2.jpg")
    world.platform.fail_next("upload", Ambiguous("the connection broke"), after=True)
    world.work()
    assert world.ledger.changes.prune(before=world.unix + 1) == 0
    for _ in range(10):
        world.work(50)

    assert len(rows(world)) == 2


def moved(world: World, number: int) -> None:
    """So many uploaded pictures were moved from one category to another."""
    names = [f"{index}.jpg" for index in range(number)]
    world.put(*(f"good/{name}" for name in names))
    world.work()
    for name in names:
        world.put(f"scratch/{name}", content=f"good/{name}")
    world.ledger.files.gone(os.fsencode(world.root / "good"), [name.encode() for name in names])


def test_many_changes_of_category_are_shared_by_threads(world: World) -> None:
    """Threads that have nothing else to do help, and each change is told once."""
    moved(world, 450)
    helped: list[int] = []

    def help_out() -> None:
        while world.reconciler.help(world.now) == 0:
            helped.append(1)

    assert world.reconciler.help(world.now) > 0  # nobody has seen yet that there are many
    assert world.reconciler.step(world.now) == 0
    threads = [threading.Thread(target=help_out) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    world.work()

    assert helped
    assert world.platform.calls["relabel"] == 450
    assert {row.category for row in rows(world)} == {"scratch"}
    assert world.ledger.tally().moving == 0


def test_a_change_of_category_that_is_refused_holds_up_no_other(world: World) -> None:
    """Of 150 one is refused: the others are carried out, the refusal is told, and after a pause it is tried again."""
    moved(world, 150)
    world.platform.fail_next("relabel", Refused("the picture is locked"))
    while world.reconciler.step(world.now) == 0:
        pass

    assert world.ledger.tally().moving == 1
    assert world.platform.calls["relabel"] == 150
    (trouble,) = world.ledger.troubles()
    assert trouble.what == "the picture is locked"
    world.pass_time(300)
    world.work()
    assert world.ledger.tally().moving == 0
    assert world.ledger.troubles() == []


def told(world: World) -> dict[str, str]:
    """What keeps the stages from their work, by stage."""
    return {trouble.stage: f"{trouble.what}. {trouble.hint}" for trouble in world.ledger.troubles()}


def settled(world: World) -> None:
    """Two comparisons, with time between them."""
    for _ in range(8):
        world.work(200)


@pytest.mark.parametrize("auto", [True, False])
def test_pictures_deleted_at_the_platform_are_told_and_sent_again(world: World, auto: bool) -> None:
    """At once with `repair: "auto"`, else when a person asks for it; nothing else is sent a second time."""
    world.put("good/1.jpg", "good/2.jpg", "bad/1.jpg")
    world.work()
    settled(world)
    world.stage(upload=1, grace=40, repair=auto)
    world.platform.remove(dataset(world), rows(world)[0].remote_id)
    settled(world)
    if not auto:
        assert (world.ledger.tally().confirmed, len(rows(world))) == (2, 2)
        assert told(world)["missing"].startswith("1 uploaded picture is no longer at the server. ")
        assert "image-sync repair" in told(world)["missing"]
        world.ledger.remote_index.request_repair()
        world.work()
        world.work()

    assert (world.ledger.tally().confirmed, len(rows(world))) == (3, 3)
    assert told(world) == {}


def test_what_one_listing_lacks_is_not_believed_to_be_gone(world: World) -> None:
    """A listing that lags behind for once: nothing is told, nothing is sent."""
    world.put("good/1.jpg", "good/2.jpg")
    world.work()
    gone = world.platform._datasets[dataset(world).id].pictures
    key, kept = gone.popitem()
    looks = world.platform.calls["listing"]
    while world.platform.calls["listing"] == looks:
        world.work(10)
    gone[key] = kept
    settled(world)

    assert world.ledger.tally().confirmed == 2
    assert told(world) == {}


def test_a_missing_picture_without_a_file_is_forgotten(world: World) -> None:
    """Its file was deleted here and it was deleted there: nothing is left to do."""
    world.put("good/1.jpg", "good/2.jpg")
    world.work()
    world.ledger.files.gone(os.fsencode(world.root / "good"), [b"1.jpg"])
    for row in rows(world):
        world.platform.remove(dataset(world), row.remote_id)
    settled(world)

    assert world.ledger.remote_index.missing() == 1
    assert world.state_of("good/2.jpg") == "refused"


def test_a_dataset_that_was_deleted_is_told_and_made_again(world: World) -> None:
    """The hint says what to do; `image-sync repair` makes it anew and sends everything."""
    world.put("good/1.jpg", "good/2.jpg")
    world.work()
    del world.platform._datasets[dataset(world).id]
    world.put("good/3.jpg")
    world.work()
    settled(world)
    assert "the dataset 'parts'" in told(world)["dataset"]
    assert "image-sync repair" in told(world)["dataset"]
    world.ledger.remote_index.request_repair()
    world.work()
    world.work(400)
    world.work()

    assert len(rows(world)) == 3
    assert world.ledger.tally().confirmed == 3
    assert told(world) == {}


def test_a_dataset_that_was_made_again_is_taken(world: World) -> None:
    """Somebody deleted it and made an empty one of its name: what is missing there is told and can be repaired."""
    world.put("good/1.jpg", "good/2.jpg")
    world.work()
    del world.platform._datasets[dataset(world).id]
    new = dataset(world)
    settled(world)
    assert world.ledger.target.dataset_id == new.id
    assert world.ledger.remote_index.missing() == 2
    world.ledger.remote_index.request_repair()
    world.work()
    world.work(400)

    assert len(rows(world)) == 2


def two_worlds(tmp_path: Path) -> tuple[World, World]:
    """Two state folders that feed one dataset."""
    first, second = World(tmp_path / "one"), World(tmp_path / "two")
    second.platform = first.platform
    for world in (first, second):
        world.stage(upload=1, grace=40)
    return first, second


def test_two_ledgers_on_one_dataset_leave_one_copy_of_each_picture(tmp_path: Path) -> None:
    """Both send the same 300 pictures at once: each finds it out, one copy stays, and both know which."""
    first, second = two_worlds(tmp_path)
    names = [f"good/{number}.jpg" for number in range(300)]
    for world in (first, second):
        world.put(*names)
    first.work()
    second.work()
    assert len(rows(first)) == 600
    for _ in range(20):
        for world in (first, second):
            world.work(50)
    there = {row.remote_id for row in rows(first)}
    assert len(there) == len({row.key for row in rows(first)}) == 300
    for world in (first, second):
        assert {remote for remote, *_ in world.ledger.trainings.contents()} == there
        assert told(world) == {}
    for world in (first, second):  # from now on each looks before it sends
        world.put("good/late.jpg")
        world.work()

    assert len(rows(first)) == 301
    assert [world.ledger.tally().confirmed for world in (first, second)] == [301, 301]
    first.ledger.close()
    second.ledger.close()


def test_a_category_that_a_person_changed_at_the_platform_is_told_once_and_kept(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    """The regular comparison finds it; the picture keeps the person's category, and nothing is sent."""
    world.put("good/1.jpg", "good/2.jpg")
    world.work()
    (mine,) = (row.remote_id for row in rows(world) if row.key.startswith("1."))
    world.platform.relabel(dataset(world), mine, "bad")
    settled(world)
    settled(world)

    assert sorted(row.category for row in rows(world)) == ["bad", "good"]
    assert capsys.readouterr().out.count("picture.category_changed") == 1
    assert world.ledger.remote_index.kept() == 1
    path = os.fsencode(world.root / "good/1.jpg")
    assert world.ledger.history.in_state("category-changed") == [(path, "category-changed", "'bad' at the server")]
    assert told(world) == {}


def moved_file(world: World, was: str, to: str) -> None:
    """A file is moved to another place, and the watcher sees it."""
    folder, _, name = was.partition("/")
    world.ledger.files.gone(os.fsencode(world.root / folder), [os.fsencode(name)])
    world.put(to, content=was)


def test_a_category_that_a_person_changed_goes_when_the_file_is_moved_or_the_person_takes_it_back(world: World) -> None:
    """The folder's change is the newer one; and what is as it was told is nobody's."""
    world.put("good/1.jpg", "good/2.jpg", "good/3.jpg")
    world.work()
    for row in rows(world):
        world.platform.relabel(dataset(world), row.remote_id, "bad")
    settled(world)
    assert world.ledger.remote_index.kept() == 3
    moved_file(world, "good/1.jpg", "ugly/1.jpg")
    (second,) = (row.remote_id for row in rows(world) if row.key.startswith("2."))
    world.platform.relabel(dataset(world), second, "good")
    settled(world)
    settled(world)

    assert {row.key[0]: row.category for row in rows(world)} == {"1": "ugly", "2": "good", "3": "bad"}
    assert world.ledger.remote_index.kept() == 1


def test_a_second_look_after_a_doubt_leaves_the_category_of_a_person(world: World) -> None:
    """The sweep of a batch whose answer was lost finds the picture under another category, and tells nothing."""
    world.put("good/1.jpg")
    world.platform.fail_next("upload", Ambiguous("the connection broke"), after=True)
    world.work()
    world.work(15)
    world.platform.relabel(dataset(world), rows(world)[0].remote_id, "bad")
    settled(world)
    world.work(100_000)
    settled(world)

    assert [row.category for row in rows(world)] == ["bad"]
    assert world.ledger.remote_index.kept() == 1


def test_pictures_of_another_ledger_are_noticed_while_uploads_go_on(world: World) -> None:
    """A picture every minute leaves no quiet time: the regular comparison does not wait for one."""
    world.stage(upload=1, grace=180)
    sent = [f"good/{number}.jpg" for number in range(20)]
    for name in sent:
        world.put(name)
        world.work(60)
        if name == sent[5]:
            keys = [row.key for row in rows(world)]
            sent_by_somebody(world, "f" * 32, *keys)

    assert world.ledger.remote_index.shared
    assert world.ledger.tally().confirmed == 20
