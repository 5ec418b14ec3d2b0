"""`image-sync init` and `image-sync schema`: what they write, ask, refuse and leave untouched."""

from __future__ import annotations

import json
import os
import pty
import select
import stat
import sys
import termios
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import typer

from image_sync.cli.init import init
from image_sync.cli.schema import schema
from image_sync.config import load
from image_sync.errors import ConfigError, UsageError

SECRET = "S3CRET-canary"
ROLE = "arn:aws:iam::123456789012:role/training"
PROGRAM = """
import typer
from image_sync.cli.init import init
from image_sync.errors import ImageSyncError
app = typer.Typer()
app.command()(init)
try:
    app(standalone_mode=False)
except ImageSyncError as error:
    print(error)
    raise SystemExit(error.exit_code)
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to work in, with a key in a file, and nothing of IBM's or AWS's in the environment."""
    monkeypatch.chdir(tmp_path)
    for name in ("VAPI_BASE_URI", "VAPI_TOKEN", "AWS_REGION", "AWS_DEFAULT_REGION"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("STATE_DIRECTORY", str(tmp_path / "state"))
    key = tmp_path / "key"
    key.write_text(f"{SECRET}\n")
    key.chmod(0o600)
    return tmp_path


def test_options_alone_write_a_configuration(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Where nobody can be asked, options say everything; the file is private, valid, and holds no secret."""
    (here / "images").mkdir()

    init(
        endpoint="https://mvi.example.com/api",
        api_key_file=Path("key"),
        folder=[Path("images"), Path("more")],
        dataset="classifier",
        model="parts",
        upload=3,
        training=12,
        action="retrain",
    )

    written = here / "configuration.json"
    assert stat.S_IMODE(written.stat().st_mode) == 0o600
    assert SECRET not in written.read_text()
    loaded = load(written, os.environ)
    assert loaded.credentials.endpoint == "https://mvi.example.com"
    assert loaded.credentials.api_key
    assert loaded.credentials.api_key.get_secret_value() == SECRET
    assert loaded.folders == (here / "images", here / "more")
    assert (loaded.dataset.name, loaded.model.name, loaded.model.action) == ("classifier", "parts", "retrain")
    assert (loaded.threshold.upload, loaded.threshold.training) == (3, 12)
    output = capsys.readouterr()
    assert output.out == "configuration.json is written. Next: image-sync check -c configuration.json\n"
    assert f"folders[1]: {here}/more does not exist yet" in output.err
    assert sorted(path.name for path in here.iterdir()) == ["configuration.json", "images", "key"]


def test_a_login_and_defaults(here: Path) -> None:
    """A user and a password file make a login; what is left out has its default."""
    init(endpoint="https://x", username="ann", password_file=Path("key"), folder=[Path("i")], dataset="d", yes=True)

    loaded = load(here / "configuration.json", os.environ)
    assert loaded.credentials.username == "ann"
    assert loaded.credentials.password
    assert (loaded.threshold.upload, loaded.threshold.training, loaded.model.action) == (1, 10, "train")


def test_options_for_sagemaker(here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """AWS's options name the platform by themselves; the environment's region is written down; no credentials are."""
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-central-1")
    init(role=ROLE, bucket="acme-vision", profile="plant", folder=[Path("i")], dataset="d")

    document = json.loads((here / "configuration.json").read_text())
    assert document["platform"] == "sagemaker"
    assert document["sagemaker"] == {
        "region": "eu-central-1",
        "role": ROLE,
        "bucket": "acme-vision",
        "profile": "plant",
    }
    assert "credentials" not in document
    monkeypatch.delenv("AWS_DEFAULT_REGION")
    loaded = load(here / "configuration.json", os.environ)
    assert (loaded.platform, loaded.address) == ("sagemaker", "s3://acme-vision/image-sync")
    assert "image-sync check --policy -c configuration.json" in capsys.readouterr().out


def test_sagemaker_without_its_extra_is_told(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The file is written all the same, and what has to be installed is said."""
    monkeypatch.setattr("image_sync.platforms.sagemaker.api.installed", lambda: False)
    init(region="us-east-1", role=ROLE, bucket="acme-vision", folder=[Path("i")], dataset="d")

    assert (here / "configuration.json").exists()
    assert "pip install 'image-sync[sagemaker]'" in capsys.readouterr().err


def test_options_for_mobius(here: Path) -> None:
    """An address is all that a Mobius SDK needs."""
    init(platform="mobius", endpoint="http://mobius:5000/", folder=[Path("i")], dataset="d")

    document = json.loads((here / "configuration.json").read_text())
    assert (document["platform"], document["credentials"]) == ("mobius", {"endpoint": "http://mobius:5000/"})
    assert load(here / "configuration.json", os.environ).credentials.endpoint == "http://mobius:5000"


def test_options_of_another_platform_are_refused(here: Path) -> None:
    """An option that the platform has no use for is a mistake; what is missing depends on the platform."""
    with pytest.raises(UsageError, match="--bucket: cannot be used with the platform mvi"):
        init(platform="mvi", bucket="b")
    with pytest.raises(UsageError, match="--endpoint, --username: cannot be used with the platform sagemaker"):
        init(role=ROLE, endpoint="https://x", username="ann")
    with pytest.raises(UsageError, match="--api-key-file: cannot be used with the platform mobius"):
        init(platform="mobius", api_key_file=Path("key"))
    with pytest.raises(UsageError, match="missing: --region, --role, --bucket, --folder, --dataset"):
        init(platform="sagemaker")
    with pytest.raises(UsageError, match="missing: --endpoint, --folder, --dataset"):
        init(platform="mobius")
    assert not (here / "configuration.json").exists()


def test_missing_options_are_named(here: Path) -> None:
    """All that is missing is named at once."""
    with pytest.raises(UsageError, match="missing: --endpoint, --folder, --dataset, --password-file") as raised:
        init(username="ann")

    assert raised.value.exit_code == 2
    assert not (here / "configuration.json").exists()


def test_contradictions_are_refused(here: Path) -> None:
    """Two ways to sign in, half of one, or a folder that is not there are mistakes of the call."""
    with pytest.raises(UsageError, match="--api-key-file was given together"):
        init(api_key_file=Path("key"), username="ann")
    with pytest.raises(UsageError, match="--password-file was given without"):
        init(password_file=Path("key"))
    with pytest.raises(UsageError, match="There is no folder"):
        init(output=Path("none/configuration.json"))
    with pytest.raises(UsageError, match="cannot be looked at"):
        init(output=Path("x" * 300))


def test_an_existing_file_stays_unless_forced(here: Path) -> None:
    """A configuration is never overwritten by accident; with --force it is, and becomes private."""
    path = here / "configuration.json"
    path.write_text("mine")
    path.chmod(0o644)

    with pytest.raises(UsageError, match="exists already"):
        init(endpoint="https://x", folder=[Path("i")], dataset="d")
    assert path.read_text() == "mine"

    init(endpoint="https://x", folder=[Path("i")], dataset="d", force=True)
    assert json.loads(path.read_text())["dataset"] == {"name": "d"}
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_nothing_is_written_that_cannot_be_used(here: Path) -> None:
    """Wrong options are told like wrong entries of a file, and the old file stays even with --force."""
    path = here / "configuration.json"
    path.write_text("mine")

    with pytest.raises(ConfigError) as raised:
        init(endpoint="mvi", folder=[Path("/etc")], dataset=" d", upload=0, action="x", force=True)

    assert [line.split(": ")[1] for line in raised.value.what.splitlines()] == [
        "credentials.endpoint",
        "threshold.upload",
        "dataset.name",
        "model.action",
        "folders[0]",
    ]
    assert raised.value.hint == "Nothing was written"
    assert path.read_text() == "mine"
    assert sorted(each.name for each in here.iterdir()) == ["configuration.json", "key"]


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs a folder that not even root may write to")
def test_an_unwritable_folder_is_told(here: Path) -> None:
    """Where the file cannot be written, the system's reason is given."""
    with pytest.raises(UsageError, match="/proc cannot be written to"):
        init(endpoint="https://x", folder=[Path("i")], dataset="d", output=Path("/proc/configuration.json"))


def test_no_option_takes_a_secret() -> None:
    """What stands on a command line can be read by every user of the machine: secrets come from files."""
    app = typer.Typer()
    app.command()(init)
    options = {option for param in typer.main.get_command(app).params for option in param.opts}

    assert {option for option in options if "key" in option or "pass" in option} == {
        "--api-key-file",
        "--password-file",
    }


class Terminal:
    """A program on a terminal of its own, answered prompt by prompt."""

    def __init__(self, *arguments: str) -> None:
        self.seen = ""
        self._pid, self._terminal = pty.fork()
        if self._pid == 0:
            os.execv(sys.executable, [sys.executable, "-c", PROGRAM, *arguments])

    def answer(self, prompt: str, text: str, *, hidden: bool = False) -> None:
        """Wait until the prompt appears (and, for a hidden answer, until nothing is echoed), then type the text."""
        self._read(lambda: prompt in self.seen.rpartition("\n")[2])
        deadline = time.monotonic() + 20
        while hidden and termios.tcgetattr(self._terminal)[3] & termios.ECHO:
            assert time.monotonic() < deadline, self.seen
        self.seen += "\n"
        os.write(self._terminal, f"{text}\n".encode())

    def end(self) -> int:
        """Wait for the end and return the exit code."""
        self._read(lambda: False)
        os.close(self._terminal)
        return os.waitstatus_to_exitcode(os.waitpid(self._pid, 0)[1])

    def _read(self, enough: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 20
        while not enough():
            assert select.select([self._terminal], [], [], deadline - time.monotonic())[0], self.seen
            try:
                data = os.read(self._terminal, 4096)
            except OSError:  # the program ended
                return
            if not data:
                return
            self.seen += data.decode().replace("\r\n", "\n")


def test_asking_on_a_terminal(here: Path) -> None:
    """Asked one thing at a time, a person gets a valid file; wrong answers are asked again, hidden ones never shown."""
    terminal = Terminal()
    terminal.answer("mvi, sagemaker or mobius", "aws")
    terminal.answer("mvi, sagemaker or mobius", "")
    terminal.answer("Address of the server", "mvi.example.com")
    terminal.answer("Address of the server", "https://mvi.example.com/visual-inspection/api/")
    terminal.answer("API key, a password, or none", "")
    terminal.answer("API key", SECRET, hidden=True)
    terminal.answer("Keep it in a file of its own", "")
    terminal.answer("Folder to watch", "/etc")
    terminal.answer("Folder to watch", "images")
    terminal.answer("Another folder", "")
    terminal.answer("does not exist. Make it?", "")
    terminal.answer("Name of the dataset", "classifier")
    terminal.answer("Upload when this many", "0")
    terminal.answer("Upload when this many", "3")
    terminal.answer("Train when this many", "")

    assert terminal.end() == 0, terminal.seen
    assert "lacks https:// or http://" in terminal.seen
    assert "belongs to the operating system" in terminal.seen
    assert "image-sync check -c configuration.json" in terminal.seen
    assert SECRET not in terminal.seen
    loaded = load(here / "configuration.json", os.environ)
    assert loaded.warnings == ()
    assert loaded.credentials.endpoint == "https://mvi.example.com/visual-inspection"
    assert loaded.credentials.api_key
    assert loaded.credentials.api_key.get_secret_value() == SECRET
    assert loaded.folders == (here / "images",)
    assert (here / "images").is_dir()
    assert (loaded.threshold.upload, loaded.threshold.training) == (3, 10)
    assert json.loads((here / "configuration.json").read_text())["credentials"]["api_key"] == {
        "credential": "mvi-api-key"
    }
    assert stat.S_IMODE((here / "mvi-api-key").stat().st_mode) == 0o600


def test_a_former_configuration_is_offered_and_the_connection_is_tried(here: Path) -> None:
    """Enter takes each former answer; a server that does not answer is told at once, with the way to correct it."""
    (here / "images").mkdir()
    document = {
        "credentials": {"endpoint": "http://127.0.0.1:9"},
        "folders": [str(here / "images")],
        "dataset": {"name": "former"},
        "threshold": {"upload": 7, "training": 70},
    }
    (here / "configuration.json").write_text(json.dumps(document))
    terminal = Terminal("--force", "--platform", "mvi")
    terminal.answer("Address of the server", "")
    terminal.answer("API key, a password, or none", "none")
    for prompt in ("Folder to watch", "Another folder", "Name of the dataset", "Upload when", "Train when"):
        terminal.answer(prompt, "")

    assert terminal.end() == 0, terminal.seen
    assert "nothing listens at 127.0.0.1:9" in terminal.seen
    assert "image-sync init --force" in terminal.seen
    loaded = load(here / "configuration.json", os.environ)
    assert (loaded.dataset.name, loaded.threshold.upload, loaded.threshold.training) == ("former", 7, 70)
    assert loaded.folders == (here / "images",)


def test_asking_for_a_login_kept_in_the_file(here: Path) -> None:
    """What options say is not asked; a password may stand in the configuration, which is private."""
    terminal = Terminal("--endpoint", "https://x", "--folder", "images", "--upload", "2", "--training", "4")
    terminal.answer("API key, a password, or none", "password")
    terminal.answer("User name", "ann")
    terminal.answer("Password", SECRET, hidden=True)
    terminal.answer("Keep it in a file of its own", "n")
    terminal.answer("Name of the dataset", "d")

    assert terminal.end() == 0, terminal.seen
    assert SECRET not in terminal.seen
    loaded = load(here / "configuration.json", os.environ)
    assert loaded.credentials.username == "ann"
    assert loaded.credentials.password
    assert loaded.credentials.password.get_secret_value() == SECRET
    assert len(loaded.warnings) == 1  # the folder does not exist yet


def test_asking_for_sagemaker(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Region (the environment's, by Enter), role and bucket are asked, no key; each answer is checked."""
    monkeypatch.setenv("AWS_REGION", "eu-west-1")
    terminal = Terminal("--folder", "images", "--upload", "2", "--training", "4")
    terminal.answer("mvi, sagemaker or mobius", "SageMaker")
    terminal.answer("AWS region", "")
    terminal.answer("Role that SageMaker works under", "training")
    terminal.answer("Role that SageMaker works under", f"{ROLE} ")
    terminal.answer("S3 bucket", "Acme Vision")
    terminal.answer("S3 bucket", "acme-vision")
    terminal.answer("Name of the dataset", "d")

    assert terminal.end() == 0, terminal.seen
    assert "write the ARN of a role, such as" in terminal.seen
    assert "write the name of a bucket" in terminal.seen
    assert "key" not in terminal.seen
    document = json.loads((here / "configuration.json").read_text())
    assert document["sagemaker"] == {"region": "eu-west-1", "role": ROLE, "bucket": "acme-vision"}


def test_asking_for_mobius(here: Path) -> None:
    """Only the address is asked of the platform: a Mobius SDK has neither users nor keys."""
    terminal = Terminal("--platform", "mobius", "--folder", "images", "--dataset", "d")
    terminal.answer("Address of the server", "http://mobius:5000")
    terminal.answer("Upload when this many", "")
    terminal.answer("Train when this many", "")

    assert terminal.end() == 0, terminal.seen
    loaded = load(here / "configuration.json", os.environ)
    assert (loaded.platform, loaded.credentials.endpoint) == ("mobius", "http://mobius:5000")


def test_schema_prints_json(capsys: pytest.CaptureFixture[str]) -> None:
    """The schema command prints the JSON Schema, and nothing else."""
    schema()

    printed = json.loads(capsys.readouterr().out)
    assert printed["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert set(printed["required"]) == {"dataset", "folders"}
