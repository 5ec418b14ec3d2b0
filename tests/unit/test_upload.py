"""The upload stage, stepped by hand on a real ledger and real files, with a platform in memory."""

from __future__ import annotations

import hashlib
import itertools
import os
from pathlib import Path

import pytest

from image_sync.domain import PictureState, Stamp
from image_sync.errors import Ambiguous, Changed, NotFound, Refused, Transient, Unauthorised, Unfit, Unreadable
from image_sync.platforms.base import Outcome
from image_sync.upload import RequestSize, read_verified
from support.world import World


@pytest.fixture
def world(tmp_path: Path):
    made = World(tmp_path)
    yield made
    made.ledger.close()


def test_below_the_threshold_nothing_is_sent(world: World) -> None:
    """One picture of two waits, however long."""
    world.put("good/1.jpg")
    world.work(1000)

    assert world.stored() == []
    assert world.platform.calls["upload"] == 0


def test_at_the_threshold_everything_is_sent_after_quiet(world: World) -> None:
    """Three pictures in two categories arrive under their categories, once it was quiet for `time` seconds."""
    world.put("good/1.jpg", "good/2.jpg", "scratch/3.jpg")
    world.uploader.step(world.now)
    world.pass_time(9)
    world.uploader.step(world.now)
    assert world.platform.calls["upload"] == 0
    world.work()

    assert [key.split("/")[0] for key in world.stored()] == ["good", "good", "scratch"]
    assert world.platform.calls["upload"] == 2
    assert world.state_of("good/1.jpg") == "confirmed"


def test_once_does_not_wait_for_quiet(world: World) -> None:
    """With `once`, the stage sends at the first step."""
    world.stage(once=True)
    world.put("good/1.jpg", "good/2.jpg")
    world.uploader.step(world.now)

    assert len(world.stored()) == 2


def test_what_it_may_do_next_is_told_in_seconds(world: World) -> None:
    """The stage says when it wants to be called again: when quiet ends, not a default later."""
    world.put("good/1.jpg", "good/2.jpg")
    world.uploader.step(world.now)
    world.pass_time(7)

    assert world.uploader.step(world.now) == pytest.approx(3)


def test_a_picture_refused_for_what_it_is_is_recorded_and_not_sent_again(world: World) -> None:
    """A single picture that the platform refuses keeps the platform's words."""
    world.stage(upload=1)
    world.put("good/1.jpg")
    world.platform.fail_next("upload", Unfit("too dark"))
    world.work()
    world.work()

    found = world.ledger.history.of(os.fsencode(world.root / "good/1.jpg"))
    assert found is not None
    assert (found.state, found.reason) == (PictureState.REFUSED, "too dark")
    assert world.platform.calls["upload"] == 1


def test_one_bad_picture_does_not_block_the_others(world: World) -> None:
    """A request that is refused whole is repeated in halves until the bad one stands alone."""
    names = [f"good/{number}.jpg" for number in range(8)]
    world.put(*names)
    upload = world.platform.upload

    def picky(batch, read):
        if any(item.key.startswith("5.") for item in batch.pictures):
            raise Unfit("one of these is no picture")
        return upload(batch, read)

    world.platform.upload = picky  # type: ignore[method-assign]
    world.work()
    world.work()

    assert world.state_of("good/5.jpg") == "refused"
    assert len(world.stored()) == 7


def test_a_server_that_refuses_everything_does_not_condemn_every_picture(world: World) -> None:
    """After four single refusals in a row no other is held against its picture: `status` tells what the server says.

    When the server is well again everything is sent, without anybody's doing.
    """
    world.stage(upload=1, batch_files=1)
    world.put(*(f"good/{number:02}.jpg" for number in range(12)))
    world.platform.fail_next("upload", Refused("the dataset is locked"), times=100)
    world.work()

    for _ in range(5):
        world.work(300)
    assert world.ledger.troubles()[0].what == "the dataset is locked"
    assert world.ledger.tally().refused + world.ledger.tally().cleared == 12
    assert world.ledger.tally().refused <= 4
    assert world.ledger.history.faults() == []
    world.platform.fail_next("upload", Refused("the dataset is locked"), times=100)
    world.platform._faults.clear()
    for _ in range(4):
        world.work(2000)
    assert len(world.stored()) == 12


