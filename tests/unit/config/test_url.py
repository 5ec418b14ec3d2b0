"""Addresses of servers, in all the spellings that people paste."""

from __future__ import annotations

from pathlib import Path

import pytest

from support.configuration import mistakes, settings, warnings

GOOD = [
    ("https://mvi.example.com", "https://mvi.example.com"),
    ("https://mvi.example.com/", "https://mvi.example.com"),
    ("https://mvi.example.com/api", "https://mvi.example.com"),
    ("https://mvi.example.com/api/", "https://mvi.example.com"),
    ("  https://mvi.example.com \n", "https://mvi.example.com"),
    ("HTTPS://MVI.Example.COM", "https://mvi.example.com"),
    ("https://mvi.example.com:8443", "https://mvi.example.com:8443"),
    ("https://mvi.example.com:", "https://mvi.example.com"),
    ("https://host/visual-inspection", "https://host/visual-inspection"),
    ("https://host/visual-inspection/api", "https://host/visual-inspection"),
    ("https://host/visual-insights/", "https://host/visual-insights"),
    ("https://host/powerai-vision-ny/api/", "https://host/powerai-vision-ny"),
    ("https://host//api//", "https://host"),
    ("https://host/apis", "https://host/apis"),
    ("https://host/my-api", "https://host/my-api"),
    ("https://host/api/v1", "https://host/api/v1"),
    ("https://host/Prüfung", "https://host/Pr%C3%BCfung"),
    ("https://host/a%20b", "https://host/a%20b"),
    ("https://bücher.example", "https://xn--bcher-kva.example"),
    ("https://under_score.example", "https://under_score.example"),
    ("https://192.0.2.7:9443", "https://192.0.2.7:9443"),
    ("https://[2001:db8::1]", "https://[2001:db8::1]"),
    ("https://[2001:DB8:0::1]:8443/x", "https://[2001:db8::1]:8443/x"),
    ("http://127.0.0.1:8000", "http://127.0.0.1:8000"),
    ("http://[::1]:8000", "http://[::1]:8000"),
    ("http://localhost", "http://localhost"),
    ("http://mvi.localhost:8000", "http://mvi.localhost:8000"),
]

BAD = [
    ("", "is empty"),
    ("<url>", "is a placeholder"),
    ("https://<maximo_visual_inspection_url>", "is a placeholder"),
    ("mvi.example.com", "lacks https:// or http://"),
    ("localhost:8000", "lacks https:// or http://"),
    ("//mvi.example.com", "lacks https:// or http://"),
    ("ftp://mvi.example.com", "begins with ftp://"),
    ("file:///etc/passwd", "begins with file://"),
    ("https://", "names no host"),
    ("https:///api", "names no host"),
    ("https://ann:S3CRET@host", "holds a user name or password"),
    ("https://S3CRET@host", "holds a user name or password"),
    ("ann:S3CRET@host", "lacks https:// or http://"),
    ("https://ho st", "holds a space"),
    ("https://host\\api", "holds a space, a backslash"),
    ("https://host/a\nb", "holds a space"),
    ("https://host?x=1", "has a question mark"),
    ("https://host/visual-inspection/#/datasets", "has a #"),
    ("https://host:0", "has the port 0"),
    ("https://host:99999", "is not an address"),
    ("https://host:http", "is not an address"),
    ("https://[2001:db8::1", "is not an address"),
    ("https://[host]", "is not an address"),
    ("https://[v1.x]", "has no valid address between"),
    ("https://host/../admin", "has an empty part"),
    ("https://host//x", "has an empty part"),
    ("https://-host", "has a host name that cannot be looked up"),
    ("https://a..b", "has a host name that cannot be looked up"),
    ("https://ho*st", "has a host name that cannot be looked up"),
    ("https://" + "a" * 64, "has a host name that cannot be looked up"),
    ("http://169.254.169.254", "is a link-local address"),
    ("http://[fe80::1]", "is a link-local address"),
    ("http://[fe80::1%25eth0]", "is a link-local address"),
    ("http://[::ffff:169.254.169.254]", "is a link-local address"),
    ("http://2852039166", "has a number for a host"),
    ("http://0x7f.1", "has a number for a host"),
    ("http://0.0.0.0:8000", "does not name one server"),
    ("http://[::]", "does not name one server"),
    ("http://224.0.0.1", "does not name one server"),
]


