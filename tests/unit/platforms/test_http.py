"""The HTTP client against a server that misbehaves for real."""

from __future__ import annotations

import gzip
import json
import logging
import socket
import ssl
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import closing
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pytest
import trustme
from hypothesis import example, given
from hypothesis import strategies as st

from image_sync import log
from image_sync.errors import (
    Ambiguous,
    Changed,
    ConfigError,
    ImageSyncError,
    NotFound,
    Permanent,
    Refused,
    Transient,
    Unanswered,
    Unauthorised,
    Unfit,
    Unreadable,
)
from image_sync.platforms.http import Client, Denied, Part, Spool, Timeouts, header_value, sanitize
from image_sync.platforms.http.outcomes import retry_after
from image_sync.platforms.mvi.wire import fault
from image_sync.platforms.sagemaker.outcomes import sanitize as words_of_aws
from support.fake_http import FakeHttp, Reply, answer, closed_port, ok

QUICK = Timeouts(connect=0.5, read=0.5, total=0.8)
TOKEN = "s3cr3t-t0ken-value"


@pytest.fixture
def server() -> Iterator[FakeHttp]:
    """The faulty server."""
    with FakeHttp() as fake:
        yield fake


@pytest.fixture
def client(server: FakeHttp) -> Iterator[Client]:
    """A client with short timeouts."""
    client = Client(server.url, timeouts=QUICK, fault=fault)
    yield client
    client.close()


def call(client: Client, *, repeatable: bool, method: str = "POST", **more: Any) -> Any:
    """One call, checked."""
    answered = client.send(method, "/thing", what="Doing it", repeatable=repeatable, **more)
    return client.check(answered, what="Doing it", repeatable=repeatable)


def outcome(client: Client, *, repeatable: bool, **more: Any) -> ImageSyncError:
    """The error of one call."""
    with pytest.raises(ImageSyncError) as caught:
        call(client, repeatable=repeatable, **more)
    return caught.value


def picture(size: int = 300_000, name: str = "a.jpg") -> Part:
    """A part with a picture of that size."""
    return Part("files", lambda: b"x" * size, filename=name, content_type="image/jpeg", size=size)


def test_success_gives_the_json(client: Client, server: FakeHttp) -> None:
    """A 2xx answer comes back as its JSON, an empty one as None."""
    server.answers(ok({"a": 1}), Reply(204, b""))

    assert call(client, repeatable=False) == {"a": 1}
    assert call(client, repeatable=False) is None


@pytest.mark.parametrize(
    ("trouble", "kind"),
    [
        ("reset_early", Unanswered),
        ("reset_in_body", Unanswered),
        ("reset", Unanswered),
        ("close", Unanswered),
        ("hang", Unanswered),
        ("cut_headers", Transient),
        ("cut", Transient),
    ],
)
@pytest.mark.parametrize("repeatable", [True, False])
def test_break_after_connecting_proves_nothing(
    client: Client, server: FakeHttp, trouble: str, repeatable: bool, kind: type[ImageSyncError]
) -> None:
    """Once the connection stood, a break at any stage leaves it open whether the call was carried out."""
    server.answers(Reply(trouble=trouble, body=b'{"result": "success"}'))

    error = outcome(client, repeatable=repeatable, form=[picture()])

    assert type(error) is (kind if repeatable else Ambiguous)
    assert error.what.startswith("Doing it: ")


@pytest.mark.parametrize("repeatable", [True, False])
def test_refused_connection_proves_nothing_was_done(repeatable: bool) -> None:
    """When nothing listens the call was not sent, so it may be repeated whatever it is."""
    port = closed_port()
    client = Client(f"http://127.0.0.1:{port}", timeouts=QUICK)

    error = outcome(client, repeatable=repeatable, body={})

    assert type(error) is Unanswered
    assert f"nothing listens at 127.0.0.1:{port}" in error.what


def test_unknown_host_name_is_not_sent() -> None:
    """A host name that cannot be resolved is told as such."""
    error = outcome(Client("http://no-such-host.invalid", timeouts=QUICK), repeatable=False, body={})

    assert type(error) is Unanswered
    assert "the name of no-such-host.invalid is not known" in error.what


