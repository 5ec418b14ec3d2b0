"""The service files: they say the same, hold together, and give the service as few rights as it can live with."""

from __future__ import annotations

import plistlib
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from image_sync.errors import EXIT_CONFIG, EXIT_UNAUTHORISED, EXIT_USAGE

FOLDER = Path(__file__).parents[3] / "service-files"
UNITS = ("image-sync.service", "image-sync@.service")
ANALYZE = shutil.which("systemd-analyze")
SHUTDOWN = 20  # seconds, the default of `shutdown`

needs_systemd = pytest.mark.skipif(ANALYZE is None, reason="systemd-analyze is not installed")


def _service(name: str) -> dict[str, list[str]]:
    """The directives of [Service], each with its values in order; the files use no line continuation."""
    found: dict[str, list[str]] = {}
    section = ""
    for line in (FOLDER / name).read_text("utf-8").splitlines():
        if line.startswith("["):
            section = line
        elif section == "[Service]" and line and not line.startswith("#"):
            key, _, value = line.partition("=")
            found.setdefault(key, []).append(value)
    return found


def _plist() -> dict[str, object]:
    found = plistlib.loads((FOLDER / "com.github.image-sync.plist").read_bytes())
    assert isinstance(found, dict)
    return found


def _installed(tmp_path: Path, name: str) -> Path:
    """A copy that systemd-analyze takes for installed: the command is one that every machine has."""
    text = (FOLDER / name).read_text("utf-8")
    assert "ExecStart=/usr/local/bin/image-sync " in text
    copy = tmp_path / name.replace("@.", "@line1.")
    copy.write_text(text.replace("/usr/local/bin/image-sync", "/bin/true"), "utf-8")
    return copy


def test_the_folder_holds_these_files():
    """A unit, a template unit and a launchd job: nothing is left untested."""
    assert {path.name for path in FOLDER.iterdir()} == {*UNITS, "com.github.image-sync.plist"}


def test_every_file_runs_the_same_command():
    """Each runs `image-sync run -c <configuration>`, with the same paths wherever the system has such."""
    unit = shlex.split(_service(UNITS[0])["ExecStart"][0])
    assert unit == ["/usr/local/bin/image-sync", "run", "-c", "/etc/image-sync/configuration.json"]
    assert _plist()["ProgramArguments"] == unit
    template = shlex.split(_service(UNITS[1])["ExecStart"][0])
    assert template == [*unit[:3], "/etc/image-sync/%i.json"]


def test_the_command_line_is_one_that_the_program_has():
    """`run` takes `-c`: the command's own help says so."""
    from typer.testing import CliRunner

    from image_sync.cli.app import app

    result = CliRunner().invoke(app, ["run", "--help"], env={"COLUMNS": "120", "NO_COLOR": "1", "TERM": "dumb"})
    assert result.exit_code == 0
    assert re.search(r"-c, --config\b", result.output)


@pytest.mark.parametrize("name", UNITS)
def test_what_another_try_cannot_mend_is_not_tried_again(name):
    """The exit codes that prevent a restart are those of a wrong call, a refused sign-in, a wrong configuration."""
    service = _service(name)
    assert service["Restart"] == ["on-failure"]
    codes = [int(code) for code in service["RestartPreventExitStatus"][0].split()]
    assert codes == [EXIT_USAGE, EXIT_UNAUTHORISED, EXIT_CONFIG]


def test_every_system_waits_longer_than_the_daemon_stops():
    """Each gives the requests in flight their twenty seconds, and some more, before it kills."""
    for name in UNITS:
        assert int(_service(name)["TimeoutStopSec"][0]) > SHUTDOWN
    exit_timeout = _plist()["ExitTimeOut"]
    assert isinstance(exit_timeout, int)
    assert exit_timeout > SHUTDOWN


@pytest.mark.parametrize(
    ("name", "state"), [("image-sync.service", "image-sync/configuration"), ("image-sync@.service", "image-sync/%i")]
)
def test_the_state_has_a_private_folder_of_its_own(name, state):
    """Each configuration has its own state folder, which only the service reads."""
    service = _service(name)
    assert service["StateDirectory"] == [state]
    assert service["StateDirectoryMode"] == ["0700"]


