"""A webhook on loopback that keeps what it is told. Used by the tests of notices."""

import contextlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

TOKEN = "T000/B000/webhook-token-that-must-not-leak"


@contextlib.contextmanager
def sink(*statuses):
    """Yield the address of a webhook that answers with these statuses, the last one for ever, and its bodies."""
    bodies, left = [], list(statuses)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            bodies.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(left.pop(0) if len(left) > 1 else left[0])
            self.end_headers()

        def log_message(self, *_args):
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/services/{TOKEN}", bodies
        finally:
            server.shutdown()
