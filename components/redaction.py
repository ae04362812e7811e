"""Removes secrets and control characters from foreign text: of hosts, servers and the API.

Called for text from outside (`models`, the clients), and for text to the engine and from ops.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

MASK = "[redacted]"
SHOWN_CHARS = 300
CUT_CHARS = 20_000  # only so many characters of a longer text are read
# Typical secrets: bearer headers, hub tokens, PEM keys, KEY=value with names of secrets. A host may write hostile text:
# each pattern takes time linear in it, so repetitions are possessive or bounded.
_SHAPES = (
    (re.compile(r"(?i)(bearer\s++)[^\s\"',;]++"), r"\1" + MASK),
    (re.compile(r"\bhf_[A-Za-z0-9]{8,}+"), MASK),
    (
        re.compile(
            r"-----BEGIN [A-Z ]{0,30}PRIVATE KEY-----.*?(?:-----END [A-Z ]{0,30}PRIVATE KEY-----|\Z)", re.DOTALL
        ),
        MASK,
    ),
    (
        re.compile(
            r"(?i)((?:api_?key|token|secret|password)[A-Z0-9_]{0,64}+[\"']?\s{0,8}+[=:]\s{0,8}+[\"']?)[^\s\"',;&]{6,}+"
        ),
        r"\1" + MASK,
    ),
)
_MIN_CHARS = 6  # shorter values ("1", "true") are no secrets and would mask ordinary words
_ESCAPE = re.compile(r"\x1b(?:\[[0-?]{0,32}[ -/]{0,8}[@-~]|\][^\x07\x1b]{0,200}(?:\x07|\x1b\\)?)")
# control characters except newline and tab, other line separators, and marks that change the text direction
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff]")
# commands to a pipeline's runner: ::name at the start of a line on GitHub, ##[name] or ##vso[name] anywhere
_COMMAND = re.compile(r"^([^\S\n]*:)(?=:)|(##)(?=\w{0,20}\[)", re.MULTILINE)


def plain(text: str) -> str:
    """Return text without commands to a terminal or to a pipeline's runner."""
    return _without_commands(_printable(text))


def scrub(text: str, secrets: Iterable[str] = ()) -> str:
    """Return `plain` text without `secrets` (longest first) and without text that looks like a credential."""
    text = _printable(text)
    for secret in sorted({value for value in secrets if len(value) >= _MIN_CHARS}, key=len, reverse=True):
        text = text.replace(secret, MASK)
    for shape, replacement in _SHAPES:
        text = shape.sub(replacement, text)
    return _without_commands(text)


def excerpt(text: str, secrets: Iterable[str] = (), *, chars: int = SHOWN_CHARS) -> str:
    """Return a foreign text in one line, scrubbed and cut."""
    line = " ".join(scrub(text[:CUT_CHARS], secrets).split())
    return line if len(line) <= chars else line[:chars] + "..."


def tail(text: str, secrets: Iterable[str] = (), *, lines: int = 20, chars: int = 2000) -> str:
    """Return the last lines of a log, at most `lines` and `chars`, scrubbed."""
    return "\n".join(scrub(text[-CUT_CHARS:], secrets).strip().splitlines()[-lines:])[-chars:]


def _printable(text: str) -> str:
    return _CONTROL.sub(" ", _ESCAPE.sub("", text))


def _without_commands(text: str) -> str:
    return _COMMAND.sub(lambda match: f"{match[0]}\u200b", text)
