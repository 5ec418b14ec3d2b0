"""What a training is started with: pixels, strata, and whose fault it was when it failed."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from image_sync.domain import Annotation, Box
from image_sync.platforms.sagemaker.lists import detection_json, usable, wanted
from image_sync.platforms.sagemaker.request import width_of
from image_sync.platforms.sagemaker.trainings import Blame, blame_of


def test_boxes_become_pixels() -> None:
    """Fractions widen the box, corners are put in order, what lies outside is cut off or left out; the residue of
    relative coordinates adds no pixel, and the thinnest object has one."""
    annotation = Annotation(
        100,
        50,
        (
            Box("a", 1.5, 2.5, 10.2, 20.1),
            Box("b", 30.0, 40.0, 20.0, 10.0),
            Box("a", 90.0, 40.0, 130.0, 70.0),
            Box("c", 200.0, 10.0, 210.0, 20.0),
            Box("b", 9.9999, 20.0004, 30.0004, 39.9999),
            Box("b", 99.996, 9.998, 100.0, 10.001),
        ),
    )

    found = detection_json("x/y.jpg", annotation, {"a": 0, "b": 1})

    assert found["file"] == "x/y.jpg"
    assert found["image_size"] == [{"width": 100, "height": 50, "depth": 3}]
    assert [tuple(one.values()) for one in found["annotations"]] == [
        (0, 1, 2, 10, 19),
        (1, 20, 10, 10, 30),
        (0, 90, 40, 10, 10),
        (1, 10, 20, 20, 20),
        (1, 99, 9, 1, 2),
    ]
    assert found["categories"] == [{"class_id": 0, "name": "a"}, {"class_id": 1, "name": "b"}]
    assert len(usable(annotation)) == 5
    assert (width_of(0), width_of(69), width_of(70), width_of(400)) == (350, 400, 410, 2310)


def test_blame() -> None:
    """Capacity anywhere in the text; AWS's own trouble and the algorithm's by how it begins; the rest is ours."""
    assert blame_of("ClientError: x") is Blame.OURS
    assert blame_of("AlgorithmError: x") is Blame.ALGORITHM
    assert blame_of("InternalServerError: x") is Blame.AWS
    assert blame_of("Job failed: CapacityError: x") is Blame.CAPACITY
    assert blame_of("") is Blame.OURS


@given(st.integers(2, 400), st.floats(0.05, 0.95), st.data())
def test_each_stratum_has_its_share_on_either_side(pictures: int, split: float, data: st.DataObject) -> None:
    """At least one of two or more validates and is trained on; the share is kept to, give or take a quarter."""
    found = wanted(pictures, data.draw(st.integers(0, pictures)), split)

    share = pictures * (1 - split)
    assert 1 <= found <= pictures - 1
    assert abs(found - min(max(share, 1), pictures - 1)) <= max(1, 0.25 * share) + 1e-6
