"""The one HTTP transport against servers that mean harm or fail: each call ends by its deadline, within its bound."""

import contextlib
import gzip
import socket
import ssl
import threading
import time

import pytest

from components.vast.identity import DOMAIN, Authority
from reranker.http import Answer, HttpTransport, Unanswered, bearer
from tests.unit.hostile_server import HOSTILE, IP, ZIPPED, hang, read_request, reply, server

NAME = f"one.{DOMAIN}"
TIMEOUT_S = 0.6
GRACE_S = 2.0  # a busy machine
KEY = "a-key-that-must-not-leak"


@pytest.fixture(scope="module")
def authority():
    return Authority.make("ours")


@pytest.fixture(scope="module")
def tls(authority, tmp_path_factory):
    folder = tmp_path_factory.mktemp("tls")
    for name, text in zip(("cert.pem", "key.pem"), authority.issue(IP, NAME).pem(), strict=True):
        (folder / name).write_text(text)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "cert.pem", folder / "key.pem")
    return context


def failure(send, *args, **options):
    """Return why a call is not answered; it has to be over by its deadline."""
    began = time.monotonic()
    with pytest.raises(Unanswered) as caught:
        send(*args, **{"timeout_s": TIMEOUT_S, "max_bytes": 4 << 20} | options)
    assert time.monotonic() - began < TIMEOUT_S + GRACE_S
    assert KEY not in str(caught.value) + repr(caught.value)
    return caught.value


@pytest.mark.parametrize("encrypted", [False, True], ids=["http", "https"])
@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_answer_ends_by_the_deadline_and_counts_as_sent(case, encrypted, authority, tls):
    act, kind = HOSTILE[case]
    send = HttpTransport(ca=authority.certificate, keep=2)
    with server(act, tls if encrypted else None) as url:
        error = failure(send, "GET", f"{url}/", headers=bearer(KEY))
    assert (error.kind, error.sent) == (kind, True)
    assert error.broke == (kind == "broke")


def test_a_request_that_nobody_reads_ends_by_the_deadline():
    with server(hang) as url:
        error = failure(HttpTransport(), "POST", url, body=bytes(64 << 20))
    assert (error.kind, error.sent) == ("timeout", True)


def test_a_body_that_is_taken_in_drips_ends_by_the_deadline(authority, tls):
    def sip(line, over):
        while not over.wait(0.02):
            line.recv(16384)

    with server(sip, tls) as url:
        error = failure(HttpTransport(ca=authority.certificate), "POST", url, body=bytes(64 << 20))
    assert (error.kind, error.sent) == ("timeout", True)


@pytest.mark.parametrize(
    ("act", "kind"),
    [
        (hang, "timeout"),
        (lambda line, _over: line.recv(9), "broke"),
        (lambda line, _over: line.sendall(b"HTTP/1.1 400 \r\n"), "malformed"),
    ],
)
def test_a_handshake_that_fails_was_not_sent(act, kind, authority):
    with server(act) as url:
        error = failure(HttpTransport(ca=authority.certificate), "GET", url.replace("http", "https"))
    assert (error.kind, error.sent) == (kind, False)


def test_a_handshake_has_its_own_shorter_deadline(authority):
    send = HttpTransport(ca=authority.certificate, connect_s=0.2)
    with server(hang) as url:
        error = failure(send, "GET", url.replace("http", "https"), timeout_s=60)
    assert str(error) == "no answer within 0.2 s"


def test_a_closed_port_a_missing_socket_and_an_unknown_name_were_not_sent(tmp_path):
    with socket.create_server((IP, 0)) as listener:
        closed = f"http://{IP}:{listener.getsockname()[1]}"
    for error in (
        failure(HttpTransport(), "GET", closed),
        failure(HttpTransport(unix_socket=str(tmp_path / "none")), "GET", "http://localhost/"),
    ):
        assert (error.kind, error.sent) == ("refused", False)
    error = failure(HttpTransport(), "GET", "http://no-such-host.invalid/")
    assert (error.kind, error.sent) == ("unreachable", False)


@pytest.mark.parametrize(
    ("url", "headers"),
    [
        ("nonsense", {}),
        ("ftp://127.0.0.1/", {}),
        ("http://127.0.0.1:99999/", {}),
        ("http://127.0.0.1:9/a b", {}),
        ("http://127.0.0.1:9/\r\nX: y", {}),
        ("http://127.0.0.1:9/", bearer(f"{KEY}\r\nX: y")),
        ("http://127.0.0.1:9/", bearer(f"{KEY}\u20ac")),
    ],
)
def test_what_no_request_can_carry_is_not_sent_and_not_shown(url, headers):
    error = failure(HttpTransport(), "GET", url, headers=headers)
    assert (error.kind, error.sent) == ("unsendable", False)