@pytest.mark.parametrize("name", UNITS)
def test_the_units_hold_what_the_service_lives_by(name):
    """Notification, watchdog, reload, the secret, and what must stay visible for watching to work."""
    expected = {
        "Type": ["notify"],
        "NotifyAccess": ["main"],
        "WatchdogSec": ["60"],
        "ExecReload": ["/bin/kill -HUP $MAINPID"],
        "LoadCredential": [f"{name}:/etc/image-sync/{name}" for name in ("mvi-api-key", "mvi-password")],
        "ProtectHome": ["read-only"],
        "ProcSubset": ["all"],
    }
    service = _service(name)
    assert {key: service[key] for key in expected} == expected
    assert service["SetCredential"][0].startswith("mvi-api-key:")  # else a missing file keeps the unit from starting


@pytest.mark.parametrize("name", UNITS)
def test_the_units_are_hardened(name):
    """Every directive that takes a right away is there, also where systemd-analyze is not."""
    service = _service(name)
    switched_on = """
        DynamicUser PrivateTmp PrivateMounts PrivateDevices PrivateUsers PrivateIPC NoNewPrivileges RemoveIPC
        ProtectClock ProtectControlGroups ProtectHostname ProtectKernelLogs ProtectKernelModules ProtectKernelTunables
        LockPersonality MemoryDenyWriteExecute RestrictNamespaces RestrictRealtime RestrictSUIDSGID
    """
    assert [key for key in switched_on.split() if service.get(key) != ["yes"]] == []
    expected = {
        "ProtectSystem": ["strict"],
        "ProtectProc": ["invisible"],
        "CapabilityBoundingSet": [""],
        "AmbientCapabilities": [""],
        "SystemCallFilter": ["@system-service", "~@privileged @resources"],
        "SystemCallArchitectures": ["native"],
        "RestrictAddressFamilies": ["AF_UNIX AF_INET AF_INET6"],
        "UMask": ["0077"],
    }
    assert {key: service[key] for key in expected} == expected
    assert {"MemoryMax", "TasksMax"} <= set(service)


def test_the_template_differs_only_in_its_instance():
    """The two units are the same but for names and paths: a change of one must be made in the other."""
    plain, template = ((FOLDER / name).read_text("utf-8") for name in UNITS)
    wanted = [line for line in plain.replace("configuration.json", "%i.json").splitlines() if line[:1] != "#"]
    found = [line for line in template.replace(" (%i)", "").splitlines() if line[:1] != "#"]
    wanted = [line.replace("image-sync/configuration", "image-sync/%i") for line in wanted]
    assert found == wanted


@needs_systemd
@pytest.mark.parametrize("name", UNITS)
def test_systemd_finds_nothing_wrong(name, tmp_path):
    """`systemd-analyze verify` is silent: no unknown directive, no bad value."""
    command = [str(ANALYZE), "verify", "--man=no", str(_installed(tmp_path, name))]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (result.stdout + result.stderr, result.returncode) == ("", 0)


@needs_systemd
def test_systemd_would_find_something_wrong(tmp_path):
    """The same check does complain of a misspelt directive: its silence means something."""
    copy = _installed(tmp_path, UNITS[0])
    copy.write_text(copy.read_text("utf-8").replace("ProtectSystem=", "ProtectSytem="), "utf-8")
    command = [str(ANALYZE), "verify", "--man=no", str(copy)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "ProtectSytem" in result.stdout + result.stderr


@needs_systemd
@pytest.mark.parametrize("name", UNITS)
def test_exposure_is_low(name, tmp_path):
    """`systemd-analyze security` rates the exposure at most 1.5 of 10."""
    copy = _installed(tmp_path, name)
    command = [str(ANALYZE), "security", "--offline=yes", "--threshold=15", "--no-pager", str(copy)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    rated = re.search(r"exposure level for \S+: ([\d.]+)", result.stdout)
    assert rated is not None, result.stderr
    assert float(rated[1]) <= 1.5
    assert result.returncode == 0


def test_the_launchd_job_is_one():
    """It has a label that is its file's name, starts at boot, comes back after a failure, and knows its state."""
    job = _plist()
    assert job["Label"] == "com.github.image-sync"
    assert job["RunAtLoad"] is True
    assert job["KeepAlive"] == {"SuccessfulExit": False}
    assert job["UserName"] != "root"
    assert job["Umask"] == 0o077
    assert job["EnvironmentVariables"] == {"STATE_DIRECTORY": "/usr/local/var/image-sync/configuration"}
