"""What people and pipelines may read of text that others wrote: hosts, servers, the API. Without secrets and controls.

Called where such text comes in (`models`, the clients), and where text goes out: to the engine, and from ops.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

MASK = "[redacted]"
SHOWN_CHARS = 300
CUT_CHARS = 20_000  # what is looked at of a longer text
# Shapes that are secrets whoever made them: bearer headers, hub tokens, PEM keys, KEY=value of telling names. A host
# writes the text: each pattern takes time linear in it, so what repeats is possessive or bounded.
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
_LEAST = 6  # shorter values ("1", "true") are not secrets and would blank out ordinary words


_ESCAPE = re.compile(r"\x1b(?:\[[0-?]{0,32}[ -/]{0,8}[@-~]|\][^\x07\x1b]{0,200}(?:\x07|\x1b\\)?)")
# control characters but for the ends of lines and tabs, other ends of lines, and what turns the direction of writing
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff]")
# a line that a pipeline's runner obeys: ::name at its start on GitHub, ##[name] or ##vso[name] anywhere
_COMMAND = re.compile(r"^([^\S\n]*:)(?=:)|(##)(?=\w{0,20}\[)", re.MULTILINE)


def plain(text: str) -> str:
    """Return text that neither a terminal nor a pipeline's runner obeys: without controls, commands broken."""
    return _without_commands(_printable(text))


def scrub(text: str, secrets: Iterable[str] = ()) -> str:
    """Return `plain` text without any of `secrets` (longest first) and without what looks like a credential."""
    text = _printable(text)
    for secret in sorted({value for value in secrets if len(value) >= _LEAST}, key=len, reverse=True):
        text = text.replace(secret, MASK)
    for shape, replacement in _SHAPES:
        text = shape.sub(replacement, text)
    return _without_commands(text)


def excerpt(text: str, secrets: Iterable[str] = (), *, chars: int = SHOWN_CHARS) -> str:
    """Return another's words in one line, scrubbed and cut."""
    line = " ".join(scrub(text[:CUT_CHARS], secrets).split())
    return line if len(line) <= chars else line[:chars] + "..."


def tail(text: str, secrets: Iterable[str] = (), *, lines: int = 20, chars: int = 2000) -> str:
    """Return the last lines of a log, bounded both ways, scrubbed."""
    return "\n".join(scrub(text[-CUT_CHARS:], secrets).strip().splitlines()[-lines:])[-chars:]


def _printable(text: str) -> str:
    return _CONTROL.sub(" ", _ESCAPE.sub("", text))


def _without_commands(text: str) -> str:
    return _COMMAND.sub(lambda found: f"{found[0]}\u200b", text)
