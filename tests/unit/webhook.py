"""A webhook on loopback that records the bodies of requests. Used by the tests of notices."""

import contextlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

TOKEN = "T000/B000/webhook-token-that-must-not-leak"


@contextlib.contextmanager
def running_webhook(*statuses):
    """Yield the URL of a webhook and its recorded bodies. It answers with `statuses` in order, then with the last."""
    bodies, remaining = [], list(statuses)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            bodies.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(remaining.pop(0) if len(remaining) > 1 else remaining[0])
            self.end_headers()

        def log_message(self, *_args):
            """Log nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/services/{TOKEN}", bodies
        finally:
            server.shutdown()