def test_a_refusal_that_names_no_fault_of_the_picture_is_tried_again_for_a_day(world: World) -> None:
    """After growing pauses, which survive a restart; only then a person is asked; `retry` begins anew."""
    world.stage(upload=1)
    world.put("good/1.jpg", "scratch/2.jpg")
    upload, tries = world.platform.upload, []

    def full(batch, read):
        if batch.category == "good":
            tries.append(world.unix)
            raise Refused("could not store")
        return upload(batch, read)

    world.platform.upload = full  # type: ignore[method-assign]
    world.uploader.step(world.now)
    while world.unix < 1_000_000.0 + 2 * 86_400:
        world.pass_time(10)
        for _ in range(4):
            world.uploader.step(world.now)
        if len(tries) < 8:
            assert world.ledger.history.faults() == []
            assert world.ledger.batches.next_up() is not None or not tries
        next_up = world.ledger.batches.next_up()
        if next_up is not None:
            world.pass_time(max(0.0, next_up - world.unix - 10))
            world.stage(upload=1)
        elif len(tries) == 8:
            break

    assert [round(after - before, -1) for before, after in itertools.pairwise(tries)] == [
        10, 20, 60, 300, 1800, 10_800, 72_000,
    ]  # fmt: skip
    ((_, state, reason),) = world.ledger.history.faults()
    assert (state, reason) == ("refused", "could not store")
    assert world.stored() == ["scratch/" + world.stored()[0].split("/")[1]]
    world.platform.upload = upload  # type: ignore[method-assign]
    assert world.ledger.changes.requeue_refused() == 1
    world.work()
    assert len(world.stored()) == 2


def test_a_clock_that_was_set_back_does_not_hold_up_what_is_to_be_tried_again(world: World) -> None:
    """The pause is a moment in the ledger; one further away than any pause can be is no pause."""
    world.stage(upload=1)
    world.put("good/1.jpg")
    world.platform.fail_next("upload", Refused("could not store"))
    world.work(1)
    world.work(10)
    world.unix -= 30 * 86_400
    world.work(10)

    assert len(world.stored()) == 1


def test_a_batch_that_is_just_being_sent_is_never_taken_for_stranded(world: World) -> None:
    """A thread that has claimed and not yet sent holds its batch: nobody else puts it in doubt until it is put down."""
    world.put("good/1.jpg", "good/2.jpg")
    world.ledger.batches.clear()
    dataset = world.platform.ensure_dataset("parts")
    batch = world.ledger.batches.claim(dataset, 1, 1 << 20)
    assert batch is not None
    assert world.ledger.batches.doubt_all(not_before=0) == 0
    following = world.ledger.batches.confirm(
        batch.id, {batch.pictures[0].picture_id: "r-1"}, {}, then=(dataset, 1, 1 << 20)
    )
    assert following is not None
    assert world.ledger.batches.doubt_all(not_before=0) == 0
    world.ledger.batches.put_down(following.id)
    assert world.ledger.batches.doubt_all(not_before=0) == 1


def test_pictures_stored_without_ids_are_asked_for(world: World) -> None:
    """A platform that only says "done" is asked under which ids; nothing is sent again."""
    upload = world.platform.upload
    world.platform.upload = lambda batch, read: [  # type: ignore[method-assign]
        Outcome(outcome.key) for outcome in upload(batch, read)
    ]
    world.put("good/1.jpg", "good/2.jpg")
    world.work()

    assert world.ledger.tally().confirmed == 2
    assert world.platform.calls["upload"] == 1
    found = world.ledger.history.of(os.fsencode(world.root / "good/1.jpg"))
    assert found is not None
    assert found.remote_id


def test_a_dead_server_is_waited_for_and_nothing_is_lost(world: World) -> None:
    """After a failure the stage pauses, says why, and sends everything when the server is back."""
    world.put("good/1.jpg", "good/2.jpg")
    world.platform.fail_next("upload", Transient("the server does not answer", hint="Is it on?"))
    world.work()

    (trouble,) = world.ledger.troubles()
    assert (trouble.stage, trouble.what) == ("upload", "the server does not answer")
    assert world.ledger.tally().cleared == 2
    world.work(60)
    assert len(world.stored()) == 2
    assert world.ledger.troubles() == []


def test_pauses_grow_to_a_ceiling(world: World) -> None:
    """A server that stays dead is asked less and less often, at least every five minutes."""
    world.put("good/1.jpg", "good/2.jpg")
    world.platform.fail_next("sign_in", Transient("no answer"), times=20)
    pauses = []
    for _ in range(10):
        pauses.append(world.reconciler.step(world.now))
        world.pass_time(pauses[-1])

    assert pauses[:4] == [5, 10, 20, 40]
    assert pauses[-1] == 300