@pytest.mark.parametrize(("written", "expected"), GOOD)
def test_usable_addresses(tmp_path: Path, written: str, expected: str) -> None:
    """Each usable spelling becomes the one that requests are built from."""
    assert settings(tmp_path, credentials={"endpoint": written}).credentials.endpoint == expected


@pytest.mark.parametrize(("written", "expected"), BAD)
def test_unusable_addresses(tmp_path: Path, written: str, expected: str) -> None:
    """Each unusable address is refused with its reason and the remedy, and never with a password in it."""
    (mistake,) = mistakes(tmp_path, credentials={"endpoint": written})

    assert mistake.startswith("credentials.endpoint: ")
    assert expected in mistake
    assert "S3CRET" not in mistake


PORTS = [
    ("https://host", "8000", "https://host:8000"),
    ("https://host/visual-inspection", 8443, "https://host:8443/visual-inspection"),
    ("https://host:8000", 8000, "https://host:8000"),
    ("https://[2001:db8::1]/x", 8443, "https://[2001:db8::1]:8443/x"),
]


@pytest.mark.parametrize(("endpoint", "port", "expected"), PORTS)
def test_a_port_joins_the_address(tmp_path: Path, endpoint: str, port: int | str, expected: str) -> None:
    """The predecessor's separate port becomes part of the address."""
    loaded = settings(tmp_path, credentials={"endpoint": endpoint, "port": port})

    assert loaded.credentials.endpoint == expected
    assert loaded.credentials.port == int(port)


def test_two_different_ports_are_a_mistake(tmp_path: Path) -> None:
    """A port in the address and another one beside it cannot both be meant."""
    assert mistakes(tmp_path, credentials={"endpoint": "https://host:1", "port": 2}) == [
        "credentials.port: 2 contradicts the port 1 in endpoint; keep one of the two"
    ]


@pytest.mark.parametrize(
    ("endpoint", "told"),
    [
        ("http://mvi.example.com", 1),
        ("http://10.0.0.1", 1),
        ("http://127.9.9.9", 0),
        ("http://localhost", 0),
        ("https://x", 0),
    ],
)
def test_an_unencrypted_connection_is_told(tmp_path: Path, endpoint: str, told: int) -> None:
    """Plain http is fine on this machine; to another one it is a warning at each start."""
    found = warnings(tmp_path, credentials={"endpoint": endpoint})

    assert len([line for line in found if "not encrypted" in line]) == told


def test_the_address_may_come_from_the_environment(tmp_path: Path) -> None:
    """VAPI_BASE_URI is used when the file has no address; a mistake in it names the variable."""
    environ = {"VAPI_BASE_URI": "https://env.example/visual-inspection/api"}
    assert settings(tmp_path, environ, credentials={}).credentials.endpoint == "https://env.example/visual-inspection"
    assert settings(tmp_path, environ, credentials=...).credentials.endpoint == "https://env.example/visual-inspection"
    assert settings(tmp_path, environ).credentials.endpoint == "https://mvi.example.com"
    (mistake,) = mistakes(tmp_path, {"VAPI_BASE_URI": "env.example"}, credentials={})
    assert "VAPI_BASE_URI lacks https" in mistake


def test_an_address_is_required(tmp_path: Path) -> None:
    """Without an address anywhere there is nothing to do."""
    assert mistakes(tmp_path, {"VAPI_BASE_URI": ""}, credentials=...) == [
        'credentials.endpoint: is missing; write the server\'s address, such as "https://mvi.example.com"'
    ]


@pytest.mark.parametrize(
    ("proxy", "good"),
    [
        ("http://proxy:3128", True),
        ("http://ann:S3CRET@proxy:3128/", True),
        ("proxy:3128", False),
        ("socks5://proxy", False),
        ("http://proxy/x", False),
    ],
)
def test_a_proxy_is_an_address(tmp_path: Path, proxy: str, good: bool) -> None:
    """A proxy may hold a user and password, which no message shows."""
    credentials = {"endpoint": "https://x", "proxy": proxy}
    if good:
        loaded = settings(tmp_path, credentials=credentials)
        assert loaded.credentials.proxy == proxy.rstrip("/")
        assert "S3CRET" not in repr(loaded)
    else:
        (mistake,) = mistakes(tmp_path, credentials=credentials)
        assert mistake.startswith("credentials.proxy: ")
