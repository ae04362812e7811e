"""What a probe makes of each thing that a server, or a network, can do to it: real sockets on loopback."""

import contextlib
import json
import re
import socket
import ssl
import struct
import threading

import pytest

from components.readiness import Readiness
from components.vast.identity import Authority
from components.vast.probe import HttpProbe
from ops.status import probe

IP = "127.0.0.1"
OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\n{}"
RESET = struct.pack("ii", 1, 0)  # SO_LINGER with no time: close() sends RST


@pytest.fixture(scope="module")
def authority():
    return Authority.make("ours")


def context_of(authority, folder, ip=IP):
    certificate, key = authority.issue(ip).pem()
    (folder / "cert.pem").write_text(certificate)
    (folder / "key.pem").write_text(key)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "cert.pem", folder / "key.pem")
    return context


@contextlib.contextmanager
def server(act):
    """Yield the port of a server that does `act` with each connection, then closes it."""
    with socket.create_server((IP, 0)) as listener:

        def serve():
            with contextlib.suppress(OSError):
                while True:
                    line, _ = listener.accept()
                    with line, contextlib.suppress(OSError):
                        act(line)

        threading.Thread(target=serve, daemon=True).start()
        yield listener.getsockname()[1]
        with contextlib.suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)


def request(line):
    """Return one request, its body too: what is left unread would turn a close into a reset."""
    got = b""
    while b"\r\n\r\n" not in got:
        got += line.recv(65536) or b"\r\n\r\n"
    head, _, body = got.partition(b"\r\n\r\n")
    size = int((re.search(rb"content-length: (\d+)", head.lower()) or [0, 0])[1])
    while len(body) < size:
        body += line.recv(65536)
    return head + b"\r\n\r\n" + body


def saying(answer):
    """Return what reads a request and says this."""

    def act(line):
        request(line)
        line.sendall(answer)

    return act


def resetting(line):
    line.recv(65536)
    line.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)


def secured(context, answer=OK):
    """Return what says this by TLS."""

    def act(line):
        with context.wrap_socket(line, server_side=True) as inside:
            request(inside)
            inside.sendall(answer)

    return act


def ask(port, *, ip=IP, ca="", env=None, **fields):
    return HttpProbe(**{"port": 8000, "timeout_s": 5.0, "ca_certificate": ca, **fields}).check(ip, port, env or {})


def free_port():
    with socket.create_server((IP, 0)) as listener:
        return listener.getsockname()[1]


def test_an_expected_answer_is_ready_and_the_request_carries_key_and_body():
    seen = []

    def act(line):
        seen.append(request(line))
        line.sendall(OK)

    with server(act) as port:
        headers = {"Authorization": "Bearer ${KEY}"}
        asked = {"method": "POST", "path": "/rerank", "headers": headers, "body": {"q": 1}, "expect_body": "{"}
        probed = ask(port, **asked, env={"KEY": "k"})
    assert probed.verdict == "ready"
    assert seen[0].startswith(b"POST /rerank HTTP/1.1\r\n")
    assert b"Authorization: Bearer k\r\n" in seen[0]
    assert seen[0].endswith(b'{"q": 1}')


def test_a_refused_connection_is_dead():
    probed = ask(free_port())
    assert (probed.verdict, probed.detail) == ("dead", "the connection is refused")


@pytest.mark.parametrize("act", [resetting, lambda line: line.recv(65536)], ids=["reset", "closed"])
def test_a_connection_that_is_cut_off_without_an_answer_is_dead(act):
    with server(act) as port:
        probed = ask(port)
    assert (probed.verdict, probed.detail) == ("dead", "the connection is cut off")


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 500 Internal Server Error\r\ncontent-length: 0\r\n\r\n",
        b"HTTP/1.1 302 Found\r\nlocation: http://127.0.0.1:1/\r\ncontent-length: 0\r\n\r\n",
        OK,
        b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: 2\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\ncontent-length: 99\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
        b"SSH-2.0-OpenSSH_9.6\r\n",
    ],
    ids=["error", "elsewhere", "other body", "not gzip", "cut short", "not chunks", "not http"],
)
def test_an_answer_that_no_working_server_gives_is_dead(answer):
    with server(saying(answer)) as port:
        assert ask(port, expect_body="relevance_score").verdict == "dead"


def test_a_server_that_takes_the_request_and_says_nothing_is_busy():
    over = threading.Event()
    with server(lambda _line: over.wait(10)) as port:
        probed = ask(port, timeout_s=0.3)
        over.set()
    assert (probed.verdict, probed.detail) == ("busy", "no answer within 0.3 s")


def test_an_answer_that_stops_half_way_is_busy():
    over = threading.Event()

    def act(line):
        saying(OK[:-1])(line)
        over.wait(10)

    with server(act) as port:
        probed = ask(port, timeout_s=0.3)
        over.set()
    assert probed.verdict == "busy"


