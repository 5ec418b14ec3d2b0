"""Whom the real program talks to: only whom the configuration names, and over TLS only whom it can trust."""

from __future__ import annotations

import contextlib
import ssl
import warnings
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import trustme

from image_sync_server.mvi.auth import Credentials
from support.commands import forked, one_by_one
from support.daemon import Plant
from support.fake_http import FakeHttp, Reply, Request
from support.mvi_server import Caller, picture, serving
from support.secrets import KEY
from support.tls_front import tls_front

REDIRECTS = (301, 302, 303, 307, 308)


def context_of(certificate: trustme.LeafCert) -> ssl.SSLContext:
    """What a server with this certificate needs."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificate.configure_cert(context)
    return context


@pytest.fixture
def authority(tmp_path: Path) -> tuple[trustme.CA, str]:
    """An authority of our own, and the file with its certificate."""
    made = trustme.CA()
    path = tmp_path / "ca.pem"
    made.cert_pem.write_to_path(str(path))
    return made, str(path)


def old_protocol(authority: trustme.CA) -> ssl.SSLContext:
    """A server that speaks nothing newer than TLS 1.1."""
    context = context_of(authority.issue_cert("127.0.0.1"))
    context.set_ciphers("ALL:@SECLEVEL=0")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        context.minimum_version, context.maximum_version = ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1
    return context


def self_signed(folder: Path) -> ssl.SSLContext:
    """A server whose certificate nobody signed but itself."""
    own = trustme.CA()
    for name, blob in (("own.pem", own.cert_pem), ("own.key", own.private_key_pem)):
        blob.write_to_path(str(folder / name))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "own.pem", folder / "own.key")
    return context


def test_certificates_that_cannot_be_trusted_are_refused(authority, tmp_path):
    """Expired, for another host, self-signed, unknown authority, TLS 1.1: no request, the reason and a way out."""
    ours, ca_file = authority
    yesterday = datetime.now(UTC) - timedelta(days=1)
    cases: dict[str, tuple[ssl.SSLContext, dict[str, Any], str]] = {
        "expired": (
            context_of(ours.issue_cert("127.0.0.1", not_after=yesterday)),
            {"ca_bundle": ca_file},
            "certificate has expired",
        ),
        "other host": (context_of(ours.issue_cert("other.example")), {"ca_bundle": ca_file}, "127.0.0.1"),
        "self-signed": (self_signed(tmp_path), {}, "self-signed certificate"),
        "self-signed, other ca": (self_signed(tmp_path), {"ca_bundle": ca_file}, "self-signed certificate"),
        "unknown": (context_of(trustme.CA().issue_cert("127.0.0.1")), {}, "unable to get local issuer"),
        "old": (old_protocol(ours), {"ca_bundle": ca_file}, "no TLS with"),
    }
    calls = []
    with contextlib.ExitStack() as stack:
        servers = {name: stack.enter_context(FakeHttp(tls=case[0])) for name, case in cases.items()}
        for name, (_, more, _) in cases.items():
            plant = Plant(tmp_path / name, servers[name].url, credentials={"api_key": KEY, **more})
            calls.append(["check", "-c", str(plant.config)])
        # What other programs are told to trust does not matter.
        said = forked(calls, {**plant.environ, "REQUESTS_CA_BUNDLE": ca_file, "CURL_CA_BUNDLE": ca_file})
        for done, (name, case) in zip(said, cases.items(), strict=True):
            assert done.returncode == 69, (name, done.stdout, done.stderr)
            assert case[2] in done.stdout, (name, done.stdout)
            remedy = {"expired": "clock", "other host": "credentials.endpoint", "old": "credentials.endpoint"}
            assert remedy.get(name, "credentials.ca_bundle") in done.stdout, name
            assert servers[name].requests == []


def test_a_private_authority_is_trusted_when_its_file_is_named(authority, tmp_path):
    """The daemon uploads over TLS with `ca_bundle`; `verify_tls: false` works with any, and is loud at each start."""
    ours, ca_file = authority
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(serving(tmp_path / "server", credentials=Credentials(api_key=KEY)))
        good = stack.enter_context(tls_front(server.url, context_of(ours.issue_cert("127.0.0.1"))))
        strange = stack.enter_context(tls_front(server.url, context_of(trustme.CA().issue_cert("elsewhere.example"))))
        plant = Plant(tmp_path / "plant", good, credentials={"api_key": KEY, "ca_bundle": ca_file})
        loose = Plant(tmp_path / "loose", strange, credentials={"api_key": KEY, "verify_tls": False})
        plant.put("dark/a.jpg", picture("dark", 1))
        loose.put("dark/b.jpg", picture("dark", 2))
        calls = [["run", "--once", "-c", str(one.config)] for one in (plant, loose)]
        said = forked([*calls, ["check", "-c", str(loose.config)]], plant.environ)
        assert [done.returncode for done in said] == [0, 0, 0], said[0].stderr
        assert len(stored_with_key(server)) == 2
    assert "verify_tls" not in said[0].stderr
    assert "configuration.warning" in said[1].stderr
    assert "verify_tls" in said[1].stderr
    assert "verify_tls" in said[2].stdout


def stored_with_key(server: Any) -> list[Any]:
    """What is at a server that wants the key."""
    caller = Caller(server.url, KEY)
    (dataset,) = caller.get("/datasets")
    return list(caller.get(f"/datasets/{dataset['_id']}/files"))


def test_no_redirect_is_followed_and_no_proxy_of_the_environment_used(tmp_path):
    """With a key or a password, whatever the status: nothing reaches the other host, whose name is told."""
    other_requests = []
    with FakeHttp() as other, FakeHttp() as proxy, contextlib.ExitStack() as stack:
        calls, kinds = [], ({"api_key": KEY}, {"username": "anna", "password": KEY})
        for status in REDIRECTS:

            def script(_request: Request, status: int = status) -> Reply:
                return Reply(status, b"", (("Location", f"{other.url}/api/datasets"),))

            server = stack.enter_context(FakeHttp(script))
            for number, sign_in in enumerate(kinds):
                plant = Plant(tmp_path / f"{status}-{number}", server.url, credentials=sign_in)
                calls.append(["check", "-c", str(plant.config)])
        names = ("http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY")
        said = forked(calls, {**plant.environ, **dict.fromkeys(names, proxy.url)})
        other_requests = other.requests + proxy.requests
        for done in said:
            assert done.returncode
            assert f"sends us on to {other.url}" in done.stdout, done.stdout
            assert "credentials.endpoint" in done.stdout
    assert other_requests == []


def test_an_endpoint_where_keys_would_be_given_away_is_refused_or_warned_of(tmp_path):
    """Plain http to another machine is a warning at each start; a cloud's metadata address is refused."""
    plain = Plant(tmp_path / "plain", "http://192.0.2.1", credentials={"api_key": KEY})
    cloud = Plant(tmp_path / "cloud", "http://169.254.169.254", credentials={"api_key": KEY})
    mapped = Plant(tmp_path / "mapped", "http://[::ffff:169.254.169.254]", credentials={"api_key": KEY})
    said = one_by_one(plain, ["status"]) + one_by_one(cloud, ["run"]) + one_by_one(mapped, ["check"])
    assert said[0].returncode == 0
    assert [done.returncode for done in said[1:]] == [78, 78]
    assert all("link-local" in done.stderr for done in said[1:])


def test_the_embedded_server_is_not_asked_twice_for_what_it_refused(tmp_path):
    """A refused password is sent three times in a minute: no storm of tries that would lock an account; then 77."""
    refused = [0]

    def script(_request: Request) -> Reply:
        refused[0] += 1
        return Reply(401, b'{"result": "fail", "fault": "no"}')

    with FakeHttp(script) as server:
        plant = Plant(tmp_path / "plant", server.url, credentials={"username": "anna", "password": KEY})
        plant.put("dark/a.jpg", picture("dark", 1))
        done = plant.call("run", "--once", timeout=110)
    assert done.returncode == 77
    assert 2 <= refused[0] <= 3
    assert KEY not in done.stdout + done.stderr
