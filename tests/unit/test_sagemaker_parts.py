"""The small parts of the SageMaker adapter: names, keys, sides, lists, figures, policies."""

from __future__ import annotations

import ast
import hashlib
import io
import re
from dataclasses import asdict
from pathlib import Path
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from image_sync.config.sagemaker import SageMaker, gpus_of
from image_sync.domain import Annotation, Box
from image_sync.errors import NotFound, Refused
from image_sync.platforms.sagemaker import api as api_module
from image_sync.platforms.sagemaker import color
from image_sync.platforms.sagemaker.access import policies
from image_sync.platforms.sagemaker.keys import (
    Layout,
    attempt_of,
    endpoint_of,
    id_of,
    is_converted,
    is_name,
    is_of,
    job_of,
    key_of,
    mark_of,
    parts_of,
    root_of,
    side_of,
    slug_of,
    stored_name,
)
from image_sync.platforms.sagemaker.lists import detection_json, usable, wanted
from image_sync.platforms.sagemaker.request import Snapshot, hyperparameters, image_of, width_of
from image_sync.platforms.sagemaker.trainings import Blame, blame_of
from support.pictures import drawn, encoded

SHA = st.binary(max_size=8).map(lambda raw: hashlib.sha256(raw).hexdigest())
NAMES = st.text(min_size=1, max_size=60).filter(lambda text: "\0" not in text and text.isprintable())
SETUP = SageMaker(region="eu-central-1", role="arn:aws:iam::123456789012:role/r", bucket="b-1")
BLANK = Snapshot("m", "d", detection=False, classes=("a", "b"), samples=100, validating=30)


@given(NAMES, st.sampled_from(["jpg", "png"]), SHA, st.booleans())
def test_every_key_survives_its_way_through_the_bucket(stem: str, suffix: str, sha256: str, converted: bool) -> None:
    """The object's name is plain ASCII with the right ending, and leads back to the key and its content."""
    for key in (f"{stem}.{suffix}", f"{stem}.jpeg", f"x.{sha256[:16]}.{suffix}", stem):
        name = stored_name(key, suffix, sha256, converted=converted)
        assert name.isascii()
        assert name.endswith(f".{suffix}")
        assert not re.search(r"[\s/]", name)
        assert key_of(name) == key
        assert is_of(name, key, sha256)
        assert is_converted(name) == converted
        assert name.startswith(quote(key, safe=""))


def test_names_tell_contents_apart_where_keys_do_not() -> None:
    """A plain name carries part of the hash; another content under it is another object."""
    one, two = "ab" * 32, "cd" * 32

    assert stored_name("1.jpg", "jpg", one) != stored_name("1.jpg", "jpg", two)
    assert not is_of(stored_name("1.jpg", "jpg", one), "1.jpg", two)
    assert stored_name(f"p.{one[:16]}.jpg", "jpg", one) == f"p.{one[:16]}.jpg"


@given(st.lists(SHA, min_size=1, max_size=20), st.floats(0.01, 0.99))
def test_a_side_depends_on_the_content_alone(digests: list[str], split: float) -> None:
    """A picture that is trained on stays so when the share grows."""
    for digest in digests:
        assert side_of(digest, split) == side_of(digest, split)
        if side_of(digest, split) == "train":
            assert side_of(digest, min(0.99, split + 0.1)) == "train"


def test_the_split_is_kept_to() -> None:
    """Of many pictures about the configured share is trained on."""
    digests = [hashlib.sha256(str(number).encode()).hexdigest() for number in range(2000)]

    assert 1540 < sum(side_of(digest, 0.8) == "train" for digest in digests) < 1660


@given(NAMES)
def test_names_of_jobs_are_legal_and_their_own(name: str) -> None:
    """Whatever a model is called: letters, digits and hyphens, short enough for attempts and configurations."""
    mark = mark_of("s3://b/p", "d")
    job = job_of(name, mark)

    assert is_name(job)
    assert len(job) <= 56
    assert is_name(f"{job}-0123ab")
    assert job_of(f"{name}!", mark) != job != job_of(name, mark_of("s3://b/p", "e"))
    for number in range(3):
        assert is_name(attempt_of(job, number))
        assert root_of(attempt_of(job, number)) == job
    assert is_name(endpoint_of(id_of(name), mark))


@pytest.mark.parametrize("text", ["", "a_b", "-a", "a-", "a.b", "x" * 64, "a b", "../../evil", "a\n"])
def test_names_that_sagemaker_refuses_are_never_sent(text: str) -> None:
    """boto3 lets them through; we do not."""
    assert not is_name(text)


