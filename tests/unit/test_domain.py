"""The one spelling of an annotation that is kept and compared."""

from __future__ import annotations

import pytest

from image_sync.domain import Annotation, Box

A = Box("a", 1.0, 2.0, 3.5, 4.0)
B = Box("b", 1.0, 2.0, 3.0, 4.0, ((1.0, 2.0), (3.0, 2.0), (3.0, 4.0)), difficult=True)


def test_the_text_stays_what_it_is() -> None:
    """A ledger holds it for years: another spelling would send every annotation again."""
    assert Annotation(40, 30, (B, A)).to_text() == (
        '{"boxes":[{"box":[1.0,2.0,3.5,4.0],"label":"a"},{"box":[1.0,2.0,3.0,4.0],"difficult":true,"label":"b",'
        '"polygon":[[1.0,2.0],[3.0,2.0],[3.0,4.0]]}],"height":30,"v":1,"width":40}'
    )


def test_the_order_and_what_rounding_moves_make_no_difference() -> None:
    """Objects in another order, whole numbers of another type and ten-thousandths of a pixel."""
    moved = Box("a", 1, 2.0002, 3.5, 3.9999)

    assert Annotation(40, 30, (A, B)).to_text() == Annotation(40, 30, (B, moved)).to_text()


@pytest.mark.parametrize(
    "other",
    [
        Annotation(41, 30, (A,)),
        Annotation(40, 30),
        Annotation(40, 30, (A, A)),
        Annotation(40, 30, (Box("A", 1.0, 2.0, 3.5, 4.0),)),
        Annotation(40, 30, (Box("a", 1.0, 2.0, 3.5, 4.01),)),
        Annotation(40, 30, (Box("a", 1.0, 2.0, 3.5, 4.0, difficult=True),)),
        Annotation(40, 30, (Box("a", 1.0, 2.0, 3.5, 4.0, B.polygon),)),
    ],
)
def test_everything_else_makes_a_difference(other: Annotation) -> None:
    """Size, number of objects, label, coordinates, outline and mark are all part of it."""
    assert other.to_text() != Annotation(40, 30, (A,)).to_text()


def test_zero_has_no_sign() -> None:
    """Minus zero is where zero is."""
    box = Annotation.from_text(Annotation(40, 30, (Box("a", -0.0, -0.0001, 1.0, 1.0),)).to_text()).boxes[0]

    assert str((box.left, box.top)) == "(0.0, 0.0)"


@pytest.mark.parametrize(
    "text",
    [
        *("", "{}", "[]", "null", '{"v":2}', '{"v":1}', "[" * 100_000),
        '{"v":1,"width":1,"height":1,"boxes":[1]}',
        '{"v":1,"width":1,"height":1,"boxes":[{"label":"a","box":[1]}]}',
    ],
)
def test_another_text_is_refused(text: str) -> None:
    """A damaged entry is an error that can be caught, never half an annotation."""
    with pytest.raises(ValueError, match=r".+"):
        Annotation.from_text(text)