def test_retry_after_is_obeyed(world: World) -> None:
    """The platform says how long; nothing is sent earlier."""
    world.put("good/1.jpg", "good/2.jpg")
    world.platform.fail_next("sign_in", Transient("too many requests", retry_after=77))

    assert world.reconciler.step(world.now) == 77
    world.pass_time(76)
    world.reconciler.step(world.now)
    assert world.platform.calls["sign_in"] == 1


def test_who_is_turned_away_at_the_start_tries_again_for_a_minute_and_then_every_few_minutes(world: World) -> None:
    """The server may restart, or a key come a little later: nothing ends, the alarm stands until it is let in."""
    world.platform.fail_next("sign_in", Unauthorised("the API key was refused"), times=12)
    pauses = []
    for _ in range(12):
        pauses.append(world.reconciler.step(world.now))
        assert world.ledger.troubles()[0].what == "the API key was refused"
        world.pass_time(pauses[-1])
    world.put("good/1.jpg", "good/2.jpg")
    world.work()

    assert pauses[:4] == [5, 10, 20, 40]
    assert pauses[-1] == 300
    assert world.ledger.troubles() == []
    assert len(world.stored()) == 2


def test_a_single_run_waits_a_minute_to_be_let_in(world: World) -> None:
    """Being turned away is hopeless only when it lasts; any other failure of all tries is so at once."""
    world.platform.fail_next("sign_in", Unauthorised("the API key was refused"), times=5)
    hopeless = []
    for _ in range(5):
        world.pass_time(world.reconciler.step(world.now))
        hopeless.append(world.reconciler.backoff.hopeless(60))
    world.stage()
    world.platform.fail_next("sign_in", Transient("no answer"))
    world.reconciler.step(world.now)

    assert hopeless == [False, False, False, True, True]
    assert world.reconciler.backoff.hopeless(60)


def test_a_key_that_is_refused_in_the_middle_holds_up_nothing_for_long(world: World) -> None:
    """The daemon tells of it and tries again within seconds; the pictures stay in line."""
    world.put("good/1.jpg", "good/2.jpg")
    world.platform.fail_next("upload", Unauthorised("the API key was refused"))
    world.work()

    assert world.ledger.troubles()[0].what == "the API key was refused"
    assert world.ledger.tally().cleared == 2
    world.pass_time(5)
    world.work(0)
    assert len(world.stored()) == 2


def test_a_pause_begins_when_something_failed_not_when_the_step_began(world: World) -> None:
    """A step that sends for minutes and then meets an outage pauses as long as any other."""
    world.stage(upload=1, batch_files=1)
    world.put("good/1.jpg", "good/2.jpg")
    upload = world.platform.upload

    def slow(batch, read):
        world.pass_time(600)
        return upload(batch, read)

    world.platform.upload = slow  # type: ignore[method-assign]
    world.uploader.step(world.now)
    world.pass_time(10)
    world.platform.fail_next("upload", Transient("no answer", retry_after=77))
    assert world.uploader.step(world.now) == 77


def test_a_listing_of_minutes_is_no_part_of_the_grace_time(world: World) -> None:
    """What was looked for after a long comparison is believed absent `grace` seconds after the look, not earlier."""
    world.put("good/1.jpg", "good/2.jpg")
    world.platform.fail_next("upload", Ambiguous("the connection broke"), after=True, applied=0)
    world.uploader.step(world.now)
    world.pass_time(10)
    world.uploader.step(world.now)
    world.stage(grace=180)
    world.ledger.remote_index.checked = False
    count = world.platform.count

    def slow(dataset):
        world.pass_time(170)
        return count(dataset)

    world.platform.count = slow  # type: ignore[method-assign]
    world.reconciler.step(world.now)
    world.platform.count = count  # type: ignore[method-assign]
    world.pass_time(20)
    world.reconciler.step(world.now)
    assert world.ledger.tally().doubtful == 2
    world.pass_time(170)
    world.reconciler.step(world.now)
    assert world.ledger.tally().doubtful == 0


def test_a_batch_whose_files_all_vanished_does_not_end_an_outage(world: World) -> None:
    """Another thread met a dead server; a batch of which nothing is left to send tells nothing to the contrary."""
    world.stage(upload=1, batch_files=1)
    world.put("good/1.jpg", "good/2.jpg")
    world.uploader.step(world.now)
    world.pass_time(11)
    world.platform.fail_next("upload", Transient("no answer"))
    lstat = os.lstat

    def vanish(path, **more):
        world.uploader.backoff.failed(Transient("no answer"))
        os.unlink(path)
        return lstat(path, **more)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("image_sync.upload.os.lstat", vanish)
        world.uploader.step(world.now)

    assert world.uploader.backoff.remaining() > 0
    assert world.ledger.troubles()[0].what == "no answer"
    assert world.ledger.tally().sending == 0


