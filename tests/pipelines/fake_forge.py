"""A fake GitHub and GitLab in a file, with fake `gh` and `glab` commands, for scripts/forge.sh.

`gh api` and `glab api` accept only flags of the real commands. Answers follow the documentation of the REST APIs. All
texts of requests are recorded, so that a test can search them for secrets.
"""

import argparse
import json
import os
import re
import sys
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

PROGRAM = """#!{python}
import sys
sys.path.insert(0, {repo!r})
from tests.pipelines.fake_forge import main
sys.exit(main({platform!r}, {folder!r}))
"""
EMPTY = {"comments": {}, "issues": {}, "written": [], "next_id": 1}


class FakeForge:
    """Comments by pull request, issues by number. `token`: the accepted token; `bin`: the folder for PATH."""

    def __init__(self, folder, token="forge-token-123"):
        self.token, self.bin, self._file = token, folder / "bin", folder / "forge.json"
        self.bin.mkdir(parents=True)
        self._save(EMPTY | {"token": token})
        repo = str(Path(__file__).parents[2])
        for name, platform in (("gh", "github"), ("glab", "gitlab")):
            program = self.bin / name
            program.write_text(PROGRAM.format(python=sys.executable, repo=repo, platform=platform, folder=str(folder)))
            program.chmod(0o755)

    def _save(self, state):
        self._file.write_text(json.dumps(state))

    def _load(self):
        return json.loads(self._file.read_text())

    @property
    def comments(self):
        return self._load()["comments"]

    @property
    def issues(self):
        return self._load()["issues"]

    @property
    def written(self):
        return self._load()["written"]

    def clear(self):
        self._save(EMPTY | {"token": self.token})

    def add_comment(self, number, body, user="Bot"):
        self.change("POST", ["issues", str(number), "comments"], {"body": body}, user=user)

    def texts(self, number):
        """Return the comments of a pull request."""
        return [comment["body"] for comment in self.comments.values() if comment["number"] == number]

    def open_issues(self):
        return [issue for issue in self.issues.values() if issue["state"] == "open"]

    def change(self, method, path, body, user="Bot"):
        state = self._load()
        response = github(state, method, path, {}, body, user)
        self._save(state)
        return response


def main(platform, folder):
    """Run as `gh` or `glab`; return the exit code."""
    parser = argparse.ArgumentParser(allow_abbrev=False)
    api = parser.add_subparsers(required=True).add_parser("api", allow_abbrev=False)
    api.add_argument("path")
    api.add_argument("--method", "-X", default="GET")
    api.add_argument("--field", "-F", action="append", default=[])
    api.add_argument("--raw-field", "-f", action="append", default=[])
    api.add_argument("--paginate", action="store_true")
    api.add_argument("--silent", action="store_true")
    args = parser.parse_args()
    file = Path(folder) / "forge.json"
    state = json.loads(file.read_text())
    if os.environ.get("GH_TOKEN" if platform == "github" else "GITLAB_TOKEN") != state["token"]:
        print("HTTP 401: Bad credentials", file=sys.stderr)
        return 1
    body = dict(word.split("=", 1) for word in args.raw_field)
    for key, text in (word.split("=", 1) for word in args.field):
        body[key] = Path(text[1:]).read_text() if text.startswith("@") else text
    url = urlsplit(args.path)
    query = {key: values[0] for key, values in parse_qs(url.query).items()}
    if body:
        state["written"].append(json.dumps(body, ensure_ascii=False))
    handle, parts = (github, 3) if platform == "github" else (gitlab, 2)
    response = handle(state, args.method, url.path.split("/")[parts:], query, body)
    if response is None:
        print(f"HTTP 404: {args.method} {args.path}", file=sys.stderr)
        return 1
    file.write_text(json.dumps(state))
    if isinstance(response, list) and not args.paginate:
        response = response[: int(query.get("per_page", 30))]
    if not args.silent:
        print(json.dumps(response))
    return 0


def new_id(state):
    state["next_id"] += 1
    return str(state["next_id"] - 1)


def github(state, method, path, query, body, user="Bot"):
    """Answer a call on a repository; return None if the route is unknown."""
    comments, issues = state["comments"], state["issues"]
    match method, path:
        case "GET", ["issues", number, "comments"]:
            return [{"id": int(id_), **row} for id_, row in comments.items() if row["number"] == int(number)]
        case "POST", ["issues", number, "comments"] if number in issues:
            issues[number]["comments"].append(body["body"])
        case "POST", ["issues", number, "comments"]:
            comments[new_id(state)] = {"number": int(number), "body": body["body"], "user": {"type": user}}
        case "PATCH", ["issues", "comments", id_]:
            comments[id_]["body"] = body["body"]
        case "GET", ["issues"]:
            rows = [(number, row) for number, row in issues.items() if row["state"] == query["state"]]
            rows = [(number, row) for number, row in rows if query["labels"] in row["labels"]]
            return [{"number": int(number), "user": {"type": user}, **row} for number, row in rows]
        case "POST", ["issues"]:
            fields = {"title": body["title"], "body": body["body"], "labels": [body["labels[]"]]}
            issues[new_id(state)] = {"state": "open", "comments": [], **fields}
        case "PATCH", ["issues", number]:
            issues[number] |= body
        case _:
            return None
    return {}


def gitlab(state, method, path, query, body):
    """Answer a call on a project; translate it to GitHub's API."""
    route = re.sub(r"^merge_requests/(\d+)/notes/(\d+)$", r"issues/comments/\2", "/".join(path))
    route = re.sub(r"^(merge_requests|issues)/(\d+)/notes$", r"issues/\2/comments", route)
    body = {{"description": "body", "state_event": "state", "labels": "labels[]"}.get(k, k): v for k, v in body.items()}
    if body.get("state") == "close":
        body["state"] = "closed"
    if "state" in query:
        query = query | {"state": {"opened": "open"}[query["state"]]}
    response = github(state, {"PUT": "PATCH"}.get(method, method), route.split("/"), query, body)
    if isinstance(response, list) and path == ["issues"]:
        return [{"iid": issue["number"], "description": issue["body"]} for issue in response]
    return response
