"""Servers on loopback that fail or are hostile, one behaviour each. Used by the tests of the HTTP clients."""

import contextlib
import gzip
import socket
import threading

IP = "127.0.0.1"
ZIPPED = b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n%s"


@contextlib.contextmanager
def server(act, tls=None):
    """Yield the URL of a server that calls `act(connection, stopped)` in a thread for each connection."""
    stopped = threading.Event()

    def handle(connection):
        with connection, contextlib.suppress(OSError):
            if tls is None:
                act(connection, stopped)
            else:
                with tls.wrap_socket(connection, server_side=True) as tls_connection:
                    act(tls_connection, stopped)

    def serve(listener):
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=handle, args=(listener.accept()[0],), daemon=True).start()

    with socket.create_server((IP, 0)) as listener:
        threading.Thread(target=serve, args=(listener,), daemon=True).start()
        try:
            yield f"{'https' if tls else 'http'}://{IP}:{listener.getsockname()[1]}"
        finally:
            stopped.set()
            listener.shutdown(socket.SHUT_RDWR)


def read_request(connection):
    data = b""
    while b"\r\n\r\n" not in data:
        data += connection.recv(65536) or b"\r\n\r\n"
    return data


def drip(head, drop=b"x"):
    """Send `head`, then a drop every 20 ms: no single read takes long."""

    def act(connection, stopped):
        read_request(connection)
        connection.sendall(head)
        while not stopped.wait(0.02):
            connection.sendall(drop)

    return act


def reply(*parts):
    def act(connection, _stopped):
        read_request(connection)
        for part in parts:
            connection.sendall(part)

    return act


def hang(_connection, stopped):
    stopped.wait(20)


def hang_after_request(connection, stopped):
    read_request(connection)
    stopped.wait(20)


def send_300_mb(connection, _stopped):
    read_request(connection)
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 314572800\r\n\r\n")
    for _ in range(300):
        connection.sendall(bytes(1 << 20))


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
    "one endless header": (reply(b"HTTP/1.1 200 OK\r\nX: ", bytes(1 << 20)), "malformed"),
    "endless headers": (reply(b"HTTP/1.1 200 OK\r\n", b"X: y\r\n" * 10000), "malformed"),
    "300 MB": (send_300_mb, "malformed"),
    "a gzip bomb": (reply(ZIPPED % (len(BOMB), BOMB)), "malformed"),
    "gzip that is none": (reply(ZIPPED % (2, b"{}")), "malformed"),
    "gzip that is cut": (reply(ZIPPED % (20, gzip.compress(bytes(9999))[:20])), "malformed"),
    "an encoding not asked for": (reply((ZIPPED % (1, b"x")).replace(b"gzip", b"br")), "malformed"),
    "no HTTP": (reply(b"SSH-2.0-OpenSSH_9.6\r\n"), "malformed"),
    "chunks that are none": (reply(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"), "broke"),
    "a body cut in the middle": (reply(b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{}"), "broke"),
    "a chunk cut in the middle": (reply(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\nx"), "broke"),
    "no answer": (reply(), "broke"),
}  # fmt: skip