@pytest.mark.parametrize(
    ("status", "repeatable", "kind"),
    [
        (401, False, Unauthorised),
        (403, False, Unauthorised),
        (404, False, NotFound),
        (400, False, Refused),
        (405, False, Permanent),
        (407, False, Permanent),
        (408, False, Ambiguous),
        (408, True, Transient),
        (409, False, Ambiguous),
        (409, True, Transient),
        (413, False, Unfit),
        (415, False, Unfit),
        (422, False, Refused),
        (423, False, Transient),
        (425, False, Transient),
        (429, False, Transient),
        (500, False, Ambiguous),
        (500, True, Transient),
        (502, False, Ambiguous),
        (502, True, Unanswered),
        (503, True, Unanswered),
        (504, True, Unanswered),
        (504, False, Ambiguous),
    ],
)
def test_status_table(
    client: Client, server: FakeHttp, status: int, repeatable: bool, kind: type[ImageSyncError]
) -> None:
    """Every status becomes the error that says what it proves, with the server's own words in it."""
    server.answers(answer(status, {"result": "fail", "fault": "die Sprache ist egal"}))

    error = outcome(client, repeatable=repeatable)

    assert type(error) is kind
    assert "die Sprache ist egal" in error.what
    assert str(status) in error.what


def test_html_error_page_is_not_shown(client: Client, server: FakeHttp) -> None:
    """A router's error page is survived and told by its status alone."""
    server.answers(Reply(502, b"<html><h1>Bad Gateway</h1></html>"))

    assert outcome(client, repeatable=True).what == "Doing it: status 502 Bad Gateway"


@pytest.mark.parametrize("body", [b"", b"{"])
def test_refusal_with_a_broken_body_stays_a_refusal(client: Client, server: FakeHttp, body: bytes) -> None:
    """A 4xx status is proof enough: its body may be cut, as when a proxy refuses a large request half-way."""
    server.answers(Reply(413, body, (("Content-Length", "100"),), last=True))

    assert type(outcome(client, repeatable=False)) is Unfit


@pytest.mark.parametrize(
    "body",
    [
        b"<html>login</html>",
        b"\xff\xfe\x00",
        b"[" * 100_000,
        b"1" * 5000,
        b'{"result": "fail", "fault": "Not Login"}',
    ],
)
def test_unusable_success_is_in_doubt(client: Client, server: FakeHttp, body: bytes) -> None:
    """A 2xx answer that is not JSON, or says that it failed, does not tell whether the call was carried out."""
    server.answers(Reply(200, body), Reply(200, body))

    assert type(outcome(client, repeatable=False)) is (Denied if b"fault" in body else Ambiguous)
    again = outcome(client, repeatable=True)
    assert isinstance(again, Refused if b"fault" in body else Transient)


def test_long_answers_are_not_read(client: Client, server: FakeHttp) -> None:
    """Of an endless answer only the limit is read, and memory stays small."""
    server.answers(Reply(200, b" " * 2**20, repeat_body=100))
    tracemalloc.start()

    error = outcome(client, repeatable=True, timeouts=Timeouts(5, 5, 10))

    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert "longer than 4194304 bytes" in error.what
    assert "credentials.endpoint" in error.hint
    assert peak < 20 * 2**20


def test_packed_answers_are_unpacked_within_the_limit(client: Client, server: FakeHttp) -> None:
    """A proxy that packs answers unasked is understood; a packed bomb is not unpacked."""
    headers = (("Content-Encoding", "gzip"),)
    server.answers(
        Reply(200, gzip.compress(b'{"a": 1}'), headers),
        Reply(200, gzip.compress(b" " * 200 * 2**20), headers),
        Reply(200, b"not gzip", headers),
        Reply(200, b"???", (("Content-Encoding", "br"),)),
    )
    tracemalloc.start()

    assert call(client, repeatable=True) == {"a": 1}
    assert "longer than" in outcome(client, repeatable=True).what
    assert "cannot be unpacked" in outcome(client, repeatable=True).what
    assert "packed as br" in outcome(client, repeatable=True).what
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 60 * 2**20


def listed(body: bytes, packing: str = "identity", limit: int = 2**30) -> list[Any]:
    """The entries of a list that came in one piece."""
    with closing(Spool("Listing", limit)) as spool:
        spool.write(body)
        return list(spool.entries(packing))


@given(st.recursive(st.none() | st.booleans() | st.floats(allow_nan=False) | st.text(), st.lists, max_leaves=8))
@example(["x" * 200_000, {"a": 1}, 12345, -1.5e300, "é" * 70_000])
@example([])
def test_a_list_is_read_entry_by_entry(value: Any) -> None:
    """Whatever it holds, however it is spaced and packed: the same as when it is read as a whole."""
    value = value if isinstance(value, list) else [value]
    for indent in (None, 1):
        body = json.dumps(value, indent=indent, ensure_ascii=False).encode()
        assert listed(body) == value
        assert listed(gzip.compress(body), "gzip") == value


