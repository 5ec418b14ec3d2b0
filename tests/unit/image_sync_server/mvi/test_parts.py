"""The small parts of the embedded server, each by itself."""

from __future__ import annotations

import contextlib
import io
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from starlette.routing import Match, Route

from image_sync_server.faults import Action, Fault, Faults
from image_sync_server.learn.learner import Point
from image_sync_server.mvi.jobs import Curve
from image_sync_server.mvi.pictures import NotAPicture, examine, shown_name
from image_sync_server.mvi.query import file_filter, file_order
from image_sync_server.mvi.request import Failure, ordered, page
from image_sync_server.mvi.server import CALLS, MviServer, inside
from support.mvi_server import Caller, picture, serving

PIXELS = 50_000_000


@pytest.fixture(name="server")
def _server(tmp_path: Path) -> Iterator[MviServer]:
    with serving(tmp_path) as server:
        yield server


def encoded(mode: str, kind: str, **options: Any) -> bytes:
    raw = io.BytesIO()
    Image.linear_gradient("L").resize((40, 30)).convert(mode).save(raw, kind, **options)
    return raw.getvalue()


@pytest.mark.parametrize(
    ("raw", "suffix"),
    [
        (encoded("RGB", "JPEG"), "jpg"),
        (encoded("RGB", "JPEG", progressive=True), "jpg"),
        (encoded("CMYK", "JPEG"), "jpg"),
        (encoded("L", "JPEG", exif=b"Exif\0\0" + b"x" * 5000), "jpg"),
        (encoded("RGB", "JPEG", restart_marker_blocks=1), "jpg"),
        (encoded("RGB", "JPEG") + b"PK\x03\x04 and more", "jpg"),
        (encoded("P", "PNG", bits=2), "png"),
        (encoded("I;16", "PNG"), "png"),
        (encoded("RGBA", "PNG"), "png"),
        (encoded("1", "PNG") + b"trailer", "png"),
    ],
)
def test_every_common_kind_of_picture_is_taken(raw, suffix):
    """Progressive, CMYK, palette, 16 bit and trailing bytes all pass, with the right size."""
    found = examine(raw, PIXELS)
    assert (found.suffix, found.width, found.height) == (suffix, 40, 30)


@pytest.mark.parametrize("kind", ["jpg", "png"])
def test_no_prefix_of_a_picture_passes_as_whole(kind):
    """Cut anywhere before its end a picture is refused; a JPEG's embedded thumbnail does not fool the check."""
    thumbnail = encoded("RGB", "JPEG")
    raw = encoded("RGB", "JPEG", exif=b"Exif\0\0" + thumbnail) if kind == "jpg" else encoded("RGB", "PNG")
    for length in range(len(raw) - 1):
        with pytest.raises(NotAPicture):
            examine(raw[:length], PIXELS)


