"""Comments and issues on GitHub and GitLab, found again by a mark in their text, over REST. Used by comment and issue.

Where to and with which token is in the environment that their CI sets: GITHUB_REPOSITORY, GITHUB_TOKEN,
GITHUB_API_URL; or CI_PROJECT_ID, GITLAB_TOKEN, CI_API_V4_URL. References: docs.github.com/rest (issues, comments),
docs.gitlab.com/api (notes, issues).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import requests
from requests.adapters import HTTPAdapter
from urllib3.util.retry import Retry

from ops.exits import BUSY, ERROR, SECRET, USAGE, OpsError

Json = Any
TIMEOUT_S = 30
PAGE = 100
MAX_CHARS = 60_000  # GitHub takes 65,536
RETRY = Retry(total=3, backoff_factor=0.5, status_forcelist=(502, 503, 504), allowed_methods=("GET", "PATCH", "PUT"))


@dataclass(frozen=True)
class Post:
    """A comment or an issue that is there: the number by which it is changed, its text."""

    id: int
    body: str


class Forge(Protocol):
    """What comment and issue need of a forge."""

    def comments(self, number: int) -> Iterator[Post]:
        """Return the comments of a pull or merge request that this CI may have written."""

    def comment(self, number: int, body: str, old: Post | None) -> str:
        """Write a comment, or change an old one; return its address."""

    def issues(self, label: str) -> Iterator[Post]:
        """Return the open issues with a label."""

    def open(self, title: str, body: str, label: str, old: Post | None) -> str:
        """Open an issue, or change an old one; return its address."""

    def close(self, old: Post, why: str) -> None:
        """Say why in a comment, and close the issue."""


def from_environment(env: Mapping[str, str]) -> Forge:
    """Return the forge whose CI this is. Raises OpsError where the environment names none, or has no token."""
    if env.get("GITHUB_REPOSITORY"):
        token = env.get("GITHUB_TOKEN") or env.get("GH_TOKEN") or ""
        if not token:
            raise OpsError(SECRET, "GITHUB_TOKEN is not set", "give the step `env: GITHUB_TOKEN: ${{ github.token }}`")
        url = env.get("GITHUB_API_URL") or "https://api.github.com"
        return GitHub(Rest(url, {"Authorization": f"Bearer {token}"}), env["GITHUB_REPOSITORY"], _is_bot(env))
    if env.get("CI_PROJECT_ID"):
        if not env.get("GITLAB_TOKEN"):
            raise OpsError(SECRET, "GITLAB_TOKEN is not set", "make a project access token with the scope api, masked")
        url = env.get("CI_API_V4_URL") or "https://gitlab.com/api/v4"
        return GitLab(Rest(url, {"PRIVATE-TOKEN": env["GITLAB_TOKEN"]}), env["CI_PROJECT_ID"])
    raise OpsError(USAGE, "no forge: neither GITHUB_REPOSITORY nor CI_PROJECT_ID is set", "set one, with its token")


def _is_bot(env: Mapping[str, str]) -> bool:
    return env.get("GITHUB_ACTIONS") == "true"


class Rest:
    """JSON over HTTP with one token, which stands in no error text."""

    def __init__(self, url: str, headers: Mapping[str, str]) -> None:
        self._url = url.rstrip("/")
        self._session = requests.Session()
        self._session.headers.update({**headers, "Accept": "application/json"})
        for scheme in ("https://", "http://"):
            self._session.mount(scheme, HTTPAdapter(max_retries=RETRY))

    def call(self, method: str, path: str, **body: Json) -> Json:
        """Return the answer's JSON. Raises OpsError."""
        try:
            answer = self._session.request(method, f"{self._url}{path}", json=body or None, timeout=TIMEOUT_S)
        except requests.RequestException as error:
            raise OpsError(BUSY, f"{method} {self._url}{path}: {type(error).__name__}", "run again") from None
        if answer.status_code in (401, 403):
            raise OpsError(
                SECRET,
                f"{method} {path}: HTTP {answer.status_code} {_said(answer)}",
                "the token lacks a right: pull-requests: write for comments, issues: write; GitLab: scope api",
            )
        if not answer.ok:
            raise OpsError(ERROR, f"{method} {path}: HTTP {answer.status_code} {_said(answer)}")
        return answer.json() if answer.content else None

    def pages(self, path: str) -> Iterator[Json]:
        """Return the items of all pages."""
        page = 1
        while True:
            items = self.call("GET", f"{path}{'&' if '?' in path else '?'}per_page={PAGE}&page={page}")
            yield from items
            if len(items) < PAGE:
                return
            page += 1