def test_a_redirect_is_the_answer_and_the_key_goes_nowhere_else():
    elsewhere = []
    with server(lambda line, _over: elsewhere.append(read_request(line))) as other:
        head = f"HTTP/1.1 302 Found\r\nLocation: {other}/\r\nContent-Length: 0\r\n\r\n".encode()
        with server(reply(head)) as url:
            answer = HttpTransport()("GET", url, headers=bearer(KEY))
    assert (answer.status, answer.headers["location"]) == (302, f"{other}/")
    assert elsewhere == []


def test_trust_is_the_ca_alone_for_the_address_or_the_name_that_is_asked_for(authority, tls):
    other = Authority.make("another").certificate
    with server(reply(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"), tls) as url:
        for trusted in ({}, {"server_name": NAME}):
            assert HttpTransport(ca=authority.certificate, **trusted)("GET", url).json() == {}
        for wrong in ({"ca": other}, {}, {"ca": authority.certificate, "server_name": "another.invalid"}):
            error = failure(HttpTransport(**wrong), "GET", url, headers=bearer(KEY))
            assert (error.kind, error.sent) == ("untrusted", False)


def test_an_answer_is_unzipped_and_its_path_is_sent_letter_for_letter():
    seen = []
    zipped = gzip.compress(b'{"a": 1}')

    def act(line, _over):
        seen.append(read_request(line))
        line.sendall(ZIPPED % (len(zipped), zipped))

    with server(act) as url:
        assert HttpTransport()("GET", f"{url}/a/..//%2e%2E/b;c?d=%41&&").json() == {"a": 1}
    assert seen[0].startswith(b"GET /a/..//%2e%2E/b;c?d=%41&& HTTP/1.1\r\n")


def test_kept_connections_are_used_again_and_one_that_the_server_closed_is_not():
    opened, closing = [], threading.Event()

    def act(line, over):
        opened.append(line)
        while not closing.is_set() and read_request(line) != b"\r\n\r\n":
            line.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")

    send = HttpTransport(keep=1)
    with server(act) as url:
        assert [send("GET", url).status for _ in range(3)] == [200] * 3
        assert len(opened) == 1
        closing.set()
        opened[0].shutdown(socket.SHUT_RDWR)
        closing.clear()
        assert send("GET", url).status == 200
        assert len(opened) == 2
        send.close()
        assert send._idle == []


def test_a_unix_socket_is_asked_as_localhost(tmp_path):
    seen = []
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "s"))
        listener.listen()

        def serve():
            with listener.accept()[0] as line:
                seen.append(read_request(line))
                line.sendall(b"HTTP/1.1 200 OK\r\nETag: x\r\nContent-Length: 0\r\n\r\n")

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        answer = HttpTransport(unix_socket=str(tmp_path / "s"))("GET", "http://localhost/config/")
        thread.join(5)
    assert (answer.status, answer.headers["etag"], answer.body) == (200, "x", b"")
    assert b"\r\nHost: localhost\r\n" in seen[0]


@pytest.mark.parametrize(
    ("scheme", "target"), [("http", b"GET http://api.test/x "), ("https", b"CONNECT api.test:443 ")]
)
def test_the_environments_proxy_is_used_where_it_is_asked_for(scheme, target, monkeypatch):
    seen = []

    def act(line, _over):
        seen.append(read_request(line))
        line.sendall(b"HTTP/1.1 407 Who are you\r\nContent-Length: 0\r\n\r\n")

    with server(act) as url:
        monkeypatch.setenv(f"{scheme}_proxy", url.replace("//", "//user:pass@"))
        monkeypatch.delenv("no_proxy", raising=False)
        with contextlib.suppress(Unanswered):
            HttpTransport(proxies=True)("GET", f"{scheme}://api.test/x", timeout_s=5)
        assert seen[0].startswith(target)
        assert b"Proxy-Authorization: Basic dXNlcjpwYXNz\r\n" in seen[0]
        assert failure(HttpTransport(), "GET", f"{scheme}://{IP}:9/x").kind == "refused"
    assert len(seen) == 1


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b'{"error": {"message": "no such model", "code": 404}}', "no such model"),
        (b'{"error": "Unauthorized"}', "Unauthorized"),
        (b'{"detail": "Not Found"}', "Not Found"),
        (b'{"message": "m"}', "m"),
        (b"Internal Server Error\n", "Internal Server Error"),
        (b"[" * 100000, "[" * 100000),
        (b'["odd"]', "['odd']"),
        (b"", "no text"),
    ],
)
def test_an_error_body_is_read_in_the_forms_that_vllm_fastapi_and_caddy_write(body, words):
    assert Answer(400, body).message() == words


def test_no_body_and_no_header_is_in_a_repr():
    assert KEY not in repr(Answer(200, KEY.encode(), {"set-cookie": KEY}))


def test_a_refusal_that_comes_before_the_body_was_taken_is_read():
    def refuse(line, _over):
        line.recv(1000)
        line.sendall(b"HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\nConnection: close\r\n\r\nno")

    with server(refuse) as url:
        answer = HttpTransport()("POST", url, body=b"x" * (32 << 20), timeout_s=10)
    assert (answer.status, answer.text) == (413, "no")
