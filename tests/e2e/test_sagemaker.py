"""The real program against AWS as far as we need it: a folder becomes a model that answers, and all is deleted."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from image_sync.domain import TrainingState
from support.commands import one_by_one
from support.daemon import Plant, program
from support.sagemaker import BUCKET, REGION, ROLE, Aws, as_somebody, somebody

ROOT = Path(__file__).parents[2]
IMAGES = ROOT / "images"
PAGE = (ROOT / "docs/sagemaker.md").read_text(encoding="utf-8")


@pytest.fixture
def aws() -> Iterator[Aws]:
    with somebody(), Aws() as running:
        yield running


def plant_on(aws: Aws, folder: Path, **changes: Any) -> Plant:
    """A plant with the pictures of this repository, whose platform is SageMaker."""
    plant = Plant(folder, "http://127.0.0.1:9")
    plant.environ = as_somebody(plant.environ)
    del plant.document["credentials"]
    plant.document["model"]["strategy"] = {"epochs": 3}
    plant.configure(platform="sagemaker", sagemaker=aws.section(), threshold={"training": 40}, **changes)
    for kind in ("good", "scratch", "spot"):
        shutil.copytree(IMAGES / kind, plant.root / kind)
    return plant


def test_a_folder_becomes_a_model_that_answers_and_everything_is_deleted(aws: Aws, tmp_path: Path) -> None:
    """`run --once` uploads and trains to the end; `models` and `predict --deploy` work; then nothing is left but
    pictures."""
    plant = plant_on(aws, tmp_path / "plant")

    done = plant.call("run", "--once")

    assert done.returncode == 0, done.stderr
    (run,) = plant.runs()
    pictures = sum(1 for _ in IMAGES.glob("[!_]*/*.jpg"))
    assert (run.state, run.pictures) == (TrainingState.TRAINED, pictures)
    assert run.accuracy is not None
    stored = [key for key in aws.listed() if "/train/" in key or "/validation/" in key]
    assert len(stored) == pictures
    (body,) = aws.control.made()
    assert body["HyperParameters"]["num_classes"] == "3"
    assert plant.call("run", "--once").returncode == 0
    assert len(aws.control.made()) == 1  # nothing new, nothing done

    picture = next(iter(sorted((IMAGES / "good").glob("*.jpg"))))
    listing, said, exported, *removed = one_by_one(
        plant,
        ("models", "--json"),
        ("predict", str(picture), "--deploy", "--json"),
        ("models", "export", "latest", "--output", f"s3://{BUCKET}/devices/plates.tar.gz"),
        ("models", "undeploy", "latest"),
        ("models", "delete", "latest", "--yes"),
        ("models", "--json"),
    )
    assert [(one["name"], sorted(one["categories"]), one["deployed"]) for one in json.loads(listing.stdout)] == [
        (run.name, ["good", "scratch", "spot"], False)
    ]
    (answer,) = json.loads(said.stdout)
    assert answer["model"] == run.name
    assert {one["category"] for one in answer["predictions"]} == {"good", "scratch", "spot"}
    assert sum(one["confidence"] for one in answer["predictions"]) == pytest.approx(1)
    assert f"s3://{BUCKET}/devices/plates.tar.gz." in exported.stdout, exported.stderr
    assert json.loads(aws.content("devices/plates.tar.gz.json"))["model"] == run.name
    assert [done.returncode for done in removed] == [0, 0, 0], [done.stderr for done in removed]
    assert json.loads(removed[-1].stdout) == []
    control = aws.control
    assert (control.jobs, control.models, control.configs, control.endpoints) == ({}, {}, {}, {})
    left = {key for key in aws.listed("image-sync/") if key not in stored}
    assert {key.rpartition("/")[2] for key in left} == {"dataset.json", "classes.json"}


def test_check_proves_access_step_by_step(aws: Aws, tmp_path: Path) -> None:
    """Who we are, bucket, SageMaker, role and quotas are told in order; the rights can be printed; nothing is made."""
    aws.make_role()
    aws.quotas = {"ml.g4dn.xlarge for training job usage": 0.0, "ml.m5.large for endpoint usage": 4.0}
    plant = plant_on(aws, tmp_path / "plant")

    done = plant.call("check")

    subjects = re.findall(r"^(?:ok|note|FAIL) +(\S+)", done.stdout, re.MULTILINE)
    assert done.returncode == 0, done.stdout + done.stderr
    wanted = ["aws", "bucket", "sagemaker", "container", "role", "quota", "quota", "server", "dataset"]
    assert [one for one in subjects if one in wanted] == wanted
    assert "ml.g4dn.xlarge for training job usage: 0, but 1 needed" in done.stdout
    assert "ml.m5.large for endpoint usage: 4" in done.stdout
    assert "max_iter" not in done.stdout
    assert "then start a training" in done.stdout
    assert aws.listed() == []
    rights = json.loads(plant.call("check", "--policy").stdout)
    assert set(rights) == {"caller", "role", "trust"}
    assert f"arn:aws:s3:::{BUCKET}/image-sync/*" in json.dumps(rights)


def test_check_tells_what_is_wrong_and_what_to_do(aws: Aws, tmp_path: Path) -> None:
    """A role that is not there, a bucket that is not there or elsewhere, no credentials: each with its remedy."""
    plant = plant_on(aws, tmp_path / "plant", model={"strategy": {"max_iter": 500, "test_iter": 20}})

    no_role = plant.call("check")
    assert no_role.returncode == 77
    assert "there is no role image-sync-training" in no_role.stdout
    assert "iam:PassRole" in no_role.stdout
    assert "/image-classification:1" in no_role.stdout
    assert "becomes epochs = max_iter x mini_batch_size" in no_role.stdout
    assert "test_iter: is not used" in no_role.stdout
    plant.configure(model={"nn_arch": "ssd", "strategy": {}})
    assert "/object-detection:1" in plant.call("check").stdout
    plant.configure(sagemaker={"bucket": "nobody-made-this"})
    no_bucket = plant.call("check")
    assert no_bucket.returncode != 0
    assert "there is no bucket nobody-made-this" in no_bucket.stdout
    assert "aws s3 mb s3://nobody-made-this" in no_bucket.stdout
    plant.configure(sagemaker={"bucket": BUCKET, "region": "eu-central-1"})
    elsewhere = plant.call("check")
    assert elsewhere.returncode == 78
    assert f"{BUCKET} lies in {REGION}" in elsewhere.stdout
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        del plant.environ[name]
    stranger = plant.call("check")
    assert stranger.returncode == 77
    assert "Unable to locate credentials" in stranger.stdout
    assert "aws sso login" in stranger.stdout
    assert "These rights are needed" not in stranger.stdout  # it is not rights that are missing


def test_without_boto3_a_person_is_told_what_to_install(aws: Aws, tmp_path: Path) -> None:
    """The extra is named; exit code 78; no traceback."""
    plant = plant_on(aws, tmp_path / "plant")
    code = "import sys; sys.modules['boto3'] = None\nfrom image_sync.cli.main import run\nrun()"

    done = subprocess.run(
        [sys.executable, "-c", code, "run", "--once", "-c", str(plant.config)],
        capture_output=True,
        text=True,
        check=False,
        env=plant.environ,
        timeout=60,
    )

    assert done.returncode == 78
    assert "pip install 'image-sync[sagemaker]'" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("command", ["import image_sync.platforms.registry", "import image_sync.daemon.daemon"])
def test_boto3_is_loaded_only_when_it_is_asked_for(command: str) -> None:
    """Neither the registry nor the daemon imports it."""
    code = f"{command}; import sys; print([name for name in ('boto3', 'botocore') if name in sys.modules])"

    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert told.stdout.strip() == "[]"


def test_status_needs_neither_boto3_nor_aws(aws: Aws, tmp_path: Path) -> None:
    """The counts are the ledger's: `status` works without a network, and loads nothing of Amazon's."""
    plant = plant_on(aws, tmp_path / "plant")
    code = (
        "import sys\nfrom image_sync.cli.main import run\n"
        "try:\n    run()\nfinally:\n    print('boto3' in sys.modules, file=sys.stderr)"
    )

    done = subprocess.run(
        [sys.executable, "-c", code, "status", "--json", "-c", str(plant.config)],
        capture_output=True,
        text=True,
        check=False,
        env=plant.environ,
        timeout=60,
    )

    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["endpoint"] == f"s3://{BUCKET}/image-sync"
    assert done.stderr.split()[-1] == "False"
    assert aws.seen == []
    assert ROLE.startswith("arn:aws:iam::")


def block(name: str) -> str:
    """What stands between the markers of this name on the page, without indentation and fences."""
    found = re.search(rf"<!-- {name} -->\n\s*```\w+\n(.*?)\n\s*```\n\s*<!-- /{name} -->", PAGE, re.DOTALL)
    assert found is not None, name
    return textwrap.dedent(found[1])


def test_the_page_retargets_the_demo_folder(aws: Aws, tmp_path: Path) -> None:
    """The configuration and the commands of docs/sagemaker.md work as they stand; only AWS's address is added."""
    aws.make_role()
    shutil.copytree(IMAGES, tmp_path / "images")
    document = json.loads(block("sagemaker configuration"))
    document["sagemaker"]["endpoint_url"] = aws.url
    document |= {"state": str(tmp_path / "state"), "watch": {"settle": 0.2}}
    document["model"]["poll"] = 0.2
    config = tmp_path / "configuration.json"
    config.write_text(json.dumps(document))
    config.chmod(0o600)
    said: dict[str, str] = {}
    for line in block("sagemaker commands").splitlines():
        _, *words = shlex.split(line)
        environ = {**as_somebody(os.environ), "COLUMNS": "160"}
        done = program(*words, environ=environ, folder=tmp_path)
        assert done.returncode == 0, (line, done.stdout, done.stderr)
        said.setdefault(words[0], done.stdout)

    assert "then start a training" in said["check"]
    assert {"good", "scratch", "spot"} <= set(re.findall(r"\w+", said["models"]))
    assert re.search(r"plate-0009\.jpg +(good|scratch|spot) +0\.\d", said["predict"])
    (body,) = aws.control.made()
    assert body["HyperParameters"]["num_layers"] == "18"
    assert json.loads((tmp_path / "plates.tar.gz.json").read_text(encoding="utf-8"))["num_layers"] == "18"
    assert aws.control.endpoints == {}


def test_no_token_reaches_the_log(aws: Aws, tmp_path: Path) -> None:
    """Not even at the level debug, at which boto3 tells every header it sends."""
    plant = plant_on(aws, tmp_path / "plant")
    plant.environ["AWS_SESSION_TOKEN"] = "FwoGZXIvYXdzEXAMPLETOKEN"

    done = plant.call("run", "--once", "--log-level", "debug")

    assert done.returncode == 0
    for name in ("AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
        assert plant.environ[name] not in done.stdout + done.stderr
    assert "Authorization" not in done.stderr