@given(NAMES)
def test_ids_are_fit_for_keys(name: str) -> None:
    """A dataset or category of any name has an id of small letters, digits and hyphens."""
    assert re.fullmatch(r"[a-z0-9][a-z0-9-]{0,63}", id_of(name))
    assert id_of("Größe") == id_of("Gro\u0308ße".replace("o\u0308", "ö"))
    assert slug_of("  ") == ""


@pytest.mark.parametrize("evil", ["../x", "train/../x/y.jpg", "train/a/b/c.jpg", "other/a/b.jpg", "train/A/b.jpg", ""])
def test_ids_from_outside_lead_nowhere(evil: str) -> None:
    """What cannot be a picture's id is not found, and never becomes a key."""
    with pytest.raises(NotFound):
        Layout("p", "d").picture(evil)
    with pytest.raises(NotFound):
        Layout("p", "../d")
    assert parts_of("train/a/b.jpg") == ("train", "a", "b.jpg")


def test_a_key_that_is_too_long_is_refused() -> None:
    """S3 takes 1024 bytes."""
    with pytest.raises(Refused):
        Layout("p", "d").picture(f"train/a/{'x' * 1020}.jpg")


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


@pytest.mark.parametrize(
    ("machine", "gpus"),
    [("ml.p3.16xlarge", 8), ("ml.p2.16xlarge", 16), ("ml.g4dn.12xlarge", 4), ("ml.g5.xlarge", 1), ("ml.x9.new", 1)],
)
def test_a_batch_is_shared_by_the_gpus(machine: str, gpus: int) -> None:
    """It is a multiple of their number and no more than there are pictures on either side."""
    assert gpus_of(machine) == gpus
    batch = int(hyperparameters(BLANK, machine, 1)["mini_batch_size"])
    assert batch % gpus == 0
    assert batch <= 30


def test_figures_follow_from_the_pictures() -> None:
    """Batch, epochs, label width and resize are computed; too few pictures for the machine are refused."""
    few = Snapshot("m", "d", detection=False, classes=("a", "b"), samples=9, validating=3, max_iter=30)
    values = hyperparameters(few, "ml.g4dn.xlarge", 1)
    assert (values["mini_batch_size"], values["epochs"], values["resize"]) == ("3", "10", "256")
    with pytest.raises(Refused, match="8 GPUs"):
        hyperparameters(few, "ml.p3.16xlarge", 1)
    shape = {"image_shape": "3,28,28", "use_pretrained_model": "0"}
    small = Snapshot("m", "d", detection=False, classes=("a", "b"), samples=9, validating=3, values=shape)
    assert hyperparameters(small, "ml.g4dn.xlarge", 1)["resize"] == "28"
    narrow = Snapshot(
        "m", "d", detection=True, classes=("a",), samples=9, validating=3, objects=100, values={"label_width": "360"}
    )
    assert hyperparameters(narrow, "ml.g4dn.xlarge", 1)["label_width"] == "580"


def test_a_snapshot_survives_storage() -> None:
    """What was written is what is read; something else is refused."""
    assert Snapshot.of(asdict(BLANK)) == BLANK
    with pytest.raises(Refused):
        Snapshot.of({"name": "m"})


def test_blame() -> None:
    """Capacity anywhere in the text; AWS's own trouble and the algorithm's by how it begins; the rest is ours."""
    assert blame_of("ClientError: x") is Blame.OURS
    assert blame_of("AlgorithmError: x") is Blame.ALGORITHM
    assert blame_of("InternalServerError: x") is Blame.AWS
    assert blame_of("Job failed: CapacityError: x") is Blame.CAPACITY
    assert blame_of("") is Blame.OURS


def test_containers() -> None:
    """Every documented region has an account of twelve digits; others say what to do."""
    assert image_of("us-west-2", detection=True) == "433757028032.dkr.ecr.us-west-2.amazonaws.com/object-detection:1"
    assert image_of("us-isob-east-1", detection=False).split("/")[0].endswith("sc2s.sgov.gov")
    with pytest.raises(Refused, match="mx-central-1"):
        image_of("mx-central-1", detection=False)


def test_boto3_is_imported_late() -> None:
    """Only when the first client is made; that it has one home is an import contract."""
    tree = ast.parse(Path(api_module.__file__).read_text(encoding="utf-8"))
    at_once = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
    assert not any("boto" in ast.dump(node) for node in at_once)


