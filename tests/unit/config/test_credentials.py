"""Keys and passwords: the ways to give them, and that none of them is ever shown."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from image_sync.config import Settings, load, secrets
from image_sync.errors import ConfigError
from support.configuration import document, mistakes, settings, warnings, write

SECRET = "S3CRET-canary"
ENDPOINT = "https://mvi.example.com"


def key_of(loaded: Settings) -> str | None:
    """The API key as it would be sent."""
    return loaded.credentials.api_key.get_secret_value() if loaded.credentials.api_key else None


def test_a_secret_can_be_given_in_four_ways(tmp_path: Path) -> None:
    """Literally, by environment, by file (relative to the configuration) and by systemd credential: all stripped."""
    (tmp_path / "key").write_text(f"\N{ZERO WIDTH NO-BREAK SPACE}{SECRET}\r\n")
    (tmp_path / "key").chmod(0o600)
    environ = {"KEY": f" {SECRET}\n", "CREDENTIALS_DIRECTORY": str(tmp_path)}

    for way in (f" {SECRET} ", {"env": "KEY"}, {"file": "key"}, {"file": str(tmp_path / "key")}, {"credential": "key"}):
        loaded = settings(tmp_path, environ, credentials={"endpoint": ENDPOINT, "api_key": way})
        assert key_of(loaded) == SECRET
        assert loaded.warnings == ()


WRONG: list[tuple[Any, str]] = [
    ("", "is empty"),
    ("  ", "is empty"),
    ("<api_key>", "still the template's placeholder"),
    (5, 'is not text; write "text"'),
    (["x"], "is not text"),
    ("S3CRET\nx", "holds the character U+000A"),
    ("S3CRET\0", "holds the character U+0000"),
    ("S3CRET\u20ac", "that no HTTP header can carry"),
    ({}, "names 0 places"),
    ({"env": "A", "file": "b"}, "names 2 places"),
    ({"enf": "A"}, 'has the unknown key "enf"; did you mean "env"?'),
    ({"env": 3}, 'has no text for "env"'),
    ({"env": "NOT_SET"}, "environment variable NOT_SET, which is not set"),
    ({"env": "EMPTY"}, "is empty in the environment variable EMPTY"),
    ({"file": "none"}, "none, which does not exist"),
    ({"file": "."}, "which is a folder"),
    ({"file": "/dev/zero"}, "which is not a regular file"),
    ({"file": "<file>"}, "is a placeholder"),
    ({"credential": "key"}, "$CREDENTIALS_DIRECTORY is not set"),
]


@pytest.mark.parametrize(("value", "expected"), WRONG)
def test_wrong_secrets_are_told_without_showing_them(tmp_path: Path, value: Any, expected: str) -> None:
    """A secret that cannot be used is refused with the reason and without its text."""
    (mistake,) = mistakes(tmp_path, {"EMPTY": " "}, credentials={"endpoint": ENDPOINT, "api_key": value})

    assert mistake.startswith("credentials.api_key: ")
    assert expected in mistake
    assert "S3CRET" not in mistake


def test_a_credential_lies_beside_the_configuration_outside_of_a_service(tmp_path: Path) -> None:
    """What systemd hands over to the service is found under the same name beside the file by everybody else."""
    (tmp_path / "key").write_text(SECRET)
    (tmp_path / "key").chmod(0o600)
    assert key_of(settings(tmp_path, credentials={"endpoint": ENDPOINT, "api_key": {"credential": "key"}})) == SECRET


@pytest.mark.parametrize("way", [{"credential": "none"}, {"env": "NONE"}, {"file": "none"}])
def test_who_only_looks_needs_no_secret(tmp_path: Path, way: Any) -> None:
    """A secret that cannot be read is named, and the rest of the configuration can be used."""
    path = write(tmp_path, document(tmp_path, credentials={"endpoint": ENDPOINT, "api_key": way, "proxy": way}))
    loaded = load(path, {}, secrets=False)
    assert loaded.credentials.endpoint == ENDPOINT
    assert [line.split(": ")[1] for line in loaded.unread] == ["credentials.api_key", "credentials.proxy"]
    with pytest.raises(ConfigError):
        load(path, {})


def test_a_misspelt_way_to_a_secret_is_a_mistake_for_all(tmp_path: Path) -> None:
    """What is wrong with the configuration itself is told also to those who need no secret."""
    path = write(tmp_path, document(tmp_path, credentials={"endpoint": ENDPOINT, "api_key": {"fil": "key"}}))
    with pytest.raises(ConfigError, match='did you mean "file"'):
        load(path, {}, secrets=False)


def test_a_credential_is_a_name(tmp_path: Path) -> None:
    """A systemd credential cannot lead out of its folder."""
    (mistake,) = mistakes(
        tmp_path,
        {"CREDENTIALS_DIRECTORY": str(tmp_path)},
        credentials={"endpoint": ENDPOINT, "api_key": {"credential": "../key"}},
    )

    assert "names a credential with a path" in mistake


def test_a_password_may_hold_any_letters(tmp_path: Path) -> None:
    """A password travels in a JSON body, so that it is not bound to the letters of a header."""
    loaded = settings(tmp_path, credentials={"endpoint": ENDPOINT, "username": "ann", "password": "zł€"})

    assert secrets(loaded) == ["zł€"]


def test_a_file_that_all_can_read_is_told(tmp_path: Path) -> None:
    """A secret kept in its own file is worth its permissions."""
    (tmp_path / "key").write_text(SECRET)
    (tmp_path / "key").chmod(0o644)

    (warning,) = warnings(tmp_path, credentials={"endpoint": ENDPOINT, "api_key": {"file": "key"}})

    assert (
        warning
        == f"credentials.api_key: the file {tmp_path}/key can be read by every user; run: chmod 600 {tmp_path}/key"
    )


RULE: list[tuple[dict[str, Any], str | None]] = [
    ({}, None),
    ({"api_key": None, "username": None, "password": None}, None),
    ({"api_key": SECRET}, None),
    ({"username": "ann", "password": SECRET}, None),
    ({"username": "ann"}, "credentials.password: is missing beside username"),
    ({"password": SECRET}, "credentials.password: stands without a username"),
]


@pytest.mark.parametrize(("given", "mistake"), RULE)
def test_either_a_key_or_a_login_or_nothing(tmp_path: Path, given: dict[str, Any], mistake: str | None) -> None:
    """Half a login is a mistake; no credentials at all are for servers that want none."""
    if mistake:
        (found,) = mistakes(tmp_path, credentials={"endpoint": ENDPOINT, **given})
        assert found.startswith(mistake)
    else:
        assert settings(tmp_path, credentials={"endpoint": ENDPOINT, **given}).warnings == ()


def test_a_key_wins_over_a_login(tmp_path: Path) -> None:
    """With both, only the key is kept, and a warning says so."""
    loaded = settings(
        tmp_path, credentials={"endpoint": ENDPOINT, "api_key": SECRET, "username": "ann", "password": "other-S3CRET"}
    )

    assert (key_of(loaded), loaded.credentials.username, loaded.credentials.password) == (SECRET, None, None)
    assert [line.split(": ", 1)[1] for line in loaded.warnings] == [
        "credentials.api_key: is used; username and password beside it are ignored"
    ]


def test_the_token_of_the_environment_stands_in_for_missing_credentials(tmp_path: Path) -> None:
    """VAPI_TOKEN is used when the file gives no credentials, and only then."""
    environ = {"VAPI_TOKEN": SECRET}

    assert key_of(settings(tmp_path, environ, credentials={"endpoint": ENDPOINT})) == SECRET
    assert key_of(settings(tmp_path, environ, credentials={"endpoint": ENDPOINT, "api_key": "other"})) == "other"
    login = {"endpoint": ENDPOINT, "username": "ann", "password": "pw"}
    assert key_of(settings(tmp_path, environ, credentials=login)) is None
    (mistake,) = mistakes(tmp_path, {"VAPI_TOKEN": "S3CRET\u20ac"}, credentials={"endpoint": ENDPOINT})
    assert "in the environment variable VAPI_TOKEN" in mistake


def test_unverified_tls_is_told_at_each_start(tmp_path: Path) -> None:
    """Accepting any certificate is possible, and loud."""
    (warning,) = warnings(tmp_path, credentials={"endpoint": ENDPOINT, "verify_tls": False})

    assert warning.startswith("credentials.verify_tls: the server's certificate is not checked")


def test_a_ca_bundle_holds_certificates(tmp_path: Path) -> None:
    """The file must exist and be in PEM format; its path starts at the configuration's folder."""
    (tmp_path / "ca.pem").write_text("-----BEGIN CERTIFICATE-----\n")
    (tmp_path / "key.pem").write_text("-----BEGIN PRIVATE KEY-----\n")

    loaded = settings(tmp_path, credentials={"endpoint": ENDPOINT, "ca_bundle": "ca.pem"})
    assert loaded.credentials.ca_bundle == tmp_path / "ca.pem"
    assert mistakes(tmp_path, credentials={"endpoint": ENDPOINT, "ca_bundle": "key.pem"}) == [
        'credentials.ca_bundle: "key.pem" holds no certificate in PEM format; ask whoever runs the server for one'
    ]
    assert mistakes(tmp_path, credentials={"endpoint": ENDPOINT, "ca_bundle": "no.pem"}) == [
        'credentials.ca_bundle: "no.pem" does not exist; write the path of a file in PEM format'
    ]