def test_a_lost_answer_leads_to_a_question_not_to_a_second_upload(world: World) -> None:
    """Everything was stored, the answer was lost: it is found and confirmed at the next look."""
    world.put("good/1.jpg", "good/2.jpg")
    world.platform.fail_next("upload", Ambiguous("the connection broke"), after=True)
    world.work(40)

    assert world.platform.calls["upload"] == 1
    assert len(world.stored()) == 2
    assert world.ledger.tally().confirmed == 2


def test_what_did_not_arrive_is_sent_again_only_after_the_grace_time(world: World) -> None:
    """Half of a batch arrived: absence is believed after `upload.grace`, then exactly the rest is sent."""
    world.stage(upload=2, grace=180)
    world.put("good/1.jpg", "good/2.jpg", "good/3.jpg")
    world.platform.fail_next("upload", Ambiguous("the connection broke"), after=True, applied=1)
    world.work(60)
    assert world.platform.calls["upload"] == 1
    assert world.ledger.tally().doubtful == 3
    world.pass_time(180)
    world.work()

    assert world.platform.calls["upload"] == 2
    assert len(world.stored()) == 3
    assert len(set(world.stored())) == 3
    assert world.ledger.tally().confirmed == 3


def test_other_batches_go_on_while_one_is_in_doubt(world: World) -> None:
    """The doubt concerns one batch; new pictures do not wait for it."""
    world.put("good/1.jpg", "good/2.jpg")
    world.platform.fail_next("upload", Ambiguous("the connection broke"), after=True, applied=0)
    world.work()
    world.put("good/3.jpg", "good/4.jpg")
    world.work()

    assert len(world.stored()) == 2
    assert world.ledger.tally().doubtful == 2


def test_a_move_between_categories_is_carried_to_the_platform(world: World) -> None:
    """The stored picture gets its new category; nothing is uploaded again."""
    world.put("good/1.jpg", "good/2.jpg")
    world.work()
    (world.root / "good/1.jpg").unlink()
    world.put("scratch/1.jpg", content="good/1.jpg")
    world.ledger.files.gone(os.fsencode(world.root / "good"), [b"1.jpg"])
    world.work()

    assert sorted(key.split("/")[0] for key in world.stored()) == ["good", "scratch"]
    assert world.platform.calls["upload"] == 1
    assert world.platform.calls["relabel"] == 1


def test_relabelling_a_picture_that_somebody_deleted_there_is_given_up(world: World) -> None:
    """It is not asked for over and over."""
    world.put("good/1.jpg", "good/2.jpg")
    world.work()
    world.put("scratch/1.jpg", content="good/1.jpg")
    world.ledger.files.gone(os.fsencode(world.root / "good"), [b"1.jpg"])
    world.platform.fail_next("relabel", NotFound("no such picture"))
    world.work()

    assert world.ledger.changes.relabels(10) == []


@pytest.mark.parametrize("remove", [True, False])
def test_deletions_reach_the_platform_only_if_configured(world: World, remove: bool) -> None:
    """By default a deleted file stays at the platform; with `deletions: "remove"` it goes after a while."""
    world.stage(upload=2, remove_after=600 if remove else None)
    world.put("good/1.jpg", "good/2.jpg")
    world.work()
    world.ledger.files.gone(os.fsencode(world.root / "good"), [b"1.jpg"])
    world.work()
    assert len(world.stored()) == 2
    world.pass_time(700)
    world.work()

    assert len(world.stored()) == (1 if remove else 2)


def test_a_file_that_vanished_before_it_was_sent_is_let_go(world: World) -> None:
    """The others of its batch are sent."""
    world.put("good/1.jpg", "good/2.jpg", "good/3.jpg")
    (world.root / "good/2.jpg").unlink()
    world.work()

    assert len(world.stored()) == 2
    assert world.state_of("good/2.jpg") == "unknown"
    assert world.ledger.tally().sending == 0