def test_the_policy_allows_every_call_that_is_made() -> None:
    """Each operation that the code names is covered by an action; nothing is allowed on everything without need."""
    folder = Path(api_module.__file__).parent
    source = "".join(path.read_text(encoding="utf-8") for path in folder.glob("*.py"))
    service = r'(?:"(?:s3|sagemaker|runtime|iam|servicequotas|logs)",\s*|self\._make\()'
    operations = set(re.findall(rf'{service}"([a-z_0-9]+)"', source))
    assert len(operations) > 25
    statements = policies(SETUP)["caller"]["Statement"]
    allowed = {action.partition(":")[2] for statement in statements for action in statement["Action"]}
    by_action = {
        "head_bucket": "ListBucket",
        "list_objects_v2": "ListBucket",
        "head_object": "GetObject",
        "copy_object": "GetObject",
        "delete_objects": "DeleteObject",
        "create_multipart_upload": "PutObject",
        "upload_part": "PutObject",
        "complete_multipart_upload": "PutObject",
    }
    for operation in operations:
        action = by_action.get(operation, "".join(word.capitalize() for word in operation.split("_")))
        assert action in allowed, operation
    everywhere = {statement["Sid"] for statement in statements if statement["Resource"] == "*"}
    assert everywhere == {"Listing", "CheckingTheQuotas"}


def test_policies_follow_the_settings() -> None:
    """Keys, network and partition stand in the policies when they are configured."""
    china = SageMaker(
        region="cn-north-1",
        role="arn:aws-cn:iam::123456789012:role/r",
        bucket="b-1",
        kms_key="k-1",
        subnets=("subnet-1",),
        security_groups=("sg-1",),
    )
    found = policies(china)

    assert "arn:aws-cn:kms:cn-north-1:123456789012:key/k-1" in str(found["caller"])
    assert "ec2:CreateNetworkInterface" in str(found["role"])
    assert found["trust"]["Statement"][0]["Principal"] == {"Service": "sagemaker.amazonaws.com"}


@pytest.mark.parametrize(
    ("key", "home"),
    [
        ("alias/pictures", "arn:aws:kms:eu-central-1:123456789012:key/*"),
        ("arn:aws:kms:eu-west-1:999999999999:alias/pictures", "arn:aws:kms:eu-west-1:999999999999:key/*"),
    ],
)
def test_an_alias_is_allowed_by_the_keys_that_have_it(key: str, home: str) -> None:
    """A policy on an alias allows nothing: AWS matches the key's own ARN, and its aliases by a condition."""
    setup = SageMaker(
        region="eu-central-1",
        role=SETUP.role,
        bucket="b-1",
        instance_types=("ml.p3.2xlarge",),
        kms_key=key,
        volume_kms_key="k-2",
    )
    keys = {one["Sid"]: one for one in policies(setup)["role"]["Statement"] if one["Sid"].startswith("Keys")}

    assert keys["KeysByAlias"]["Resource"] == home
    assert keys["KeysByAlias"]["Condition"] == {"ForAnyValue:StringEquals": {"kms:ResourceAliases": ["alias/pictures"]}}
    assert keys["Keys"]["Resource"] == "arn:aws:kms:eu-central-1:123456789012:key/k-2"
    assert "Condition" not in keys["Keys"]


@given(st.integers(2, 400), st.floats(0.05, 0.95), st.data())
def test_each_stratum_has_its_share_on_either_side(pictures: int, split: float, data: st.DataObject) -> None:
    """At least one of two or more validates and is trained on; the share is kept to, give or take a quarter."""
    found = wanted(pictures, data.draw(st.integers(0, pictures)), split)

    share = pictures * (1 - split)
    assert 1 <= found <= pictures - 1
    assert abs(found - min(max(share, 1), pictures - 1)) <= max(1, 0.25 * share) + 1e-6


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "CMYK", "1", "RGB"])
def test_pictures_for_an_endpoint(mode: str) -> None:
    """They arrive as RGB, small enough, with the content type that they have."""
    kind = "JPEG" if mode in {"L", "CMYK", "RGB"} else "PNG"
    content, content_type = color.fitting(encoded(drawn(40, 30).convert(mode), kind), 10**6)

    assert Image.open(io.BytesIO(content)).mode == "RGB"
    assert content_type == "image/jpeg"


def test_a_picture_that_breaks_off_is_refused() -> None:
    """Its header is sound, its content cannot be decoded."""
    whole = encoded(drawn(200, 200, mode="L"), "JPEG")

    with pytest.raises(Refused, match="cannot be decoded"):
        color.fitting(whole[: len(whole) // 2], 10**6)
    with pytest.raises(Refused):
        color.size_of(b"x")
