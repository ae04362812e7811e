"""A small real server: the stub behind the real guard, over TLS with certificates like those of a stack."""

import contextlib
import json
import ssl
from dataclasses import dataclass, field
from pathlib import Path

from cryptography.hazmat.primitives import serialization

from components.vast.identity import Authority
from emulator.scoring import Served
from emulator.stub import Stub
from harness.guard import guarded

MODEL = "BAAI/bge-reranker-base"
KEY = "guarded-key-that-must-not-leak-0123456789"
OWN_NAME = "one-server.reranker.internal"  # in its certificate with its address, as in a stack


class Faulty:
    """Records requests. While `faults` is not empty, it answers itself: (status, headers, body) or "drop"."""

    def __init__(self, app):
        self.app = app
        self.faults = []
        self.bodies = []
        self.in_flight = self.most_in_flight = 0
        self.hold = None

    async def __call__(self, scope, receive, send):
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            if self.hold:
                await self.hold(self)
            body = bytearray()
            while True:
                message = await receive()
                body += message.get("body", b"")
                if not message.get("more_body"):
                    break
            self.bodies.append((scope["path"], bytes(body)))
            fault = self.faults.pop(0) if self.faults else None
            if fault == "drop":
                # a body shorter than its content-length: uvicorn closes the connection
                await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"1000")]})
                await send({"type": "http.response.body", "body": b"{", "more_body": True})
                raise RuntimeError("dropped on purpose")
            if fault:
                status, headers, content = fault
                await send({"type": "http.response.start", "status": status, "headers": headers})
                await send({"type": "http.response.body", "body": content})
                return
            messages = [{"type": "http.request", "body": bytes(body), "more_body": False}]

            async def replay():
                return messages.pop() if messages else await receive()

            await self.app(scope, replay, send)
        finally:
            self.in_flight -= 1


@dataclass
class GuardedServer:
    url: str
    ca: str
    ca_file: Path
    faulty: Faulty
    key: str = field(default=KEY, repr=False)
    model: str = MODEL

    def fail(self, *faults):
        self.faulty.faults = list(faults)

    def requests(self):
        return [(path, json.loads(body) if body else None) for path, body in self.faulty.bodies]


def refusal(status, message="no", **headers):
    pairs = [(name.replace("_", "-").encode(), str(value).encode()) for name, value in headers.items()]
    return status, pairs, json.dumps({"error": {"message": message, "code": status}}).encode()


@contextlib.contextmanager
def guarded_server(folder: Path, *, tls=True, options=None, address="127.0.0.1", max_model_len=512):
    """Serve during a block. `options`: of the guard; `address`: the address in the certificate."""
    ca, cert, key = certificates(address)
    ca_file = folder / "ca.pem"
    for name, text in (("ca.pem", ca), ("cert.pem", cert), ("key.pem", key)):
        (folder / name).write_text(text)
    faulty = Faulty(Stub(Served((MODEL,), MODEL, max_model_len)))
    with guarded(faulty, KEY, options, (cert, key) if tls else None) as guard:
        faulty.bodies.clear()
        scheme = "https" if tls else "http"
        yield GuardedServer(f"{scheme}://127.0.0.1:{guard.port}", ca if tls else "", ca_file, faulty)


def certificates(address):
    """Return PEM of a CA, of a leaf for the address and OWN_NAME, and of the leaf's key, like those of a stack."""
    authority = Authority.make("test")
    identity = authority.issue(address, OWN_NAME)
    key = serialization.load_der_private_key(identity.key, None).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return authority.certificate, ssl.DER_cert_to_PEM_cert(identity.certificate), key.decode()
