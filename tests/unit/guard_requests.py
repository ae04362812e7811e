"""Keys, limits and a server for tests of the guard over sockets."""

from hashlib import sha256

# the management key and a client key
KEYS = ["first-key-0123456789", "second-key-0123456789"]
KEY = KEYS[0].encode()
OPTIONS = {"max_bytes": 2000, "max_documents": 5, "open_health": True}
DIGESTS = [sha256(key.encode()).hexdigest() for key in KEYS]


class App:
    """The server behind the guard: answers every request and records it in `reached`."""

    def __init__(self):
        self.reached = []

    async def __call__(self, scope, receive, send):
        body = b""
        while True:
            message = await receive()
            body += message.get("body", b"")
            if message["type"] == "http.disconnect" or not message.get("more_body"):
                break
        self.reached.append((scope, body))
        await send({"type": "http.response.start", "status": 299, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"{}"})


class Streaming(App):
    """Answers with a body of these parts, without a length."""

    def __init__(self, *parts):
        super().__init__()
        self.parts = parts

    async def __call__(self, scope, receive, send):
        if scope["path"] == "/openapi.json":
            await super().__call__(scope, receive, send)
            return
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for part in self.parts:
            await send({"type": "http.response.body", "body": part, "more_body": True})
        await send({"type": "http.response.body", "body": b""})