def test_a_connection_that_nobody_takes_is_silent():
    with socket.socket() as listener, contextlib.ExitStack() as lines:
        listener.bind((IP, 0))
        listener.listen(0)
        for _ in range(4):  # fill the backlog: what comes then gets no answer to its SYN
            line = lines.enter_context(socket.socket())
            line.setblocking(False)
            line.connect_ex(listener.getsockname())
        probed = ask(listener.getsockname()[1], timeout_s=0.3)
    assert (probed.verdict, probed.detail) == ("no_answer", "no connection within 0.3 s")


def test_a_name_that_does_not_resolve_proves_nothing():
    assert ask(80, ip="no-such-host.invalid").verdict == "no_answer"


def test_an_address_without_a_way_to_it_proves_nothing():
    probed = ask(80, ip="255.255.255.255")
    assert (probed.verdict, probed.detail) == ("no_answer", "the address cannot be reached")


def test_a_certificate_of_ours_for_the_address_is_ready(authority, tmp_path):
    with server(secured(context_of(authority, tmp_path))) as port:
        assert ask(port, ca=authority.certificate).verdict == "ready"


@pytest.mark.parametrize(("whose", "ip"), [("another's", IP), ("ours", "127.0.0.9")])
def test_a_certificate_of_another_authority_or_for_another_address_is_a_wrong_certificate(
    authority, tmp_path, whose, ip
):
    signer = authority if whose == "ours" else Authority.make(whose)
    with server(secured(context_of(signer, tmp_path, ip))) as port:
        probed = ask(port, ca=authority.certificate)
    assert probed.verdict == "wrong_certificate"
    assert probed.detail.startswith("its certificate is not trusted (")


def test_plain_http_on_a_port_that_should_speak_tls_is_dead(authority):
    with server(lambda line: (line.recv(65536), line.sendall(OK))) as port:
        probed = ask(port, ca=authority.certificate)
    assert probed.verdict == "dead"
    assert probed.detail.startswith("TLS fails")


@pytest.mark.parametrize("act", [resetting, lambda line: line.recv(65536)], ids=["reset", "closed"])
def test_a_handshake_that_is_cut_off_is_dead(authority, act):
    with server(act) as port:
        assert ask(port, ca=authority.certificate).verdict == "dead"


def test_a_handshake_that_is_not_answered_is_busy(authority):
    over = threading.Event()
    with server(lambda _line: over.wait(10)) as port:
        probed = ask(port, ca=authority.certificate, timeout_s=0.3)
        over.set()
    assert probed.verdict == "busy"


def test_tls_on_a_port_that_is_asked_in_clear_is_dead(authority, tmp_path):
    with server(secured(context_of(authority, tmp_path))) as port:
        assert ask(port).verdict == "dead"


def test_a_key_that_no_header_can_hold_is_dead_and_is_not_told():
    probed = ask(1, headers={"Authorization": "Bearer ${KEY}"}, env={"KEY": "se\ncret"})
    assert probed.verdict == "dead"
    assert "cret" not in probed.detail


PAIR = Readiness("m", "q", "pizza", "deep learning", (0.0, 1.0))


@pytest.mark.parametrize("scores", [(None, None), ("NaN", 0.1), (7.5, 0.1), (0.1, 0.9)], ids=str)
def test_a_server_whose_scores_are_none_or_do_not_rank_is_dead_and_its_scores_are_named(scores):
    results = [
        f'{{"index": {n}, "relevance_score": {"null" if s is None else s}}}'
        for n, s in ((1, scores[0]), (0, scores[1]))
    ]
    body = f'{{"results": [{", ".join(results)}]}}'.encode()
    with server(saying(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%s" % (len(body), body))) as port:
        probed = ask(port, method="POST", path="/rerank", readiness=PAIR)
    assert probed.verdict == "dead"
    assert "relevance_score" in probed.detail or "outside" in probed.detail or "does not rank" in probed.detail


def test_what_a_server_says_to_an_error_is_in_the_detail_without_secrets_in_one_line_and_cut():
    said = {"error": {"message": "truncate_prompt_tokens (9999) is too large\n" + "the-secret-key " * 100}}
    body = json.dumps(said).encode()
    with server(saying(b"HTTP/1.1 400 Bad Request\r\ncontent-length: %d\r\n\r\n%s" % (len(body), body))) as port:
        probed = ask(port, headers={"Authorization": "Bearer ${KEY}"}, env={"KEY": "the-secret-key"})
    assert probed.detail.startswith("HTTP 400 on /: truncate_prompt_tokens (9999) is too large [redacted]")
    assert "the-secret-key" not in probed.detail
    assert "\n" not in probed.detail
    assert len(probed.detail) < 400


@pytest.mark.parametrize(("score", "serves"), [("0.5", True), ("NaN", False), ("null", False), ("1e999", False)])
def test_status_says_yes_only_of_a_server_whose_score_is_a_number(score, serves):
    body = b'{"model": "m", "results": [{"index": 0, "relevance_score": %s}]}' % score.encode()
    with server(saying(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%s" % (len(body), body))) as port:
        assert (probe(f"http://{IP}:{port}", "a key", "").took_ms is not None) == serves
