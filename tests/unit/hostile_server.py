"""Servers on loopback that fail or mean harm, one behaviour each. Used by the tests of the HTTP clients."""

import contextlib
import gzip
import socket
import threading

IP = "127.0.0.1"
ZIPPED = b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n%s"


@contextlib.contextmanager
def server(act, tls=None):
    """Yield the address of a server that does `act(connection, over)` on each connection, in a thread of its own."""
    over = threading.Event()

    def one(line):
        with line, contextlib.suppress(OSError):
            if tls is None:
                act(line, over)
            else:
                with tls.wrap_socket(line, server_side=True) as inside:
                    act(inside, over)

    def serve(listener):
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=one, args=(listener.accept()[0],), daemon=True).start()

    with socket.create_server((IP, 0)) as listener:
        threading.Thread(target=serve, args=(listener,), daemon=True).start()
        try:
            yield f"{'https' if tls else 'http'}://{IP}:{listener.getsockname()[1]}"
        finally:
            over.set()
            listener.shutdown(socket.SHUT_RDWR)


def read_request(line):
    got = b""
    while b"\r\n\r\n" not in got:
        got += line.recv(65536) or b"\r\n\r\n"
    return got


def drip(head, drop=b"x"):
    """Return what sends `head`, then a drop every 20 ms: no single read takes long."""

    def act(line, over):
        read_request(line)
        line.sendall(head)
        while not over.wait(0.02):
            line.sendall(drop)

    return act


def say(*parts):
    def act(line, _over):
        read_request(line)
        for part in parts:
            line.sendall(part)

    return act


def hang(line, over):
    over.wait(20)


def hang_after_request(line, over):
    read_request(line)
    over.wait(20)


def endless(line, over):
    """Send 300 MB, or as much of it as is taken."""
    read_request(line)
    line.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 314572800\r\n\r\n")
    for _ in range(300):
        line.sendall(bytes(1 << 20))


BOMB = gzip.compress(bytes(300 << 20), 1)
HOSTILE = {
    "hangs after accept": (hang, "timeout"),
    "hangs after the request": (hang_after_request, "timeout"),
    "drips a status line": (drip(b"HTTP/1.1 "), "timeout"),
    "drips a header": (drip(b"HTTP/1.1 200 OK\r\nX: "), "timeout"),
    "drips a body": (drip(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n"), "timeout"),
    "drips chunks": (drip(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n"), "timeout"),
    "drips continues": (drip(b"", b"HTTP/1.1 100 Continue\r\n\r\n"), "timeout"),
    "drips a trailer": (drip(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n", b"x: y\r\n"), "timeout"),
    "one endless header": (say(b"HTTP/1.1 200 OK\r\nX: ", bytes(1 << 20)), "malformed"),
    "endless headers": (say(b"HTTP/1.1 200 OK\r\n", b"X: y\r\n" * 10000), "malformed"),
    "300 MB": (endless, "malformed"),
    "a gzip bomb": (say(ZIPPED % (len(BOMB), BOMB)), "malformed"),
    "gzip that is none": (say(ZIPPED % (2, b"{}")), "malformed"),
    "gzip that is cut": (say(ZIPPED % (20, gzip.compress(bytes(9999))[:20])), "malformed"),
    "an encoding not asked for": (say((ZIPPED % (1, b"x")).replace(b"gzip", b"br")), "malformed"),
    "no HTTP": (say(b"SSH-2.0-OpenSSH_9.6\r\n"), "malformed"),
    "chunks that are none": (say(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"), "broke"),
    "a body cut in the middle": (say(b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{}"), "broke"),
    "a chunk cut in the middle": (say(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\nx"), "broke"),
    "no answer": (say(), "broke"),
}  # fmt: skip