def test_a_user_name_can_be_kept_elsewhere_too(tmp_path: Path) -> None:
    """A user name is given like a secret, but is none: it may be shown."""
    credentials = {"endpoint": ENDPOINT, "username": {"env": "USER"}, "password": {"env": "PW"}}

    loaded = settings(tmp_path, {"USER": "ann", "PW": SECRET}, credentials=credentials)

    assert loaded.credentials.username == "ann"
    assert secrets(loaded) == [SECRET]


LEAKS: list[dict[str, Any]] = [
    {"credentials": {"endpoint": ENDPOINT, "api_key": SECRET}},
    {"credentials": {"endpoint": f"https://ann:{SECRET}@host", "api_key": SECRET}},
    {"credentials": {"endpoint": f"https://{SECRET}:a/b?c#d@ho st"}},
    {"credentials": {"endpoint": ENDPOINT, "apikey": SECRET}},
    {"credentials": {"endpoint": ENDPOINT, "api_key": [SECRET]}},
    {"credentials": {"endpoint": ENDPOINT, "api_key": {"value": SECRET}}},
    {"credentials": {"endpoint": ENDPOINT, "password": {"text": SECRET, "file": "x"}}},
    {"credentials": SECRET},
    {"credentials": [SECRET]},
    {"password": SECRET},
    {"threshold": {"password": SECRET}},
    {"state": f"postgresql://sync:{SECRET}@db/ledger"},
    {"state": f"postgresql://sync:{SECRET}/@db"},
    {"state": f"mysql://sync:{SECRET}@db/ledger"},
    {"credentials": {"endpoint": ENDPOINT, "proxy": f"http://ann:{SECRET}@proxy:3128"}},
    {"credentials": {"endpoint": ENDPOINT, "proxy": f"ftp://ann:{SECRET}@proxy:3128"}},
]


@pytest.mark.parametrize("changes", LEAKS)
def test_no_secret_is_ever_shown(tmp_path: Path, changes: dict[str, Any]) -> None:
    """Neither texts of settings nor warnings nor mistakes, nor the causes behind them, hold a secret."""
    path = write(tmp_path, document(tmp_path, **changes), mode=0o644)
    told: list[object] = []
    try:
        loaded = load(path, {})
    except ConfigError as error:
        told += [error, error.__cause__, error.__context__]
    else:
        told += [loaded, loaded.credentials, loaded.warnings]
        assert SECRET in secrets(loaded)

    assert SECRET not in "".join(f"{item}{item!r}" for item in told)