@pytest.mark.parametrize(
    "body", [b"[1, 2", b"[1 2]", b"[1,]", b"[1]]", b"[", b"[,1]", b'["a', b"[{]", b"[1]x", b"[\xff]", b"[nan]", b"[12"]
)
def test_a_broken_list_is_none(body: bytes) -> None:
    """What is cut or no JSON is an error, never a shorter list."""
    with pytest.raises(ValueError, match=r"[a-z]"):
        listed(body)


def test_a_list_that_is_too_long_is_left_with_a_remedy() -> None:
    """Its bytes are counted before and after unpacking, and a single entry has a limit, too."""
    with pytest.raises(Transient, match="longer than 1000 bytes") as caught:
        listed(b"[" + b"1," * 1000 + b"1]", limit=1000)
    assert "Delete" in caught.value.hint
    with pytest.raises(Transient, match="longer than"):
        listed(gzip.compress(b"[" + b" " * 10**6 + b"]"), "gzip", limit=10_000)
    with pytest.raises(ValueError, match="longer than 1048576 characters"):
        listed(b'["' + b"x" * 2**21)
    with pytest.raises(ValueError, match="nested"):
        listed(b"[" * 200_000)


@pytest.mark.parametrize("drip", ["headers", "body"])
def test_dripping_answer_ends_with_the_request(client: Client, server: FakeHttp, drip: str) -> None:
    """An answer that comes byte by byte cannot hold a request beyond its total time."""
    padding = (("X-Long", "x" * 200),) if drip == "headers" else ()
    server.answers(Reply(200, b" " * (2 if drip == "headers" else 400), padding, drip=0.02))
    began = time.monotonic()

    error = outcome(client, repeatable=True)

    assert type(error) is Unanswered
    assert time.monotonic() - began < QUICK.total + 0.7


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirects_are_refused(client: Client, server: FakeHttp, status: int) -> None:
    """A redirect is told with the host it points at; nothing is sent there, and its body is not read."""
    with FakeHttp() as other:
        location = f"{other.url}/login?from=here"
        server.answers(Reply(status, b"x" * 2**20, (("Location", location),), repeat_body=40))

        error = outcome(client, repeatable=False, headers={"X-Auth-Token": TOKEN}, body={"a": 1})

        assert type(error) is Permanent
        assert other.url in error.what
        assert "login" not in error.what
        assert other.requests == []


@pytest.mark.parametrize("location", ["", "/elsewhere", "http://[bad", "//host:99999/", "http://u:p@h/"])
def test_odd_redirects_are_refused(client: Client, server: FakeHttp, location: str) -> None:
    """A redirect to nowhere or to nonsense is refused the same way."""
    server.answers(Reply(302, b"", (("Location", location),)))

    error = outcome(client, repeatable=True)

    assert type(error) is Permanent
    assert "u:p" not in error.what


def test_retry_after_is_read_in_both_forms() -> None:
    """Seconds and dates are understood, capped at an hour; garbage asks for nothing."""
    now = 1_700_000_000.0

    assert retry_after("7", now) == 7
    assert retry_after(formatdate(now + 90, usegmt=True), now) == 90
    assert retry_after("315360000", now) == 3600
    assert retry_after("9" * 400, now) == 3600
    assert retry_after(formatdate(now + 10**9, usegmt=True), now) == 3600
    for garbage in ("", "soon", "-5", "1e9", "0", formatdate(now - 5, usegmt=True), "Mon, 99 Foo 2020", "٣"):
        assert retry_after(garbage, now) is None


@pytest.mark.parametrize(("status", "repeatable"), [(429, False), (503, True)])
def test_retry_after_travels_with_the_error(client: Client, server: FakeHttp, status: int, repeatable: bool) -> None:
    """Whoever repeats the call learns how long the server wants to be left alone."""
    server.answers(Reply(status, b"", (("Retry-After", "17"),)))

    error = outcome(client, repeatable=repeatable)

    assert isinstance(error, Transient)
    assert error.retry_after == 17