@given(st.binary(max_size=300), st.sampled_from([b"", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", picture("dark", 1)[:300]]))
def test_noise_is_refused_and_nothing_worse(noise, start):
    """Whatever the bytes, the answer is a picture or a reason, never another error."""
    with contextlib.suppress(NotAPicture):
        assert examine(start + noise, PIXELS).width > 0


def test_the_pixel_limit_is_exact():
    """As many pixels as allowed pass, one more does not."""
    raw = encoded("L", "PNG")
    assert examine(raw, 1200).width == 40
    with pytest.raises(NotAPicture, match="40 x 30"):
        examine(raw, 1199)


@given(st.text(max_size=60))
def test_any_query_text_is_sql_or_a_bad_request(text):
    """No text makes SQL that the database refuses, or that reaches beyond its condition."""
    with contextlib.suppress(Failure), contextlib.closing(sqlite3.connect(":memory:")) as database:
        condition, values = file_filter(text)
        assert condition.count("?") == len(values)
        database.execute("CREATE TABLE f (id, original_file_name, user_metadata)")
        database.execute(f"SELECT 1 FROM f, (SELECT 1 AS name) c WHERE {condition}", values)


@given(st.text(max_size=20))
def test_any_metadata_value_can_be_asked_for(value):
    """A quoted value with its quotes escaped reaches the database as it is."""
    quoted = value.replace("\\", "\\\\").replace('"', '\\"')
    _, values = file_filter(f'user_metadata.key == "{quoted}"')
    assert values == ["key", value]


def test_a_plain_name_search_can_use_the_index():
    """The name is compared as it is stored: a cast would make a look at every row of it."""
    assert file_filter('original_file_name == "a"')[0] == "f.original_file_name IS CAST(? AS TEXT)"


def test_orders_and_pages():
    """A sortby becomes SQL of known columns only; pages are whole numbers."""
    assert file_order("") == file_order("nonsense; DROP") == "f.seq DESC"
    assert file_order("name DESC,size") == "f.original_file_name DESC, f.size ASC, f.seq DESC"
    items: list[dict[str, Any]] = [{"n": 2, "s": "x"}, {"n": 1, "s": None}, {"n": 1, "s": "a"}]
    assert [one["s"] for one in ordered(items, "n,s")] == [None, "a", "x"]
    assert page({"limit": " 5 ", "skip": ""}) == (5, 0)
    for bad in ("-1", "1.5", "x", "٣", "1" * 20):
        with pytest.raises(Failure):
            page({"limit": bad})


def test_a_long_curve_is_thinned_and_keeps_its_ends():
    """A thousand points become a bounded series that begins at the first and ends at the last."""
    curve = Curve(50)
    for at in range(1, 1001):
        curve.add(Point(at, 1000, 1 / at, None, None, 5.4))
    shown = curve.as_json()
    assert 25 <= len(shown) <= 51
    assert (shown[0]["iter"], shown[-1]["iter"], shown[-1]["progress"]) == ("1", "1000", "1.0000")
    steps = [int(one["iter"]) for one in shown]
    assert steps == sorted(set(steps))


def test_a_test_point_has_a_second_message():
    """Only points with a test loss carry a test_msg, with the accuracy as a string."""
    curve = Curve(10)
    curve.add(Point(20, 100, 0.5, 0.6, 0.75, 12.6))
    train, test = curve.as_json()
    assert (train["type"], train["remain_time"], train["remaining_time"]) == ("train_msg", "13", "13")
    assert (test["type"], test["loss"], test["accuracy"]) == ("test_msg", "0.6", "0.7500")


def test_faults_hit_by_method_path_count_and_luck():
    """The first match counts, counts run out, and a share of the requests is about that share."""
    faults = Faults(seed=1)
    faults.add(Fault(Action.RESET, method="post", path="/files$", count=2), Fault(Action.EMPTY, path="^/datasets"))
    assert faults.pick("GET", "/system") is None
    hits = [faults.pick("POST", "/datasets/1/files") for _ in range(4)]
    assert [hit.action if hit else None for hit in hits] == [Action.RESET, Action.RESET, Action.EMPTY, None]
    faults.add(Fault(Action.RESET, count=None, probability=0.3))
    share = sum(faults.pick("GET", "/x") is not None for _ in range(1000)) / 1000
    assert 0.25 < share < 0.35
    faults.clear()
    assert faults.as_json() == []


def test_routes_prefer_names_over_placeholders(server):
    """files/action and its like are calls of their own, not files of that name; a wrong method is told which to use."""
    routed = [
        Route(path, handler, methods=[method])
        for path, handlers in CALLS.items()
        for method, handler in handlers.items()
    ]
    for method, path, name in (
        ("POST", "/datasets/1/files/action", "act_on_many"),
        ("GET", "/datasets/1/files/user-keys", "list_keys"),
        ("GET", "/datasets/1/files/user-metadata", "export"),
        ("POST", "/datasets/action", "act_on_many"),
        ("GET", "/datasets/1/files/2", "show"),
        ("HEAD", "/datasets/1/files/2", "show"),
    ):
        scope = {"type": "http", "method": method, "path": path}
        found = next(route for route in routed if route.matches(scope)[0] is Match.FULL)
        assert found.endpoint.__name__ == name
    answer = Caller(server.url).call("PUT", "/datasets")
    assert (answer.status_code, answer.headers["allow"]) == (405, "GET, POST")
    assert answer.json()["fault"] == "/datasets takes GET, POST, not PUT."


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/api/datasets/", "/datasets"),
        ("/x/y/api//datasets", "/datasets"),
        ("/api", "/"),
        ("/api/api/datasets", "/api/datasets"),
        ("/v/uploads/a", "/uploads/a"),
        ("/_faults", "/_faults"),
        ("/datasets", ""),
        ("/", ""),
    ],
)
def test_the_context_root_is_stripped_up_to_the_first_api(path, expected):
    """Any root, both slash forms; what is neither below api nor an upload leads nowhere."""
    assert inside(path) == expected


@given(st.text())
def test_a_shown_name_is_never_a_path(name):
    """Whatever a client calls its file, the name has no separators, no control characters, and an end."""
    shown = shown_name(name, 255)
    assert shown
    assert not set(shown) & set("/\\\0\n")
    assert len(shown) <= 255
