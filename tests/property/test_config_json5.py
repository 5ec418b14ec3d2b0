"""Our reader against the json5 package: the same language, but for the few places where ours is stricter."""

from __future__ import annotations

import json
from typing import Any

import json5
from hypothesis import given, settings
from hypothesis import strategies as st

from image_sync.config.json5 import read

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**40), 10**40)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=12),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4),
    max_leaves=12,
)
SPACE = st.sampled_from(["", " ", "\n", "\t", "/* , } */", '// "x" ]\n', "\u00a0", "\r\n"])


@st.composite
def written_by_hand(draw: st.DrawFn, value: Any = None) -> str:
    """A JSON value in one of the many ways in which JSON5 lets it be written."""

    def write(item: Any) -> str:
        before, after = draw(SPACE), draw(SPACE)
        comma = draw(st.sampled_from(["", ",", " , "]))
        if isinstance(item, dict):
            inner = ",".join(f"{draw(SPACE)}{text(key)}{draw(SPACE)}:{write(each)}" for key, each in item.items())
            return f"{before}{{{inner}{comma if item else ''}}}{after}"
        if isinstance(item, list):
            inner = ",".join(map(write, item))
            return f"{before}[{inner}{comma if item else ''}]{after}"
        return f"{before}{text(item) if isinstance(item, str) else json.dumps(item)}{after}"

    def text(item: str) -> str:
        if item.isascii() and item.isidentifier() and item not in {"True", "False", "None"} and draw(st.booleans()):
            return json.dumps(item)
        quoted = json.dumps(item, ensure_ascii=draw(st.booleans()))
        if draw(st.booleans()):
            return "'" + quoted[1:-1].replace('\\"', '"').replace("'", "\\'") + "'"
        return quoted

    return write(draw(JSON) if value is None else value)


def whole(value: Any) -> Any:
    """The value with the two halves of one character joined, which the package leaves apart."""
    return json.loads(json.dumps(value))


@given(written_by_hand())
@settings(deadline=None)
def test_both_readers_read_the_same(text: str) -> None:
    """Whatever way a value is written in, both readers find the same value."""
    document = read(text)

    assert document.flaws == ()
    assert document.value == whole(json5.loads(text.replace("\r\n", "\n")))


@given(st.text(alphabet="{}[]:,\"'\\/* \n019.eE+-xab", max_size=30))
@settings(deadline=None, max_examples=300)
def test_what_ours_takes_json5_takes_too(text: str) -> None:
    """A text that our reader takes without a fault is JSON5, with the same value."""
    document = read(text)

    if not document.flaws:
        assert document.value == whole(json5.loads(text))