def test_form_is_streamed_lazily(client: Client, server: FakeHttp) -> None:
    """Each picture is read only when its turn comes, and arrives whole with its name, type and the plain fields."""
    events: list[str] = []
    size = 3_000_000

    def reader(number: int) -> Callable[[], bytes]:
        def read() -> bytes:
            events.append(f"read {number}")
            return bytes([number]) * size

        return read

    tracemalloc.start()
    parts = [Part("files", reader(n), filename=f"{n}.jpg", content_type="image/jpeg", size=size) for n in range(10)]
    call(client, repeatable=False, form=[Part("category_id", b"c1"), *parts], timeouts=Timeouts(5, 5, 20))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()

    got = server.requests[0].parts()
    assert events == [f"read {n}" for n in range(10)]
    assert [(part.name, part.filename) for part in got[:2]] == [("category_id", None), ("files", "0.jpg")]
    assert [part.content for part in got[1:]] == [bytes([n]) * size for n in range(10)]
    assert got[1].content_type == "image/jpeg"
    assert "content-length" in server.requests[0].headers
    assert peak < 150_000_000  # the server's own copies of 30 MB included


@pytest.mark.parametrize("tls", [False, True])
def test_a_form_of_many_small_parts_and_a_large_one_arrives_whole(
    authority: trustme.CA, tmp_path: Path, tls: bool
) -> None:
    """More buffers than the kernel takes at once, and more bytes than the line takes: gathered, or joined for TLS."""
    bundle = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(bundle))
    contents = [b"%d" % number for number in range(1500)] + [b"x" * 4_000_000, b"last"]
    with FakeHttp(tls=serving(authority.issue_cert("127.0.0.1")) if tls else None) as server:
        client = Client(server.url, verify=str(bundle) if tls else True, timeouts=Timeouts(5, 5, 20))
        call(client, repeatable=False, form=[Part("files", content, filename="a.jpg") for content in contents])
        client.close()

        assert [part.content for part in server.requests[0].parts()] == contents


@pytest.mark.parametrize(
    ("raised", "expected"),
    [(Changed("a changed"), Changed), (Unreadable("a is gone"), Unreadable), (PermissionError(13, "no"), Unreadable)],
)
def test_picture_that_fails_aborts_the_request(
    client: Client, server: FakeHttp, raised: Exception, expected: type[ImageSyncError]
) -> None:
    """A picture that changed comes out as itself, and the server gets a body that is shorter than announced."""

    def read() -> bytes:
        raise raised

    broken = Part("files", read, filename="b.jpg", size=100_000)
    error = outcome(client, repeatable=False, form=[picture(), broken])
    server.answers(ok())
    call(client, repeatable=False)  # a new connection: the broken one is not used again

    assert type(error) is expected
    # The broken request may be cut before the server has read any of it: what counts is that it never was whole.
    assert [request.complete for request in server.requests if request.complete] == [True]


def test_picture_of_another_size_is_not_sent(client: Client, server: FakeHttp) -> None:
    """A reader that returns more or less than it promised counts as changed."""
    error = outcome(client, repeatable=False, form=[Part("files", lambda: b"1234", filename="b.jpg", size=3)])

    assert type(error) is Changed


