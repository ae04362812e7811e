"""A GitHub and a GitLab on loopback: the REST calls that ops/ makes, answered as their documentation says. A stand-in.

Keeps every text that was ever written, so that a test can ask whether a secret was among them.
"""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit


class FakeForge:
    """Comments by pull request, issues by number; `token` is the one that is let in."""

    def __init__(self, token="forge-token-123"):
        self.token = token
        self.comments = {}  # id -> {"number", "body", "user"}
        self.issues = {}  # number -> {"title", "body", "labels", "state", "comments": [...]}
        self.written = []
        self.next_id = 1

    def __enter__(self):
        forge = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *_):
                pass

            def answer(self, status, body):
                data = json.dumps(body).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def do(self):
                length = int(self.headers.get("Content-Length") or 0)
                body = json.loads(self.rfile.read(length)) if length else {}
                mine = (f"Bearer {forge.token}", forge.token)
                if (self.headers.get("Authorization") or self.headers.get("PRIVATE-TOKEN")) not in mine:
                    return self.answer(401, {"message": "Bad credentials"})
                where = urlsplit(self.path)
                query = {key: values[0] for key, values in parse_qs(where.query).items()}
                if body:
                    forge.written.append(json.dumps(body, ensure_ascii=False))
                found = forge.handle(self.command, where.path.strip("/").split("/"), query, body)
                return self.answer(*found)

            do_GET = do_POST = do_PATCH = do_PUT = do

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        return self

    def __exit__(self, *_):
        self._server.shutdown()
        self._server.server_close()

    def add_comment(self, number, body, user="Bot"):
        self.comments[self._new()] = {"number": number, "body": body, "user": {"type": user}}

    def _new(self):
        self.next_id += 1
        return self.next_id - 1

    def texts(self, number):
        """Return the comments of a pull request."""
        return [one["body"] for one in self.comments.values() if one["number"] == number]

    def open_issues(self):
        return [one for one in self.issues.values() if one["state"] == "open"]

    def handle(self, method, path, query, body):
        if path[0] == "repos":
            return self._github(method, path[3:], query, body)
        return self._gitlab(method, path[2:], query, body)

    def _page(self, rows, query):
        size, page = int(query.get("per_page", 30)), int(query.get("page", 1))
        return 200, rows[(page - 1) * size : page * size]

    def _github(self, method, path, query, body):
        match method, path:
            case "GET", ["issues", number, "comments"]:
                rows = [{"id": id_, **one} for id_, one in self.comments.items() if one["number"] == int(number)]
                return self._page(rows, query)
            case "POST", ["issues", number, "comments"]:
                if int(number) in self.issues:
                    self.issues[int(number)]["comments"].append(body["body"])
                else:
                    self.add_comment(int(number), body["body"])
                return 201, {"html_url": f"{self.url}/comment"}
            case "PATCH", ["issues", "comments", id_]:
                self.comments[int(id_)]["body"] = body["body"]
                return 200, {"html_url": f"{self.url}/comment"}
            case "GET", ["issues"]:
                label = query["labels"]
                rows = [
                    {"number": number, "user": {"type": "Bot"}, **one}
                    for number, one in self.issues.items()
                    if one["state"] == query["state"] and label in one["labels"]
                ]
                return self._page(rows, query)
            case "POST", ["issues"]:
                number = self._new()
                self.issues[number] = {"state": "open", "comments": [], **body}
                return 201, {"html_url": f"{self.url}/issues/{number}"}
            case "PATCH", ["issues", number]:
                self.issues[int(number)] |= body
                return 200, {"html_url": f"{self.url}/issues/{number}"}
        return 404, {"message": "Not Found"}

    def _gitlab(self, method, path, query, body):
        match method, path:
            case "GET", ["merge_requests", number, "notes"]:
                rows = [{"id": id_, **one} for id_, one in self.comments.items() if one["number"] == int(number)]
                return self._page(rows, query)
            case "POST", ["merge_requests", number, "notes"]:
                self.add_comment(int(number), body["body"])
                return 201, {"id": self.next_id - 1}
            case "PUT", ["merge_requests", _, "notes", id_]:
                self.comments[int(id_)]["body"] = body["body"]
                return 200, {"id": int(id_)}
            case "GET", ["issues"]:
                rows = [
                    {"iid": number, "description": one["body"]}
                    for number, one in self.issues.items()
                    if one["state"] == "open" and query["labels"] in one["labels"]
                ]
                return self._page(rows, query)
            case "POST", ["issues"]:
                number = self._new()
                labels = body["labels"].split(",")
                title, text = body["title"], body["description"]
                self.issues[number] = {"state": "open", "comments": [], "title": title, "body": text, "labels": labels}
                return 201, {"web_url": f"{self.url}/issues/{number}"}
            case "PUT", ["issues", number]:
                if body.get("state_event") == "close":
                    self.issues[int(number)]["state"] = "closed"
                else:
                    self.issues[int(number)] |= {"title": body["title"], "body": body["description"]}
                return 200, {"web_url": f"{self.url}/issues/{number}"}
            case "POST", ["issues", number, "notes"]:
                self.issues[int(number)]["comments"].append(body["body"])
                return 201, {"id": self._new()}
        return 404, {"message": "404 Not Found"}
