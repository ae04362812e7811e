"""What a command of ops/ ends with: one exit code, one line, one remedy. Used by every command here.

The table `CODES` is the only place where a code gets its meaning; --help and docs/pipelines.md show it. `from_pulumi`
reads what the Pulumi CLI, its backend or this project's own resources said, and finds the code and the next step.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

OK, ERROR, USAGE, LEFT, SECRET, POLICY, NO_OFFER, DRIFT, BUSY, PENDING = range(10)

CODES: Mapping[int, str] = MappingProxyType(
    {
        OK: "done; in sync; nothing found",
        ERROR: "failed, for a reason that no other code names",
        USAGE: "a flag, a stack name or a config value is wrong",
        LEFT: "instances that no state knows were found and left",
        SECRET: "a secret is missing or wrong: passphrase, token or Vast.ai key",
        POLICY: "a policy or a protection blocks it",
        NO_OFFER: "the market has no offer that fits",
        DRIFT: "what runs is not what is declared",
        BUSY: "the stack is locked or half-way, or its backend or the Vast.ai API cannot be reached: try again",
        PENDING: "the program or its config has changes that are not deployed: heal, roll and rotate_key refuse",
    }
)


class OpsError(Exception):
    """A command cannot go on; `code` is one of CODES, `remedy` the next step (may be empty)."""

    def __init__(self, code: int, text: str, remedy: str = "") -> None:
        self.code = code
        self.text = text
        self.remedy = remedy
        super().__init__(f"{text}; {remedy}" if remedy else text)


@dataclass(frozen=True)
class ErrorPattern:
    """What a message looks like, the exit code that it means, and what to do about it."""

    pattern: re.Pattern[str]
    code: int
    remedy: str


def _pattern(pattern: str, code: int, remedy: str = "") -> ErrorPattern:
    return ErrorPattern(re.compile(pattern, re.IGNORECASE), code, remedy)


# Texts of Pulumi v3.259.0 and of this project's own errors, which name their remedy themselves where none stands here.
# The first that fits counts.
PATTERNS = (
    _pattern(r"^policy: ", POLICY),
    _pattern(r"\bprotected\b", POLICY, "set protect: off in Pulumi.<stack>.yaml and deploy that first, if it is meant"),
    _pattern(
        r"passphrase must be set",
        SECRET,
        "set PULUMI_CONFIG_PASSPHRASE (in a pipeline: a secret of that name) to the passphrase of this stack",
    ),
    _pattern(
        r"incorrect passphrase",
        SECRET,
        "PULUMI_CONFIG_PASSPHRASE is not the one that this stack was made with; set that one",
    ),
    _pattern(
        r"PULUMI_ACCESS_TOKEN must be set|invalid access token|not logged in|401: Unauthorized",
        SECRET,
        "set PULUMI_ACCESS_TOKEN, or set PULUMI_BACKEND_URL to a backend of your own (file://, s3://, gs://, azblob://)",
    ),
    _pattern(r"AuthError: ", SECRET),
    _pattern(
        r"no credential|NoCredentialProviders|AccessDenied|InvalidAccessKeyId|SignatureDoesNotMatch|"
        r"failed to refresh cached credentials|could not find default credentials",
        SECRET,
        "the backend refuses the credentials in the environment; set those of PULUMI_BACKEND_URL's store",
    ),
    _pattern(
        r"no stack named|stack .* not found",
        USAGE,
        "`pulumi stack ls` lists the stacks of this backend; make it with `pulumi stack init NAME`",
    ),
    _pattern(r"stack names? (may|must|cannot|can) ", USAGE, "choose letters, digits, hyphens, underscores and periods"),
    _pattern(r"unknown (flag|command)", USAGE),
    _pattern(
        r"no Pulumi project|no Pulumi\.yaml|could not find.*Pulumi\.yaml", USAGE, "--cwd names the project's folder"
    ),
    _pattern(r"emulator\.url: cannot reach", BUSY),
    _pattern(r"this stack's config is refused", USAGE, "correct it in Pulumi.<stack>.yaml"),
    _pattern(r"configuration (key|value)|Missing required configuration|is not a valid|must be of type", USAGE),
    _pattern(
        r"currently locked|conflict: Another update|another update is currently in progress",
        BUSY,
        "wait for the other run; if none is running, remove its lock with `pulumi cancel --stack NAME`",
    ),
    _pattern(r"NoOffer: |no offer fits", NO_OFFER, "relax the condition it names in Pulumi.<stack>.yaml, or try later"),
    _pattern(r"ApiUnreachable: |RateLimited: |cannot be reached from here", BUSY),
    _pattern(
        r"unable to open (state directory|bucket)|open bucket|performing HTTP request|blob \(|could not list|"
        r"dial tcp|no such host|connection refused|i/o timeout|TLS handshake",
        BUSY,
        "the state backend cannot be reached: check PULUMI_BACKEND_URL and the network, then run again",
    ),
)
_NOISE = re.compile(
    r"^(an unhandled error occurred: program exited|(preview|update|destroy|refresh) failed$|"
    r"no changes were expected)",
    re.IGNORECASE,
)
_HEAD = re.compile(
    r"^(error: |(Preview|Update|Creation|Deletion|Refresh|create|update|delete|refresh)\w* failed: )+", re.IGNORECASE
)
_PROBLEM = re.compile(r"^pulumi-python:dynamic/\S+ resource '[^']*' has a problem: ")


def strip_prefixes(message: str) -> str:
    """Return an error message as one line, without the engine's own wrapping."""
    text = _HEAD.sub("", " ".join(message.split()))
    return _PROBLEM.sub("", text).strip()


def from_pulumi(messages: list[str]) -> OpsError:
    """Return the error that these messages of a failed run amount to; the one with a known sign counts first."""
    texts = [text for text in map(strip_prefixes, messages) if text and not _NOISE.match(text)]
    for pattern in PATTERNS:
        for text in texts:
            if pattern.pattern.search(text):
                return OpsError(pattern.code, strip_class_name(text), pattern.remedy)
    return OpsError(
        ERROR, strip_class_name(texts[0]) if texts else "pulumi failed and said nothing", "its output is above"
    )


def strip_class_name(text: str) -> str:
    """Drop the class name of one of our errors ("NoOffer: no offer fits")."""
    return re.sub(r"^[A-Z]\w+: ", "", text)


def table() -> str:
    """Return the codes for --help."""
    return "exit codes:\n" + "\n".join(f"  {code}  {meaning}" for code, meaning in CODES.items())