def test_early_refusal_of_a_large_upload_is_understood(server: FakeHttp) -> None:
    """A server that refuses before it has read the body is heard, not taken for a broken line."""
    import socket

    with socket.create_server(("127.0.0.1", 0)) as listener:

        def refuse() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(1000)
                connection.sendall(b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
                connection.shutdown(socket.SHUT_WR)
                connection.settimeout(5)
                while connection.recv(65536):
                    pass

        thread = threading.Thread(target=refuse)
        thread.start()
        client = Client(f"http://127.0.0.1:{listener.getsockname()[1]}", timeouts=Timeouts(2, 2, 5))

        error = outcome(client, repeatable=False, form=[picture(5_000_000)])
        client.close()
        thread.join(5)

    assert type(error) is Unfit


def test_connection_is_kept_but_not_when_it_idled(client: Client, server: FakeHttp) -> None:
    """Requests in quick succession share a connection; after a second's rest a new one is made."""
    call(client, repeatable=False)
    call(client, repeatable=False)
    client._local.used -= 1.5
    call(client, repeatable=False)

    assert [request.connection for request in server.requests] == [1, 1, 2]


def test_connection_closed_by_the_server_is_replaced(client: Client, server: FakeHttp) -> None:
    """A kept connection that the server has closed meanwhile costs neither an error nor a doubt."""
    server.answers(ok(last=True))
    call(client, repeatable=False)
    threading.Event().wait(0.1)

    assert call(client, repeatable=False) == {"result": "success"}


def test_environment_is_not_asked(client: Client, server: FakeHttp, monkeypatch: pytest.MonkeyPatch) -> None:
    """Proxies and netrc files of the environment get nothing: they would get the token."""
    with FakeHttp() as proxy:
        monkeypatch.setenv("http_proxy", proxy.url)
        monkeypatch.setenv("HTTP_PROXY", proxy.url)
        monkeypatch.setenv("ALL_PROXY", proxy.url)
        call(client, repeatable=True)

        assert proxy.requests == []
        assert len(server.requests) == 1
        assert "authorization" not in server.requests[0].headers


def test_configured_proxy_is_used(server: FakeHttp) -> None:
    """A proxy of the configuration gets the requests, and its password shows up nowhere."""
    proxied = Client("http://mvi.invalid", proxy=server.url.replace("//", "//me:pr0xy-pass@"), timeouts=QUICK)
    call(proxied, repeatable=True)
    dead = Client("http://mvi.invalid", proxy=f"http://me:pr0xy-pass@127.0.0.1:{closed_port()}", timeouts=QUICK)
    error = outcome(dead, repeatable=False)

    assert server.requests[0].target == "http://mvi.invalid/thing"
    assert type(error) is Unanswered
    assert "pr0xy-pass" not in str(error)
    assert "the proxy 127.0.0.1:" in error.what
    assert "credentials.proxy" in error.hint


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    """A certificate authority of our own."""
    return trustme.CA()


def serving(certificate: trustme.LeafCert) -> ssl.SSLContext:
    """What a server with this certificate needs."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificate.configure_cert(context)
    return context


def test_certificates_are_checked(authority: trustme.CA, tmp_path: Path) -> None:
    """Unknown authorities and wrong names are refused with a way out, a CA file is believed, and so is ``False``."""
    bundle = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(bundle))
    with (
        FakeHttp(tls=serving(authority.issue_cert("127.0.0.1"))) as right,
        FakeHttp(tls=serving(authority.issue_cert("elsewhere.example"))) as wrong,
    ):
        slow = Timeouts(3, 3, 5)
        unknown = outcome(Client(right.url, timeouts=slow), repeatable=False)
        misnamed = outcome(Client(wrong.url, verify=str(bundle), timeouts=slow), repeatable=False)
        trusted = call(Client(right.url, verify=str(bundle), timeouts=slow), repeatable=False)
        unchecked = call(Client(wrong.url, verify=False, timeouts=slow), repeatable=False)

        assert type(unknown) is type(misnamed) is Unanswered
        assert "is not trusted" in unknown.what
        assert "credentials.ca_bundle" in unknown.hint
        assert "127.0.0.1" in misnamed.what
        assert "is for another name" in misnamed.what
        assert "credentials.endpoint" in misnamed.hint
        assert "ca_bundle" not in misnamed.hint
        assert trusted == unchecked == {"result": "success"}
        assert len(right.requests) == len(wrong.requests) == 1


def test_tls_break_after_the_handshake_is_in_doubt(authority: trustme.CA, tmp_path: Path) -> None:
    """Over TLS, too, a reset after the request leaves it open whether it was carried out."""
    bundle = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(bundle))
    with FakeHttp(tls=serving(authority.issue_cert("127.0.0.1"))) as server:
        client = Client(server.url, verify=str(bundle), timeouts=Timeouts(3, 3, 5))
        server.answers(Reply(trouble="close"), Reply(trouble="cut"), Reply(trouble="reset"))

        assert [type(outcome(client, repeatable=False, body={})) for _ in range(3)] == [Ambiguous] * 3


def test_http_to_a_tls_port_is_told(authority: trustme.CA, server: FakeHttp) -> None:
    """Whether the server sends an alert or a page that says so: the remedy is https, and no picture is blamed."""
    said = b"<center>The plain HTTP request was sent to HTTPS port</center>"
    server.answers(Reply(400, said))
    page = outcome(Client(server.url, timeouts=QUICK), repeatable=False)
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:

        def alert() -> None:
            with listener.accept()[0] as one:
                one.recv(4096)
                one.sendall(b"\x15\x03\x01\x00\x02\x02\x50")

        thread = threading.Thread(target=alert)
        thread.start()
        alerted = outcome(Client(f"http://127.0.0.1:{listener.getsockname()[1]}", timeouts=QUICK), repeatable=False)
        thread.join()

    assert type(page) is Permanent
    assert type(alerted) is Unanswered
    assert "https://" in page.hint
    assert "https://" in alerted.hint


def test_https_to_a_plain_server_is_told(server: FakeHttp) -> None:
    """Speaking https to a plain port fails before anything is sent, with a hint."""
    error = outcome(Client(server.url.replace("http:", "https:"), timeouts=QUICK), repeatable=False)

    assert type(error) is Unanswered
    assert "no TLS with" in error.what or "in time" in error.what


def test_missing_ca_file_is_a_mistake_of_the_configuration(tmp_path: Path) -> None:
    """A CA file that is not there is named before anything is sent."""
    with pytest.raises(ConfigError, match=r"gone\.pem"):
        Client("https://127.0.0.1", verify=str(tmp_path / "gone.pem"))


def test_header_values_are_checked_without_showing_them() -> None:
    """Blanks around a key are dropped; a key with a line break inside is refused, and not repeated in the error."""
    assert header_value(" key\n", "credentials.api_key") == "key"
    for bad in ("s3cr3t\nvalue", "s3cr3t\x00", "s3cr3t\u20ac"):
        with pytest.raises(ConfigError) as caught:
            header_value(bad, "credentials.api_key")
        assert "s3cr3t" not in str(caught.value)


def test_secrets_are_masked_in_errors(client: Client, server: FakeHttp, caplog: pytest.LogCaptureFixture) -> None:
    """A server that echoes the token cannot get it into an error, a cause or a log line."""
    log.hide(TOKEN)
    caplog.set_level(logging.DEBUG)
    server.answers(
        answer(400, {"result": "fail", "fault": f"bad token {TOKEN}"}),
        Reply(200, f"token {TOKEN}".encode()),
        Reply(trouble="reset"),
    )
    for _ in range(3):
        error = outcome(client, repeatable=True, headers={"X-Auth-Token": TOKEN})
        chain: BaseException | None = error
        while chain is not None:
            assert TOKEN not in str(chain)
            chain = chain.__cause__ or (None if chain.__suppress_context__ else chain.__context__)
    assert TOKEN not in caplog.text


def test_words_of_a_server_are_shown_tamely() -> None:
    """Control characters, line breaks and novels do not reach a terminal."""
    assert sanitize("a\x1b]0;x\x07\n  b") == "a?]0;x? b"
    assert len(sanitize("x" * 10_000)) == 300


@pytest.mark.parametrize("shown", [sanitize, words_of_aws])
def test_a_secret_with_blanks_in_a_row_is_masked_before_they_are_folded(shown: Callable[[str], str]) -> None:
    """Whichever vendor's server repeats it."""
    log.hide("open  sesame")

    assert shown("who says open  sesame\n may enter") == f"who says {log.MASK} may enter"


def test_threads_have_their_own_connections(client: Client, server: FakeHttp) -> None:
    """Sixteen threads use one client at once, each on its own connection, and all get their own answers."""
    server.script = lambda request: ok({"path": request.target})
    got: dict[int, str] = {}
    barrier = threading.Barrier(16)

    def work(number: int) -> None:
        barrier.wait()
        for _ in range(5):
            answered = client.send("GET", f"/{number}", what="Asking", repeatable=True, timeouts=Timeouts(5, 5, 10))
            got[number] = json.loads(answered.body)["path"]

    threads = [threading.Thread(target=work, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)

    assert got == {number: f"/{number}" for number in range(16)}
    assert len({request.connection for request in server.requests}) == 16


def test_download_goes_to_the_sink(client: Client, server: FakeHttp) -> None:
    """A long body goes to its sink without a limit; a cut one is an error; a refusal is not taken for content."""
    server.answers(
        Reply(200, b"z" * 2**20, repeat_body=20), Reply(200, b"z" * 1000, trouble="cut"), answer(404, {"fault": "no"})
    )
    taken: list[int] = []

    def fetch() -> Any:
        return client.send(
            "GET",
            "/x",
            what="Fetching",
            repeatable=True,
            sink=lambda chunk: taken.append(len(chunk)),
            timeouts=Timeouts(5, 5, 10),
        )

    assert fetch().status == 200
    assert sum(taken) == 20 * 2**20
    with pytest.raises(Transient):
        fetch()
    taken.clear()
    assert fetch().status == 404
    assert taken == []


def test_each_block_of_a_large_upload_says_that_the_caller_lives(server: FakeHttp) -> None:
    """A request may take an hour on a slow line; what moves is alive."""
    beats: list[None] = []
    server.answers(ok({}))
    client = Client(server.url, alive=lambda: beats.append(None))
    form = [Part("files", bytes(4 << 20), filename="a.jpg")]
    client.send("POST", "/files", what="Uploading", repeatable=False, form=form)

    assert len(beats) > 16