def test_a_file_that_changed_is_never_sent_as_what_it_was(world: World) -> None:
    """The bytes sent are the bytes that were checked; the changed file is looked at anew by the watcher."""
    world.put("good/1.jpg", "good/2.jpg")
    (world.root / "good/1.jpg").write_text("GOOD/1.JPG")  # as long as before
    world.stage(upload=2, grace=0)
    world.work()
    world.work()

    assert [key.split("/")[1][0] for key in world.stored()] == ["2"]
    assert world.state_of("good/1.jpg") == "unknown"


def test_read_verified_refuses_what_is_not_the_checked_file(tmp_path: Path) -> None:
    """Other bytes, a link, a folder or nothing: each raises an error of its kind."""
    picture = tmp_path / "1.jpg"
    picture.write_bytes(b"abc")
    digest = hashlib.sha256(b"abc").hexdigest()
    assert b"".join(read_verified(os.fsencode(picture), 3, digest)) == b"abc"
    (tmp_path / "link.jpg").symlink_to(picture)
    os.mkfifo(tmp_path / "pipe.jpg")

    with pytest.raises(Changed):
        b"".join(read_verified(os.fsencode(picture), 2, digest))
    with pytest.raises(Changed):
        b"".join(read_verified(os.fsencode(picture), 3, "00" * 32))
    with pytest.raises(Changed):
        b"".join(read_verified(os.fsencode(tmp_path / "pipe.jpg"), 3, digest))
    for absent in ("link.jpg", "none.jpg"):
        with pytest.raises(Unreadable):
            b"".join(read_verified(os.fsencode(tmp_path / absent), 3, digest))


def test_a_file_with_the_stamp_that_it_was_hashed_with_is_not_hashed_again(tmp_path: Path) -> None:
    """An unchanged stamp proves the bytes; another one has them hashed; on file systems whose stamps prove nothing, and
    when it changes while it is read, the hash or an error decides."""
    picture = tmp_path / "1.jpg"
    picture.write_bytes(b"abc")
    path, found, wrong = os.fsencode(picture), picture.stat(), "00" * 32
    stamp = Stamp(found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino)

    assert b"".join(read_verified(path, 3, wrong, stamp)) == b"abc"
    for other in (stamp._replace(ctime_ns=1), stamp._replace(mtime_ns=1), stamp._replace(inode=0), None):
        with pytest.raises(Changed):
            b"".join(read_verified(path, 3, wrong, other))
        assert b"".join(read_verified(path, 3, hashlib.sha256(b"abc").hexdigest(), other)) == b"abc"

    picture.write_bytes(b"a" * 600_000)
    found = picture.stat()
    stamp = Stamp(found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino)
    pieces = read_verified(path, 600_000, wrong, stamp)
    next(pieces)
    with picture.open("r+b") as file:
        file.seek(599_999)
        file.write(b"b")
    with pytest.raises(Changed):
        list(pieces)


def test_requests_grow_while_answers_are_quick_and_shrink_on_a_slow_line() -> None:
    """From 100 pictures and 8 MiB up to the limits; after a slow one half of what it held, and up again later."""
    size = RequestSize(500, 32 << 20)
    assert (size.files, size.bytes) == (100, 8 << 20)
    for _ in range(4):
        size.taken(size.files, size.bytes, 0.1)
    assert (size.files, size.bytes) == (500, 32 << 20)

    size.taken(8, 32 << 20, 300.0)
    assert (size.files, size.bytes) == (4, 16 << 20)
    size.taken(4, 15 << 20, 5.0)
    assert (size.files, size.bytes) == (4, 16 << 20)
    size.taken(1, 40 << 20, 60.0)
    assert size.files == 1
    size.taken(1, 20 << 20, 1.0)
    assert (size.files, size.bytes) == (2, 32 << 20)
    assert RequestSize(3, 1000).files == 3


def test_after_stop_nothing_new_is_begun(world: World) -> None:
    """A stage that is told to stop claims no further batch."""
    world.put("good/1.jpg", "good/2.jpg")
    world.stop.set()
    world.work()

    assert world.platform.calls["upload"] == 0
    assert not world.uploader.send()


def test_the_pool_sends_what_the_first_thread_cleared(world: World) -> None:
    """Other threads only send, and rest when there is nothing."""
    world.stage(upload=1, batch_files=1)
    assert world.uploader.help(world.now) > 0
    world.put("good/1.jpg", "good/2.jpg", "good/3.jpg")
    world.uploader.step(world.now)
    world.pass_time(11)
    world.uploader.step(world.now)
    assert world.uploader.help(world.now) == 0

    assert len(world.stored()) == 3
    assert world.uploader.help(world.now) > 0