def _said(answer: requests.Response) -> str:
    try:
        return str(answer.json().get("message", ""))[:200]
    except (ValueError, AttributeError):
        return ""


@dataclass(frozen=True)
class GitHub:
    """One repository. As a bot, only what bots wrote is taken for its own: anyone can write a mark."""

    rest: Rest
    repository: str
    bot: bool

    def comments(self, number: int) -> Iterator[Post]:
        """See Forge."""
        for one in self.rest.pages(f"/repos/{self.repository}/issues/{number}/comments"):
            if not self.bot or (one.get("user") or {}).get("type") == "Bot":
                yield Post(int(one["id"]), str(one.get("body") or ""))

    def comment(self, number: int, body: str, old: Post | None) -> str:
        """See Forge."""
        base = f"/repos/{self.repository}/issues"
        if old is not None:
            return str(self.rest.call("PATCH", f"{base}/comments/{old.id}", body=body)["html_url"])
        return str(self.rest.call("POST", f"{base}/{number}/comments", body=body)["html_url"])

    def issues(self, label: str) -> Iterator[Post]:
        """See Forge."""
        for one in self.rest.pages(f"/repos/{self.repository}/issues?state=open&labels={label}"):
            mine = not self.bot or (one.get("user") or {}).get("type") == "Bot"
            if mine and "pull_request" not in one:
                yield Post(int(one["number"]), str(one.get("body") or ""))

    def open(self, title: str, body: str, label: str, old: Post | None) -> str:
        """See Forge."""
        base = f"/repos/{self.repository}/issues"
        if old is not None:
            return str(self.rest.call("PATCH", f"{base}/{old.id}", title=title, body=body)["html_url"])
        return str(self.rest.call("POST", base, title=title, body=body, labels=[label])["html_url"])

    def close(self, old: Post, why: str) -> None:
        """See Forge."""
        base = f"/repos/{self.repository}/issues/{old.id}"
        self.rest.call("POST", f"{base}/comments", body=why)
        self.rest.call("PATCH", base, state="closed", state_reason="completed")


@dataclass(frozen=True)
class GitLab:
    """One project."""

    rest: Rest
    project: str

    def comments(self, number: int) -> Iterator[Post]:
        """See Forge."""
        for one in self.rest.pages(f"/projects/{self.project}/merge_requests/{number}/notes"):
            yield Post(int(one["id"]), str(one.get("body") or ""))

    def comment(self, number: int, body: str, old: Post | None) -> str:
        """See Forge."""
        base = f"/projects/{self.project}/merge_requests/{number}/notes"
        done = self.rest.call("PUT", f"{base}/{old.id}", body=body) if old else self.rest.call("POST", base, body=body)
        return f"note {done['id']}"

    def issues(self, label: str) -> Iterator[Post]:
        """See Forge."""
        for one in self.rest.pages(f"/projects/{self.project}/issues?state=opened&labels={label}"):
            yield Post(int(one["iid"]), str(one.get("description") or ""))

    def open(self, title: str, body: str, label: str, old: Post | None) -> str:
        """See Forge."""
        base = f"/projects/{self.project}/issues"
        if old is not None:
            return str(self.rest.call("PUT", f"{base}/{old.id}", title=title, description=body)["web_url"])
        return str(self.rest.call("POST", base, title=title, description=body, labels=label)["web_url"])

    def close(self, old: Post, why: str) -> None:
        """See Forge."""
        base = f"/projects/{self.project}/issues/{old.id}"
        self.rest.call("POST", f"{base}/notes", body=why)
        self.rest.call("PUT", base, state_event="close")


def marked(key: str, text: str) -> str:
    """Return a text with the mark by which it is found again; too long a text is cut, and says so."""
    mark = mark_of(key)
    if len(text) > MAX_CHARS:
        text = text[:MAX_CHARS] + "\n\n(cut: the whole text is in the job's log)"
    return f"{mark}\n{text}"


def mark_of(key: str) -> str:
    """Return the mark of a key: a comment that readers do not see."""
    return f"<!-- vast-reranker ops: {key} -->"
